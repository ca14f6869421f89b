"""How often does each interval of a report cover the truth? Simulated, for docs/statistics.md.

    python benchmarks/coverage.py --out docs/statistics.md

writes the tables between the marks of that page (without --out it prints them), from 4000 samples
a number in about five minutes on one core. Every method of `estbench.report.methods` is run through
the function that the report itself calls.
"""

from __future__ import annotations

import argparse
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from estbench.meter.moments import Moments, Reference
from estbench.report import methods
from estbench.report.improvement import Duel
from estbench.report.learning import median_time
from estbench.report.scores import (
    STATISTICS,
    bootstrap_rows,
    interquartile_mean,
    interquartile_means,
    median_interval,
)
from estbench.report.statistics import (
    Estimate,
    add_independent,
    interval_frame,
    mean_interval,
    paired_difference,
    root,
)
from estbench.report.tails import too_narrow

SEEDS = (5, 10, 20)
ROUNDS = 8  # of the timing pass
DRAWS = (128, 512, 2048)
TRIALS = 4000
BEGIN, END = "<!-- coverage: begin -->", "<!-- coverage: end -->"

Array = NDArray[np.float64]
Law = Callable[[np.random.Generator, tuple[int, ...]], Array]

LAWS: dict[str, Law] = {
    "normal": lambda rng, size: rng.normal(size=size),
    "skewed (lognormal)": lambda rng, size: np.exp(rng.normal(size=size)),
    "heavy tails (t, 3 df)": lambda rng, size: rng.standard_t(3, size=size),
}
MEANS = {"normal": 0.0, "skewed (lognormal)": math.exp(0.5), "heavy tails (t, 3 df)": 0.0}
MEDIANS = {"normal": 0.0, "skewed (lognormal)": 1.0, "heavy tails (t, 3 df)": 0.0}


@dataclass(frozen=True)
class Row:
    """How often a method covered, for each number of seeds.

    Attributes:
      method: A key of METHODS.
      of: What the data are.
      covered: Share of the samples, one a number of seeds.
    """

    method: str
    of: str
    covered: tuple[float, ...]


@dataclass(frozen=True)
class Measured:
    """How the meter did with one law and number of draws.

    Attributes:
      of: The law of a draw's length.
      kurtosis: Of the law; infinite if it has none.
      draws: Of a measurement.
      covered: Share of measurements whose interval holds the variance.
      bias_covered: The same of the interval of the bias, which is zero.
      flagged: Share that the report calls heavy-tailed.
      lean: Mean log of measured over true variance.
    """

    of: str
    kurtosis: float
    draws: int
    covered: float
    bias_covered: float
    flagged: float
    lean: float


def stream(*key: object) -> np.random.Generator:
    """Return a generator of its own for every row and number of seeds."""
    return np.random.default_rng(zlib.crc32("/".join(map(str, key)).encode()))


def holds(found: Estimate, truth: float) -> float:
    """Return 1 or 0, or nan where the method gives no interval."""
    return math.nan if math.isnan(found.low) else float(found.low <= truth <= found.high)


def t_rows(trials: int) -> Iterator[Row]:
    """Means: half of the samples one by one and paired, half all at once as curves are."""
    for law, draw in LAWS.items():
        covered = []
        for n in SEEDS:
            rng = stream(methods.T, law, n)
            samples, common = draw(rng, (trials, n)), rng.normal(size=(trials, n))
            half = trials // 2
            single = [
                holds(paired_difference(pd.Series(x + c), pd.Series(c)), MEANS[law])
                for x, c in zip(samples[:half], common[:half], strict=True)
            ]
            frame = pd.DataFrame(
                {"trial": np.repeat(np.arange(trials - half), n), "x": samples[half:].ravel()}
            )
            bands = interval_frame(frame, ["trial"], "x")
            inside = (bands["low"] <= MEANS[law]) & (bands["high"] >= MEANS[law])
            covered.append(float(np.mean([*single, *inside])))
        yield Row(methods.T, law, tuple(covered))


def t_logs_rows(trials: int) -> Iterator[Row]:
    """Ratios: values whose logs have each law, through logs and back."""
    for law, draw in LAWS.items():
        truth = math.exp(0.3 * MEANS[law])
        covered = [
            np.mean(
                [
                    holds(mean_interval(np.log(values)).exp(), truth)
                    for values in np.exp(0.3 * draw(stream(methods.T_LOGS, law, n), (trials, n)))
                ]
            )
            for n in SEEDS
        ]
        yield Row(methods.T_LOGS, f"logs: {law}", tuple(map(float, covered)))


def welch_rows(trials: int) -> Iterator[Row]:
    """Sums of two independent means: n seeds of one law, eight rounds with a tenth of its noise."""
    for law, draw in LAWS.items():
        covered = []
        for n in SEEDS:
            rng = stream(methods.WELCH, law, n)
            seeds, rounds = draw(rng, (trials, n)), 0.3 * rng.normal(size=(trials, ROUNDS))
            found = [
                add_independent(mean_interval(a), mean_interval(b))
                for a, b in zip(seeds, rounds, strict=True)
            ]
            covered.append(float(np.mean([holds(one, MEANS[law]) for one in found])))
        yield Row(methods.WELCH, f"logs: {law}; {ROUNDS} rounds, normal", tuple(covered))


def root_rows(trials: int) -> Iterator[Row]:
    """Relative biases: a squared bias of one standard deviation, and none."""
    for squared in (0.0, 1.0):
        for law, draw in LAWS.items():
            covered = []
            for n in SEEDS:
                samples = (
                    squared
                    + draw(stream(methods.ROOT_T, squared, law, n), (trials, n))
                    - MEANS[law]
                )
                truth = math.sqrt(squared)
                covered.append(
                    float(np.mean([holds(root(mean_interval(x)), truth) for x in samples]))
                )
            of = f"{'a bias' if squared else 'no bias'}, noise {law}"
            yield Row(methods.ROOT_T, of, tuple(covered))


def trimmed_rows(trials: int) -> Iterator[Row]:
    """Interquartile means."""
    for law, draw in LAWS.items():
        truth = _interquartile_mean(law)
        covered = [
            float(
                np.mean(
                    [
                        holds(interquartile_mean(x), truth)
                        for x in draw(stream(methods.TRIMMED_T, law, n), (trials, n))
                    ]
                )
            )
            for n in SEEDS
        ]
        yield Row(methods.TRIMMED_T, law, tuple(covered))


def order_rows(trials: int) -> Iterator[Row]:
    """Medians."""
    for law, draw in LAWS.items():
        covered = [
            float(
                np.mean(
                    [
                        holds(median_interval(x), MEDIANS[law])
                        for x in draw(stream(methods.ORDER_STATISTICS, law, n), (trials, n))
                    ]
                )
            )
            for n in SEEDS
        ]
        yield Row(methods.ORDER_STATISTICS, law, tuple(covered))


def bootstrap_rows_of(trials: int) -> Iterator[Row]:
    """The percentile bootstrap of all three statistics."""
    for statistic in STATISTICS:
        for law, draw in LAWS.items():
            truth = {
                "mean": MEANS[law],
                "median": MEDIANS[law],
                "interquartile mean": _interquartile_mean(law),
            }[statistic]
            covered = []
            for n in SEEDS:
                samples = draw(stream(methods.BOOTSTRAP, statistic, law, n), (trials, n))
                ends = [
                    bootstrap_rows(part, statistic)
                    for part in np.array_split(samples, max(1, trials // 500))
                ]
                low, high = (np.concatenate(parts) for parts in zip(*ends, strict=True))
                covered.append(float(np.mean((low <= truth) & (truth <= high))))
            yield Row(methods.BOOTSTRAP, f"{statistic}; {law}", tuple(covered))


def sign_rows(trials: int) -> Iterator[Row]:
    """Probabilities that one beats another; scores of any law give only signs."""
    for win, tie in ((0.5, 0.0), (0.8, 0.0), (0.95, 0.0), (0.5, 0.2)):
        covered = []
        for n in SEEDS:
            counts = stream(methods.CLOPPER_PEARSON, win, tie, n).multinomial(
                n, (win, tie, 1 - win - tie), trials
            )
            truth = win + tie / 2
            found = [Duel(*map(int, row)).estimate for row in counts]
            covered.append(float(np.mean([holds(one, truth) for one in found])))
        of = f"wins in {100 * win:.0f} %" + (f", ties in {100 * tie:.0f} %" if tie else "")
        yield Row(methods.CLOPPER_PEARSON, f"{of}; scores of any law", tuple(covered))


def survival_rows(trials: int) -> Iterator[Row]:
    """Medians of times, in batches, with and without runs that end before."""
    times: dict[str, Law] = {
        "log times normal": lambda rng, size: np.exp(0.5 * rng.normal(size=size)),
        "times skewed (geometric)": lambda rng, size: rng.geometric(0.1, size).astype(np.float64),
        "log times heavy (t, 3 df)": lambda rng, size: np.exp(0.3 * rng.standard_t(3, size=size)),
    }
    medians = {"times skewed (geometric)": 7.0}
    for law, draw in times.items():
        sorted_draws = np.sort(draw(np.random.default_rng(0), (200_000,)))
        for share in (1.0, 0.7):
            end = math.inf if share == 1.0 else float(sorted_draws[int(share * 200_000)])
            covered = []
            for n in SEEDS:
                samples = draw(stream(methods.KAPLAN_MEIER, law, share, n), (trials // 2, n))
                found = [median_time(np.minimum(x, end), x <= end) for x in samples]
                covered.append(float(np.mean([holds(one, medians.get(law, 1.0)) for one in found])))
            reach = "all reach it" if share == 1.0 else "3 of 10 never reach it"
            yield Row(methods.KAPLAN_MEIER, f"{law}; {reach}", tuple(covered))


SIMULATIONS: dict[str, Callable[[int], Iterator[Row]]] = {
    methods.T: t_rows,
    methods.T_LOGS: t_logs_rows,
    methods.WELCH: welch_rows,
    methods.ROOT_T: root_rows,
    methods.TRIMMED_T: trimmed_rows,
    methods.ORDER_STATISTICS: order_rows,
    methods.BOOTSTRAP: bootstrap_rows_of,
    methods.CLOPPER_PEARSON: sign_rows,
    methods.KAPLAN_MEIER: survival_rows,
}
"""Those over seeds; `measure` simulates the two of a single measurement."""


class Draws:
    """Gradients ``[n, d]``, seen as the meter sees those of a policy."""

    def __init__(self, gradients: Array) -> None:
        self.gradients = torch.from_numpy(gradients)
        self.draws = len(gradients)
        self.sums = [self.gradients.sum(0)]

    def squared_norms(self) -> torch.Tensor:
        return (self.gradients**2).sum(1)

    def squared_norms_by_tensor(self) -> torch.Tensor:
        return self.squared_norms()[None]

    def dots(self, other: list[torch.Tensor]) -> torch.Tensor:
        return self.gradients @ other[0]


def lengths() -> dict[str, tuple[Law, float, float]]:
    """Return laws of a draw's length: how to draw it, mean square, mean fourth power."""
    found: dict[str, tuple[Law, float, float]] = {
        "normal gradients": (lambda rng, size: np.ones(size), 1.0, 1.0)
    }
    for sigma in (0.5, 0.7, 1.0, 1.2):
        found[f"lognormal lengths, sigma {sigma}"] = (
            lambda rng, size, s=sigma: np.exp(s * rng.normal(size=size)),  # type: ignore[misc]
            math.exp(2 * sigma**2),
            math.exp(8 * sigma**2),
        )
    found["t gradients, 3 df"] = (
        lambda rng, size: np.sqrt(3.0 / rng.chisquare(3, size)),
        3.0,
        math.inf,
    )
    found["1 draw in 50 is all"] = (
        lambda rng, size: np.where(rng.random(size) < 0.02, math.sqrt(50.0), 0.05),
        1.0 + 0.98 * 0.0025,
        50.0,
    )
    return found


def measure(trials: int, size: int = 8) -> list[Measured]:
    """Simulate the meter: gradients in `size` dimensions, known variance, no bias."""
    rows = []
    for of, (draw, square, fourth) in lengths().items():
        for n in DRAWS:
            rng = stream(methods.METER_VARIANCE, of, n)
            found = [_measurement(rng, draw, n, size, square) for _ in range(trials)]
            covered, bias, flagged, lean = np.nanmean(found, axis=0)
            kurtosis = fourth / square**2 * (1.0 + 2.0 / size)
            rows.append(Measured(of, kurtosis, n, covered, bias, flagged, lean))
    return rows


def _measurement(
    rng: np.random.Generator, draw: Law, n: int, size: int, square: float
) -> tuple[float, float, float, float]:
    """Return whether variance and bias were covered, whether it is flagged, and the log error."""
    gradients = 0.1 + draw(rng, (n,))[:, None] * rng.normal(size=(n, size))
    mean = torch.full((size,), 0.1, dtype=torch.float64)
    moments = Moments(Reference([mean], 0.0), ["all"])
    moments.add(Draws(gradients))  # type: ignore[arg-type]
    found = {str(k): v for k, v in moments.summary(1).items()}
    truth = square * size
    low, high, variance, kurtosis, bias_low = (
        float(found[name])  # type: ignore[arg-type]
        for name in ("variance_low", "variance_high", "total_variance", "kurtosis", "bias_low")
    )
    return (
        float(low <= truth <= high),
        float(bias_low <= 0.0),
        float(too_narrow(kurtosis, n)),
        math.log(variance / truth),
    )


def _interquartile_mean(law: str) -> float:
    """Return the mean of the middle half of a law: by symmetry, or from a large sample."""
    if MEDIANS[law] == 0.0:
        return 0.0
    return float(interquartile_means(LAWS[law](np.random.default_rng(1), (4_000_000,))))


def simulate(trials: int = TRIALS, only: tuple[str, ...] = ()) -> list[Row]:
    """Return the rows of the methods over seeds, or of some."""
    return [
        row for name, run in SIMULATIONS.items() if not only or name in only for row in run(trials)
    ]


def tables(rows: list[Row], measured: list[Measured], trials: int) -> str:
    """Return the Markdown of both tables, with the simulation's own error."""
    error = 100 * math.sqrt(0.95 * 0.05 / trials)
    lines = [
        f"Coverage in per cent of intervals that say 95, from {trials} samples a number (half as "
        f"many for Kaplan-Meier): the simulation's own standard error is {error:.1f} at 95 and "
        f"{100 * math.sqrt(0.25 * 0.75 / trials):.1f} at 75. **Bold**: below 93. A dash: no such "
        "interval exists.",
        "",
        "| method | data | " + " | ".join(f"n = {n}" for n in SEEDS) + " |",
        "|---|---|" + "---|" * len(SEEDS),
    ]
    lines += [
        f"| {row.method} | {row.of} | {' | '.join(_cell(x) for x in row.covered)} |" for row in rows
    ]
    few = max(1, trials // 4)
    lines += [
        "",
        f"One measurement of many draws, {few} a row (standard error "
        f"{100 * math.sqrt(0.95 * 0.05 / few):.1f} at 95): coverage of the interval of its "
        "variance and of its bias, the share that the report calls heavy-tailed, and the mean log "
        "of measured over true variance.",
        "",
        f"| law of the draws | kurtosis | draws | {methods.METER_VARIANCE} | "
        f"{methods.METER_BIAS} | called heavy | log leans by |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {m.of} | {m.kurtosis:.3g} | {m.draws} | {_cell(m.covered)} | {_cell(m.bias_covered)} | "
        f"{100 * m.flagged:.0f} % | {m.lean:+.2f} |".replace("inf", "infinite")
        for m in measured
    ]
    return "\n".join(lines)


def _cell(covered: float) -> str:
    if math.isnan(covered):
        return "–"
    text = f"{100 * covered:.1f}"
    return f"**{text}**" if float(text) < 93.0 else text


def write(page: Path, text: str) -> None:
    """Put the tables between the marks of the page."""
    whole = page.read_text(encoding="utf-8")
    if BEGIN not in whole or END not in whole:
        raise SystemExit(f"{page} has no place for the tables: it needs {BEGIN} and {END}")
    before, after = whole[: whole.index(BEGIN)], whole[whole.index(END) :]
    page.write_text(f"{before}{BEGIN}\n{text}\n{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--out", type=Path, help="a page with the marks; otherwise print")
    given = parser.parse_args()
    torch.set_num_threads(1)
    text = tables(simulate(given.trials), measure(max(1, given.trials // 4)), given.trials)
    if given.out:
        write(given.out, text)
    else:
        print(text)


if __name__ == "__main__":
    main()

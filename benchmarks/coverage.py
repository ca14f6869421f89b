"""How often does each interval of a report cover the truth? Simulated, for docs/statistics.md.

    python benchmarks/coverage.py --out docs/statistics.md

writes the tables between the marks of that page (without --out it prints them), from 4000 samples
a number in about eight minutes on one core. Every method of `estbench.report.data.methods` is run
through the function that the report itself calls.
"""

from __future__ import annotations

import argparse
import math
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from estbench.meter.moments import Moments, Reference, tail_index
from estbench.report.data import methods
from estbench.report.data.duels import Duel
from estbench.report.data.learning import median_time
from estbench.report.data.ratios import bound_of, log_ratio
from estbench.report.data.scores import (
    STATISTICS,
    bootstrap_rows,
    interquartile_mean,
    interquartile_means,
    median_interval,
)
from estbench.report.data.statistics import (
    Estimate,
    add_independent,
    interval_frame,
    logs,
    mean_interval,
    root,
)
from estbench.report.data.tails import heavy, too_narrow
from estbench.report.data.trajectory import Measured

SEEDS = (5, 10, 20)
ROUNDS = 8  # of the timing pass
DRAWS = (128, 512, 2048)
RATIO_DRAWS = (1024, 2048)
RATIO_SEEDS, SNAPSHOTS = 8, 9  # of a trajectory
FEWEST = 20  # trials, below which a share of them is no number
SIZE = 8  # dimensions of a gradient
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
class Measurement:
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


@dataclass(frozen=True)
class BiasRow:
    """How often the interval of one measurement's bias covered a bias that is not zero.

    Attributes:
      noise: Where the noise of the draws lies.
      size: The bias, in roots of the noise of the measured mean.
      covered: Share of the measurements, one a number of draws.
    """

    noise: str
    size: float
    covered: tuple[float, ...]


@dataclass(frozen=True)
class Covered:
    """How the intervals of one kind of ratio did.

    Attributes:
      covered: Share of the ratios whose interval holds the true one.
      heavy: Share of which only a bound is reported.
      quiet: Coverage where an interval is reported; nan from too few.
      bound: Share of the bounds that hold; nan from too few.
    """

    covered: float
    heavy: float
    quiet: float
    bound: float


@dataclass(frozen=True)
class RatioRow:
    """How ratios of a law's variance and one of normal gradients did.

    Attributes:
      of: The law of a draw's length.
      draws: Of a measurement.
      trajectory: Of the noise of a trajectory.
      snapshot: Of one snapshot.
    """

    of: str
    draws: int
    trajectory: Covered
    snapshot: Covered


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
                holds(mean_interval(pd.Series(x + c) - pd.Series(c)), MEANS[law])
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
    for a in (3.0, 2.5):
        found[f"Pareto lengths, index {a:g}"] = (
            lambda rng, size, a=a: (1.0 - rng.random(size)) ** (-1.0 / a),  # type: ignore[misc]
            a / (a - 2.0),
            math.inf,
        )
    for rarity in (500, 2000, 10_000):
        for times in (10.0, 60.0):
            found[f"1 draw in {rarity} is {times:g} times as long"] = (
                lambda rng, size, p=1 / rarity, x=times: np.where(rng.random(size) < p, x, 1.0),  # type: ignore[misc]
                1.0 + (times**2 - 1.0) / rarity,
                1.0 + (times**4 - 1.0) / rarity,
            )
    return found


def measure(trials: int, only: Collection[str] = ()) -> list[Measurement]:
    """Simulate the meter, in sets of eight seeds: known variance, no bias."""
    rows = []
    for of, (draw, square, fourth) in lengths().items():
        for n in DRAWS if not only or of in only else ():
            rng = stream(methods.METER_VARIANCE, of, n)
            found = pd.DataFrame([_measurement(rng, draw, n, square) for _ in range(trials)])
            found = found.assign(task="", estimator="", snapshot=found.index // RATIO_SEEDS)
            kurtosis = fourth / square**2 * (1.0 + 2.0 / SIZE)
            means = found[["covered", "bias", "lean"]].mean()
            row = (means["covered"], means["bias"], float(too_narrow(found).mean()), means["lean"])
            rows.append(Measurement(of, kurtosis, n, *row))
    return rows


def _measurement(rng: np.random.Generator, draw: Law, n: int, square: float) -> dict[str, float]:
    """Return whether variance and bias were covered, the log error, and what shows the tail."""
    gradients = 0.1 + draw(rng, (n,))[:, None] * rng.normal(size=(n, SIZE))
    found = _summary(gradients, torch.full((SIZE,), 0.1, dtype=torch.float64))
    truth = square * SIZE
    return {
        "covered": float(found["variance_low"] <= truth <= found["variance_high"]),
        "bias": float(found["bias_low"] <= 0.0),
        "lean": math.log(found["total_variance"] / truth),
        "kurtosis": found["kurtosis"],
        "draws": n,
        "tail_index": found["tail_index"],
    }


NOISE: dict[str, tuple[float, ...]] = {
    "all along the bias": (1.0, *(0.0,) * 7),
    "nine tenths along the bias": (0.9, *(0.1 / 7,) * 7),
    f"even over {SIZE} directions": (1.0 / SIZE,) * SIZE,
    "all across the bias, on a line": (0.0, 1.0, *(0.0,) * 6),
}
"""Variances of a draw along its axes, of which the bias lies along the first."""

BIASES = (0.5, 1.0, 2.0, 4.0)


def bias_rows(trials: int, only: Collection[str] = ()) -> list[BiasRow]:
    """Simulate measurements of a known bias: normal draws of variance 1, a gradient of length 1."""
    rows = []
    for where, variances in NOISE.items():
        for size in BIASES if not only or where in only else ():
            covered = []
            for n in DRAWS:
                rng, bias = stream(methods.METER_BIAS, where, size, n), size / math.sqrt(n)
                found = [_bias_covered(rng, n, bias, variances) for _ in range(trials)]
                covered.append(float(np.mean(found)))
            rows.append(BiasRow(where, size, tuple(covered)))
    return rows


def _bias_covered(
    rng: np.random.Generator, n: int, bias: float, variances: tuple[float, ...]
) -> bool:
    """Return whether the interval of one measurement holds the bias."""
    gradients = np.sqrt(variances) * rng.normal(size=(n, SIZE))
    truth = torch.zeros(SIZE, dtype=torch.float64)
    truth[-1] = 1.0
    gradients[:, -1] += 1.0
    gradients[:, 0] += bias
    found = _summary(gradients, truth)
    return found["bias_low"] <= bias <= found["bias_high"]


def _summary(gradients: Array, truth: torch.Tensor) -> dict[str, float]:
    """Return what the meter says of draws ``[n, d]`` beside the exact gradient ``[d]``."""
    moments = Moments(Reference([truth], 0.0), ["all"])
    moments.add(Draws(gradients))  # type: ignore[arg-type]
    numbers = moments.summary(1).items()
    return {name: float(value) for name, value in numbers if name != "by_tensor"}  # type: ignore[arg-type]


def ratio_rows(trials: int, only: Collection[str] = ()) -> list[RatioRow]:
    """Simulate ratios of eight seeds, of nine snapshots and of one: one law over normal gradients.

    The same draws make all numbers of a law; the measurements with fewer draws have the first ones.
    """
    rows = []
    for of, (draw, square, _) in lengths().items():
        if only and of not in only:
            continue
        rng = stream("ratios", of)
        found: dict[int, list[Array]] = {n: [] for n in RATIO_DRAWS}
        for _ in range(trials):
            squared = _squared_lengths(rng, draw)
            for n in RATIO_DRAWS:
                found[n].append(_shown(squared[..., :n], square))
        for n in RATIO_DRAWS:
            # [variance, that of normal gradients, kurtosis, index; trials, seeds, snapshots]
            shown = np.stack(found[n], axis=1)
            tails = _heavy(shown[2], shown[3], n)
            covered = [
                _summed(
                    [
                        _ratio(*trial, places)
                        for trial in zip(shown[0], shown[1], tails, strict=True)
                    ]
                )
                for places in (slice(None), slice(4, 5))
            ]
            rows.append(RatioRow(of, n, *covered))
    return rows


def _squared_lengths(rng: np.random.Generator, draw: Law) -> Array:
    """Return |g|^2 of a law and of normal gradients, ``[2, seeds, snapshots, draws]``."""
    shape = (RATIO_SEEDS, SNAPSHOTS, max(RATIO_DRAWS))
    chi = rng.standard_gamma(SIZE / 2, (2, *shape), dtype=np.float32) * np.float32(2 / SIZE)
    result: Array = chi.astype(np.float64)
    result[0] *= draw(rng, shape) ** 2
    return result


def _shown(squared: Array, square: float) -> Array:
    """Return both variances, over the true ones, and what the law's draws show of its tail."""
    mean, own = squared.mean(axis=-1), squared[0]
    kurtosis = np.square(own).mean(axis=-1) / mean[0] ** 2
    index = tail_index(torch.from_numpy(own)).numpy()
    return np.stack([mean[0] / square, mean[1], kurtosis, index])


def _heavy(kurtosis: Array, index: Array, draws: int) -> NDArray[np.bool_]:
    """Return what the report calls heavy-tailed, ``[trials, seeds, snapshots]``."""
    trial, _, snapshot = np.indices(kurtosis.shape)
    columns = {"task": trial, "snapshot": snapshot, "kurtosis": kurtosis, "tail_index": index}
    rows = pd.DataFrame({name: values.ravel() for name, values in columns.items()})
    return heavy(rows.assign(estimator="", draws=draws)).reshape(kurtosis.shape)


def _ratio(
    law: Array, normal: Array, tails: NDArray[np.bool_], places: slice
) -> tuple[bool, bool, bool]:
    """Return whether a ratio's interval holds 1, whether it is a bound, and whether that holds."""
    steps = np.arange(SNAPSHOTS, dtype=np.float64)[places]
    measured = Measured(
        ["law", "normal gradients"],
        list(range(RATIO_SEEDS)),
        list(range(len(steps))),
        steps,
        np.ones(len(steps), dtype=np.bool_),
        {"sequence": np.stack([law, normal])[:, :, places]},
        np.stack([tails, np.zeros_like(tails)])[:, :, places],
    )
    found = log_ratio(logs(measured.noise("sequence")), 0, 1)
    bound = bound_of(*map(float, measured.heavy_part("sequence")))
    return bool(found.low <= 0.0 <= found.high), bound == "lower", bool(found.low <= 0.0)


def _summed(found: Sequence[tuple[bool, bool, bool]]) -> Covered:
    covered, bound, holds = np.array(found).T

    def share(values: NDArray[np.bool_]) -> float:
        return float(values.mean()) if len(values) >= FEWEST else math.nan

    return Covered(
        float(covered.mean()), float(bound.mean()), share(covered[~bound]), share(holds[bound])
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


def tables(
    rows: list[Row],
    measured: list[Measurement],
    biases: list[BiasRow],
    compared: list[RatioRow],
    trials: int,
) -> str:
    """Return the Markdown of the tables, with the simulation's own error."""
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
    few, fewest = trials_of(trials)
    lines += [
        "",
        f"One measurement of many draws, {few} a row (standard error "
        f"{100 * math.sqrt(0.95 * 0.05 / few):.1f} at 95): coverage of the interval of its "
        "variance and of its bias, the share that the report calls heavy-tailed (tail indices are "
        f"means over {RATIO_SEEDS} seeds), and the mean log of measured over true variance.",
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
    lines += [
        "",
        f"The same interval of the bias ({methods.METER_BIAS}) where the bias is not zero, {few} a "
        "number. Draws are normal. The bias is given in standard errors: roots of the noise of the "
        "measured mean.",
        "",
        "| where the noise lies | bias | " + " | ".join(f"{n} draws" for n in DRAWS) + " |",
        "|---|---|" + "---|" * len(DRAWS),
    ]
    lines += [
        f"| {row.noise} | {row.size:g} | {' | '.join(_cell(x) for x in row.covered)} |"
        for row in biases
    ]
    lines += [
        "",
        f"Ratios of a law's variance and that of normal gradients over {RATIO_SEEDS} seeds, "
        f"{fewest} a row (standard error {100 * math.sqrt(0.95 * 0.05 / fewest):.1f} at 95): the "
        f"noise of a trajectory with {SNAPSHOTS} snapshots, and one snapshot. Of each: coverage of "
        "the interval, share of which the report gives only a bound, coverage where it gives the "
        f"interval, and share of the bounds that hold. A dash: fewer than {FEWEST} of them.",
        "",
        "| law of the draws | draws | trajectory: all | bounds | intervals | bounds hold | "
        "snapshot: all | bounds | intervals | bounds hold |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.of} | {row.draws} | "
        + " | ".join(
            f"{_cell(part.covered)} | {100 * part.heavy:.0f} % | {_cell(part.quiet)} | "
            f"{_cell(part.bound)}"
            for part in (row.trajectory, row.snapshot)
        )
        + " |"
        for row in compared
    ]
    return "\n".join(lines)


def trials_of(trials: int) -> tuple[int, int]:
    """Return how many measurements and how many ratios are simulated a row."""
    return max(1, trials // 4), max(1, trials // 10)


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
    few, fewest = trials_of(given.trials)
    rows = (simulate(given.trials), measure(few), bias_rows(few), ratio_rows(fewest))
    text = tables(*rows, given.trials)
    if given.out:
        write(given.out, text)
    else:
        print(text)


if __name__ == "__main__":
    main()

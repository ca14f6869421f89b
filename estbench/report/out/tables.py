"""Writes tables/: the tidy data of a result set, as CSV for people and Parquet for programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from estbench.report.data.comparisons import COSTS, PLAIN, Comparisons
from estbench.report.data.duels import improvement_table
from estbench.report.data.learning import learning_table
from estbench.report.data.memory import once
from estbench.report.data.scores import score_table
from estbench.report.data.statistics import Estimate
from estbench.report.out.long import long_curves, write_curves
from estbench.report.out.spreadsheet import csv_text
from estbench.report.records import Results
from estbench.store.atomic import replacing

__all__ = [
    "RATIO_COLUMNS",
    "curve_table",
    "ratio_table",
    "run_table",
    "timing_table",
    "variance_table",
    "write_tables",
]

RATIO_COLUMNS = ["task", "estimator", "against", "role", "cost", "scope", "step", "informative"]
RATIO_COLUMNS += ["estimate", "low", "high", "n", "p_value", "p_holm", "least", "most", "survives"]
RATIO_COLUMNS += ["bound"]


def write_tables(comparisons: Comparisons, summary: pd.DataFrame, folder: Path) -> list[Path]:
    """Write every table, and the summary, into `folder` and return the paths."""
    folder.mkdir(exist_ok=True)  # not its parent: a set that has gone must not come back
    results = comparisons.results
    makers: dict[str, Callable[[], pd.DataFrame]] = {
        "runs": lambda: run_table(results),
        "variance": lambda: variance_table(comparisons),
        "timing": lambda: timing_table(comparisons),
        "summary": lambda: summary,
        "ratios": lambda: ratio_table(comparisons),
        "pairs": lambda: comparisons.all_pairs,
        "scores": lambda: score_table(comparisons),
        "learning": lambda: learning_table(comparisons),
        "improvement": lambda: improvement_table(comparisons),
    }
    for name in ("starts", "temperatures", "samples", "progress", "sources", "phases"):
        if len(frame := getattr(results, name)):
            makers[name] = lambda frame=frame: frame  # type: ignore[misc]
    paths = write_curves(results, folder)
    for name, make in makers.items():
        table = make()
        paths.append(write_csv(table, folder / f"{name}.csv"))
        paths.append(folder / f"{name}.parquet")
        with replacing(paths[-1]) as new:
            table.to_parquet(new, index=False, compression="zstd")
    (folder / "comparisons.csv").unlink(missing_ok=True)  # version 0.1 wrote it, by other numbers
    return sorted(paths)


def write_csv(table: pd.DataFrame, path: Path) -> Path:
    """Write a table as ``csv_text`` gives it."""
    with replacing(path) as new:
        new.write_text(csv_text(table), encoding="utf-8", newline="")
    return path


def run_table(results: Results) -> pd.DataFrame:
    """Return a row a training run, with `status` ok, failed or missing, and its final metrics."""
    return results.runs


def curve_table(results: Results) -> pd.DataFrame:
    """Return a row a run, batch and metric that has a value there."""
    return long_curves(results.curves)


def variance_table(comparisons: Comparisons) -> pd.DataFrame:
    """Return a row a snapshot; failed measurements are rows with `status` and `error`.

    The last columns are computed from the others: see `trajectory.snapshot_table`.
    """
    return comparisons.snapshots


@once
def ratio_table(comparisons: Comparisons) -> pd.DataFrame:
    """Return tables/ratios.csv: every ratio of noise, of the trajectory and at each snapshot.

    `role` says whether `against` is the partner with the same baseline or `reinforce-ema`; `scope`
    is "trajectory" or the index of a snapshot after `step` batches. `least` and `most` are the
    range of the trajectory's ratio without any one snapshot, and `survives` whether its verdict is
    the same without each. `bound` is what heavy tails leave of the ratio: empty, "lower", "upper"
    or "none".
    """
    rows: list[tuple[object, ...]] = []
    for task in comparisons.results.tasks:
        for cost in COSTS:
            for ratio in comparisons.ratios(task, cost).values():
                head = (task, ratio.estimator, ratio.against, ratio.role, cost)
                if ratio.estimate.known:
                    guard = (ratio.least, ratio.most, ratio.survives)
                    numbers = (*_numbers(ratio.estimate, ratio.p_holm), *guard, ratio.bound)
                    rows.append((*head, "trajectory", None, True, *numbers))
                for part in ratio.parts:
                    if part.estimate.known:
                        numbers = (*_numbers(part.estimate, part.p_holm), None, None, None)
                        where = (str(part.snapshot), part.step, part.informative)
                        rows.append((*head, *where, *numbers, part.bound))
    return pd.DataFrame(rows, columns=RATIO_COLUMNS)


def _numbers(estimate: Estimate, p_holm: float) -> tuple[object, ...]:
    return estimate.value, estimate.low, estimate.high, estimate.n, estimate.p_value, p_holm


def timing_table(comparisons: Comparisons) -> pd.DataFrame:
    """Return a row a round, with the ratio to `reinforce` in that round.

    `low` and `high` are the 95 % t interval of the geometric mean ratio over all rounds
    (`mean_ratio`), the same in each row of an estimator.
    """
    times = comparisons.results.timing
    plain = times[times["estimator"] == PLAIN].set_index(["task", "round"])["seconds_per_step"]
    keys = pd.MultiIndex.from_frame(times[["task", "round"]])
    ratio = times["seconds_per_step"].to_numpy() / plain.reindex(keys).to_numpy()
    estimates = {
        (task, estimator): comparisons.compare(task, "seconds_per_step", estimator, PLAIN)
        for task in comparisons.results.tasks
        for estimator in comparisons.timed(task)
    }
    own = [
        estimates[task, name] for task, name in zip(times["task"], times["estimator"], strict=True)
    ]
    return times.assign(
        ratio=ratio,
        low=[estimate.low for estimate in own],
        high=[estimate.high for estimate in own],
        mean_ratio=[estimate.value for estimate in own],
    )

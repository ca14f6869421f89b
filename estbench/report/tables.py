"""Writes tables/: the tidy data of a result set, as CSV for people and Parquet for programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from estbench.report.comparisons import PLAIN, Comparisons
from estbench.report.improvement import improvement_table
from estbench.report.learning import learning_table
from estbench.report.long import long_curves, write_curves
from estbench.report.records import Results
from estbench.report.scores import score_table
from estbench.report.spreadsheet import csv_text
from estbench.store.atomic import replacing

__all__ = ["curve_table", "run_table", "timing_table", "variance_table", "write_tables"]


def write_tables(comparisons: Comparisons, summary: pd.DataFrame, folder: Path) -> list[Path]:
    """Write every table, and the summary, into `folder` and return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    makers: dict[str, Callable[[], pd.DataFrame]] = {
        "runs": lambda: run_table(comparisons.results),
        "variance": lambda: variance_table(comparisons.results),
        "timing": lambda: timing_table(comparisons),
    }
    for name, frame in (
        ("starts", comparisons.results.starts),
        ("temperatures", comparisons.results.temperatures),
        ("progress", comparisons.results.progress),
    ):
        if len(frame):
            makers[name] = lambda frame=frame: frame  # type: ignore[misc]
    paths: list[Path] = []
    for name, make in makers.items():
        table = make()
        paths.append(write_csv(table, folder / f"{name}.csv"))
        paths.append(folder / f"{name}.parquet")
        with replacing(paths[-1]) as new:
            table.to_parquet(new, index=False)
        if name == "runs":
            paths += write_curves(comparisons.results, folder)
    paths.append(write_csv(summary, folder / "summary.csv"))
    for name, table in (
        ("comparisons", comparisons.all_pairs),
        ("scores", score_table(comparisons)),
        ("learning", learning_table(comparisons)),
        ("improvement", improvement_table(comparisons)),
    ):
        paths.append(write_csv(table, folder / f"{name}.csv"))
    return paths


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


def variance_table(results: Results) -> pd.DataFrame:
    """Return a row a snapshot; failed measurements are rows with `status` and `error`."""
    return results.variance


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

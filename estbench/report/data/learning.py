"""Learning curves in numbers: the area beneath them, and how long they take to reach a level.

The level of a task is the mean score that `reinforce` ends with (where it is not trained,
`reinforce-ema`, else the first estimator there is). An estimator's time to it is a median over
seeds by Kaplan and Meier, in which seeds that never reach it count as longer than their run.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import integrate, stats

from estbench.report.data.comparisons import BASELINED, PLAIN, Comparisons
from estbench.report.data.duels import Duels
from estbench.report.data.labels import Metric
from estbench.report.data.marks import MARKS, TRAINING, with_marks
from estbench.report.data.memory import once
from estbench.report.data.methods import KAPLAN_MEIER, T
from estbench.report.data.statistics import CONFIDENCE, Estimate, mean_interval
from estbench.report.records import matching

__all__ = [
    "LEARNING_COLUMNS",
    "Level",
    "TimeToLevel",
    "learning_table",
    "level",
    "level_duels",
    "median_time",
    "time_to_level",
]

# A single evaluation is noisy and would cross a level early by luck.
WINDOW = 1 / 20  # of the evaluations of a curve; the level counts as reached by their mean

LEARNING_COLUMNS = ["task", "estimator", "metric", "statistic", "level", "level_of", "estimate"]
LEARNING_COLUMNS += ["low", "high", "n", "reached", "method", *MARKS]


@dataclass(frozen=True)
class Level:
    """The score that curves are timed to.

    Attributes:
      metric: Whose score.
      value: Where it lies.
      of: The estimator whose mean final score it is.
    """

    metric: Metric
    value: float
    of: str


@dataclass(frozen=True)
class TimeToLevel:
    """How long an estimator takes to reach the level.

    Attributes:
      median: With its interval; infinite where half of the seeds, or the limit, never reach it.
      reached: Seeds that reached it.
      first: The shortest time of a run, whether it reached it or not; nan without runs.
      latest: The longest.
      unit: "batches" or "seconds".
    """

    median: Estimate
    reached: int
    unit: str
    first: float = math.nan
    latest: float = math.nan


@once
def level(comparisons: Comparisons, task: str) -> Level | None:
    """Return the level of a task; None where it has no metric with a better side."""
    main = comparisons.primary(task)
    trained = comparisons.trained(task)
    if main is None or main.better == "neither" or not trained:
        return None
    of = next((name for name in (PLAIN, BASELINED) if name in trained), trained[0])
    final = comparisons.final(task, of, main.name)
    return Level(main, final.value, of) if final.known else None


def median_time(times: ArrayLike, reached: ArrayLike) -> Estimate:
    """Return the median of censored times by Kaplan and Meier, with Brookmeyer-Crowley's interval.

    Args:
      times: ``[n]``: when the level was reached, or how long a run was that did not.
      reached: ``[n]``: whether it was.

    Returns:
      Where the survival function, and its log-log limits, first are at or below one half;
      infinite where they never are.
    """
    at, known = np.asarray(times, dtype=np.float64), np.asarray(reached, dtype=np.bool_)
    n = len(at)
    if n == 0:
        return Estimate(math.nan)
    survival = stats.ecdf(stats.CensoredData.right_censored(at, ~known)).sf
    middle = _falls(survival.quantiles, survival.probabilities)
    if n == 1:
        return Estimate(middle, n=1)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # The limits do not exist where nobody, or everybody, has arrived; `_falls` knows that.
        warnings.simplefilter("ignore", RuntimeWarning)
        band = survival.confidence_interval(confidence_level=CONFIDENCE, method="log-log")
    ends: Any = (band.low, band.high)  # survival functions; the stubs have them as numbers
    low, high = (_falls(survival.quantiles, end.probabilities) for end in ends)
    return Estimate(middle, min(low, middle), max(high, middle), n)


def _falls(at: NDArray[np.float64], survival: NDArray[np.float64]) -> float:
    """Return the first time at which `survival` is one half or less; infinity if it never is."""
    below = np.flatnonzero(survival <= 0.5)
    return float(at[below[0]]) if below.size else math.inf


@once
def _curves(comparisons: Comparisons, task: str) -> pd.DataFrame:
    """Return a row a finished run: estimator, seed, area, batches (to the level), reached."""
    main = comparisons.primary(task)
    columns = ["estimator", "seed", "area", "batches", "reached"]
    curves = comparisons.results.curves
    if main is None or main.name not in curves.columns:
        return pd.DataFrame(columns=columns)
    rows = matching(curves, task=task)
    goal = level(comparisons, task)
    found = []
    for (estimator, seed), run in rows.groupby(["estimator", "seed"], sort=False):
        steps, scores = (run[column].to_numpy(np.float64) for column in ("step", main.name))
        length = int(steps[-1]) + 1
        known = np.isfinite(scores)
        if not known.any():
            continue
        batches, values = steps[known] + 1.0, scores[known]
        first = _reaches(batches, values, goal) if goal else math.nan
        reached = math.isfinite(first)
        found.append(
            (estimator, seed, _area(batches, values), first if reached else length, reached)
        )
    return pd.DataFrame(found, columns=columns)


def _area(batches: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    """Return the mean height of a curve: its area (trapezoids) over the batches it spans."""
    if len(batches) < 2:
        return float(values[0])
    return float(integrate.trapezoid(values, batches) / (batches[-1] - batches[0]))


def _reaches(batches: NDArray[np.float64], values: NDArray[np.float64], goal: Level) -> float:
    """Return the batch at which the mean of the last evaluations is at the level; nan if never."""
    window = max(1, round(WINDOW * len(values)))
    means = np.convolve(values, np.full(window, 1.0 / window), mode="valid")
    sign = 1.0 if goal.metric.better == "higher" else -1.0
    at = np.flatnonzero(sign * (means - goal.value) >= 0.0)
    return float(batches[at[0] + window - 1]) if at.size else math.nan


def _seconds(comparisons: Comparisons, task: str, estimator: str, unit: str) -> float:
    """Return how long a batch is in `unit`; nan where the timing pass does not have it."""
    return 1.0 if unit == "batches" else comparisons.seconds(task, estimator).value


@once
def time_to_level(comparisons: Comparisons, task: str, estimator: str, unit: str) -> TimeToLevel:
    """Return the time to the task's level.

    Args:
      unit: "batches", or "seconds": batches times the seconds of a generator step in the serial
        timing pass (not those of the runs, which share a machine).
    """
    runs = _curves(comparisons, task)
    own = runs[runs["estimator"] == estimator]
    scale = _seconds(comparisons, task, estimator, unit)
    if level(comparisons, task) is None or own.empty or not math.isfinite(scale):
        return TimeToLevel(Estimate(math.nan), 0, unit)
    reached = own["reached"].to_numpy(np.bool_)
    times = own["batches"].to_numpy(np.float64) * scale
    spread = float(times.min()), float(times.max())
    return TimeToLevel(median_time(times, reached), int(reached.sum()), unit, *spread)


@once
def level_duels(comparisons: Comparisons, task: str, unit: str) -> Duels | None:
    """Return who is at the level sooner, seed by seed, as far as the runs' lengths tell."""
    runs = _curves(comparisons, task)
    if level(comparisons, task) is None or runs.empty:
        return None
    batches, reached = (
        runs.pivot(index="seed", columns="estimator", values=column)
        for column in ("batches", "reached")
    )
    scale = {name: _seconds(comparisons, task, name, unit) for name in comparisons.trained(task)}
    kept = [n for n, x in scale.items() if n in batches and math.isfinite(x)]
    if len(kept) < 2:
        return None
    times = batches[kept].astype("float64") * [scale[name] for name in kept]
    return Duels(times, "lower", reached[kept].eq(True))


@once
def learning_table(comparisons: Comparisons) -> pd.DataFrame:
    """Return tables/learning.csv: area, batches and seconds to the level, a row an estimator.

    `area` is the mean height of the curve over its batches, in the metric's own unit; `level` is
    the score of `level_of` that the times are to; `reached` counts the seeds (of n) that got there.
    """
    rows: list[tuple[Any, ...]] = []
    for task in comparisons.results.tasks:
        main, goal = comparisons.primary(task), level(comparisons, task)
        runs = _curves(comparisons, task)
        for estimator in comparisons.trained(task) if main else ():
            assert main is not None
            head = (task, estimator, main.name)
            to = (goal.value, goal.of) if goal else (math.nan, "")
            area = mean_interval(runs.loc[runs["estimator"] == estimator, "area"])
            if area.known:
                rows.append((*head, "area", math.nan, "", *area.numbers, pd.NA, T))
            for unit in ("batches", "seconds"):
                found = time_to_level(comparisons, task, estimator, unit)
                if not math.isnan(found.median.value):
                    numbers = (*found.median.numbers, found.reached, KAPLAN_MEIER)
                    rows.append((*head, f"{unit}_to_level", *to, *numbers))
    frame = pd.DataFrame(rows, columns=LEARNING_COLUMNS[: -len(MARKS)])
    frame = frame.astype({"reached": "Int64"})
    return with_marks(comparisons, frame, TRAINING)

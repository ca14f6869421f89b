"""Final scores: mean, median and interquartile mean, each with the interval that holds best.

The mean has the t interval, the median that of order statistics, the interquartile mean Tukey and
McLaughlin's t interval. The percentile bootstrap stands beside them for the task's main metric,
labelled approximate: from five seeds it covers 72 to 94 % where it says 95 (docs/statistics.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from estbench.report.data.comparisons import Comparisons
from estbench.report.data.labels import metric
from estbench.report.data.marks import MARKS, TRAINING, with_marks
from estbench.report.data.memory import once
from estbench.report.data.methods import BOOTSTRAP, ORDER_STATISTICS, TRIMMED_T, T
from estbench.report.data.statistics import CONFIDENCE, Estimate, mean_interval

__all__ = [
    "SCORE_COLUMNS",
    "STATISTICS",
    "TRIM",
    "bootstrap_rows",
    "interquartile_mean",
    "interquartile_means",
    "median_interval",
    "score_table",
]

VARIANCE = "log_variance"  # has a better side, but is no score
TRIM = 0.25  # of the seeds, rounded down, at each end
RESAMPLES = 1999
BATCH = 100  # resamples held at once; bounds memory where there are many groups

SCORE_COLUMNS = ["task", "estimator", "metric", "statistic", "estimate", "low", "high", "n"]
SCORE_COLUMNS += ["method", *MARKS]


def interquartile_means(samples: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    """Return means without the lowest and highest quarter (rounded down) along `axis`."""
    return np.asarray(stats.trim_mean(samples, TRIM, axis=axis), dtype=np.float64)


STATISTICS: dict[str, Callable[..., Any]] = {
    "mean": np.mean,
    "median": np.median,
    "interquartile mean": interquartile_means,
}


def bootstrap_rows(
    samples: NDArray[np.float64], statistic: str, resamples: int = RESAMPLES
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the ends of the percentile bootstrap interval of every row.

    Args:
      samples: ``[groups, n]``, n at least 2.
      statistic: A key of STATISTICS.
      resamples: How many; they are the same at every call, so a report does not change.
    """
    found = stats.bootstrap(
        (samples,),
        STATISTICS[statistic],
        n_resamples=resamples,
        batch=BATCH,
        vectorized=True,
        axis=-1,
        confidence_level=CONFIDENCE,
        method="percentile",
        random_state=np.random.default_rng(0),
    ).confidence_interval
    return np.asarray(found.low, dtype=np.float64), np.asarray(found.high, dtype=np.float64)


def median_interval(values: ArrayLike) -> Estimate:
    """Return the median with its distribution-free interval between two order statistics.

    The interval exists from six values on; below, not even the extremes cover 95 %.
    """
    sample = np.sort(np.asarray(values, dtype=np.float64))
    n = len(sample)
    if n == 0:
        return Estimate(math.nan)
    first, last = _ranks(n)
    low, high = (math.nan, math.nan) if first < 0 else (sample[first], sample[last])
    return Estimate(float(np.median(sample)), float(low), float(high), n)


@cache
def _ranks(n: int) -> tuple[int, int]:
    """Return which order statistics of n values bound the median, from 0; -1 if none do."""
    if n < 2:
        return -1, -1
    # scipy's interval of the ranks themselves, so that it is computed once for each n.
    found: Any = stats.quantile_test(np.arange(n), p=0.5).confidence_interval(CONFIDENCE)
    both = math.isfinite(found.low) and math.isfinite(found.high)
    return (int(found.low), int(found.high)) if both else (-1, -1)


def interquartile_mean(values: ArrayLike) -> Estimate:
    """Return the interquartile mean with Tukey and McLaughlin's t interval (1963)."""
    sample = np.asarray(values, dtype=np.float64)
    n = len(sample)
    if n == 0:
        return Estimate(math.nan)
    middle = float(interquartile_means(sample))
    if n - 2 * int(TRIM * n) < 2:
        return Estimate(middle, n=n)
    low, high = stats.mstats.trimmed_mean_ci(sample, limits=(TRIM, TRIM), alpha=1.0 - CONFIDENCE)
    return Estimate(middle, float(low), float(high), n)


@once
def score_table(comparisons: Comparisons) -> pd.DataFrame:
    """Return tables/scores.csv: a row a task, estimator, metric, statistic and method.

    Metrics that are neither better higher nor lower are left out; the bootstrap is for the task's
    main metric only. The last columns are those of `marks`.
    """
    ways: tuple[tuple[str, Callable[[ArrayLike], Estimate], str], ...] = (
        ("mean", mean_interval, T),
        ("median", median_interval, ORDER_STATISTICS),
        ("interquartile mean", interquartile_mean, TRIMMED_T),
    )
    bootstrapped = _bootstrapped(comparisons)
    rows: list[tuple[Any, ...]] = []
    for task in comparisons.results.tasks:
        for estimator, name in product(comparisons.trained(task), _metrics(comparisons, task)):
            sample = comparisons.finals(task, estimator, name).to_numpy()
            for statistic, interval, method in ways:
                head, found = (task, estimator, name, statistic), interval(sample)
                if found.known:
                    rows.append((*head, *found.numbers, method))
                if head in bootstrapped:
                    rows.append((*head, *bootstrapped[head], len(sample), BOOTSTRAP))
    frame = pd.DataFrame(rows, columns=SCORE_COLUMNS[: -len(MARKS)])
    return with_marks(comparisons, frame, TRAINING)


def _bootstrapped(comparisons: Comparisons) -> dict[tuple[str, ...], list[float]]:
    """Return (task, estimator, main metric, statistic) -> value, low and high.

    All samples of one size are resampled at once.
    """
    samples: dict[int, dict[tuple[str, str, str], NDArray[np.float64]]] = {}
    for task in comparisons.results.tasks:
        main = comparisons.primary(task)
        for estimator in comparisons.trained(task) if main else ():
            assert main is not None
            own = np.asarray(comparisons.finals(task, estimator, main.name), dtype=np.float64)
            samples.setdefault(len(own), {})[task, estimator, main.name] = own
    found: dict[tuple[str, ...], list[float]] = {}
    for n, groups in samples.items():
        for statistic, take in STATISTICS.items() if n > 1 else ():
            values = np.stack(list(groups.values()))
            ends = bootstrap_rows(values, statistic)
            numbers = np.stack([take(values, axis=-1), *ends], axis=1).tolist()
            found |= {(*head, statistic): row for head, row in zip(groups, numbers, strict=True)}
    return found


def _metrics(comparisons: Comparisons, task: str) -> list[str]:
    """Return the metrics of quality that the task's runs end with."""
    main = comparisons.primary(task)
    names = comparisons.results.final_metrics(task)
    directed = {n for n in names if n != VARIANCE and metric(task, n).better != "neither"}
    return sorted(directed | ({main.name} if main else set()))

"""Intervals and tests. A seed is the replicate; what varies inside a seed is averaged first.

Positive quantities (variances, times) are analysed as logarithms: their mean has a t interval, and
a ratio of two estimators is the t interval of the paired differences of logs, read back through
exp. scipy does the work wherever it has the method; Holm's correction, which it lacks, is here.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import special

__all__ = [
    "CONFIDENCE",
    "ENOUGH_SEEDS",
    "Estimate",
    "add_independent",
    "corrected",
    "holm",
    "interval_frame",
    "logs",
    "mean_interval",
    "root",
]

CONFIDENCE = 0.95
# Below this many replicates the t interval leans on normality; the report says so beside numbers.
ENOUGH_SEEDS = 8


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval and the two-sided test that it is zero.

    Attributes:
      value: The mean; nan when there is nothing to average.
      low: Lower end of the 95 % interval; nan with fewer than two replicates.
      high: Upper end.
      n: Replicates (seeds, or rounds of the timing pass).
      p_value: Two-sided p-value of "the mean is zero" (for a log ratio: "the ratio is one").
      standard_error: Of `value`, on the scale it was computed on.
      df: Degrees of freedom of the t distribution.
      p_holm: The p-value after Holm's correction, see `corrected`; nan where it was not tested.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    n: int = 0
    p_value: float = math.nan
    standard_error: float = math.nan
    df: float = math.nan
    p_holm: float = math.nan

    def exp(self) -> Estimate:
        """Return the estimate read back from logs: a geometric mean, or a ratio."""
        return replace(self, value=_exp(self.value), low=_exp(self.low), high=_exp(self.high))

    def scaled(self, factor: float) -> Estimate:
        """Return value and interval in another unit, such as ``factor=100`` for per cent."""
        return Estimate(factor * self.value, factor * self.low, factor * self.high, self.n)

    @property
    def numbers(self) -> tuple[float, float, float, int]:
        """Value, low, high and n, as most tables have them."""
        return self.value, self.low, self.high, self.n

    @property
    def known(self) -> bool:
        """Whether there is a value at all."""
        return math.isfinite(self.value)

    @property
    def has_interval(self) -> bool:
        """Whether there were replicates enough for an interval."""
        return math.isfinite(self.low) and math.isfinite(self.high)


def logs(values: ArrayLike) -> NDArray[np.float64]:
    """Return natural logs; what is not positive has none (nan, not minus infinity)."""
    numbers = np.asarray(values, dtype=np.float64)
    result: NDArray[np.float64] = np.log(np.where(numbers > 0.0, numbers, np.nan))
    return result


def mean_interval(values: ArrayLike) -> Estimate:
    """Return the mean of `values` [n] with its t interval; nan values are not replicates.

    Of the differences of two series, it is the paired comparison over the labels that both have.
    """
    sample = np.asarray(values, dtype=np.float64).ravel()
    sample = sample[np.isfinite(sample)]
    n = len(sample)
    if n == 0:
        return Estimate(math.nan)
    mean = float(sample.mean())
    if n == 1:
        return Estimate(mean, n=1)
    if float(np.ptp(sample)) <= 1e-12 * max(1.0, abs(mean)):
        # Exactly known, such as a count of evaluations; a t test would divide zero by zero.
        mean = float(sample[0])
        certain = 1.0 if abs(mean) <= 1e-12 else 0.0
        return Estimate(mean, mean, mean, n, certain, 0.0, n - 1)
    error = float(sample.std(ddof=1)) / math.sqrt(n)
    return _t_estimate(mean, error, n - 1, n)


def add_independent(first: Estimate, second: Estimate, tolerance: float = 0.0) -> Estimate:
    """Return the sum of two independent means, with Welch and Satterthwaite's interval.

    Used for variance x time, of which one is replicated over seeds and the other over timing
    rounds, and for what has no pairs, such as the times of two result sets.

    Args:
      first: Its replicates are counted by the `n` of the result.
      second: To be added; for a difference, the mean of the negative values.
      tolerance: The test is that the sum lies within it, either way: twice the smaller of two
        one-sided p-values.
    """
    value = first.value + second.value
    n = first.n if second.known else 0
    error = math.hypot(first.standard_error, second.standard_error)
    if not (math.isfinite(value) and math.isfinite(error)):
        return Estimate(value, n=n)
    if error == 0.0:  # nothing varies: there is no test but this
        within = 1.0 if abs(value) <= tolerance else math.nan
        return Estimate(value, value, value, n, within, 0.0, n - 1)
    df = error**4 / (first.standard_error**4 / first.df + second.standard_error**4 / second.df)
    return _t_estimate(value, error, df, n, tolerance)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Return Holm's adjusted p-values; nan stays nan and counts for nothing (Holm 1979)."""
    raw = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(raw.shape, np.nan)
    tested = np.flatnonzero(np.isfinite(raw))
    order = tested[np.argsort(raw[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(factors * raw[order]))
    return adjusted


def corrected(estimates: Collection[Estimate]) -> list[Estimate]:
    """Return one family of tests with Holm's p-values."""
    p_values = holm([estimate.p_value for estimate in estimates]).tolist()
    return [replace(e, p_holm=p) for e, p in zip(estimates, p_values, strict=True)]


def root(estimate: Estimate) -> Estimate:
    """Return the square roots of a mean square and its limits; a negative one becomes zero."""

    def take(value: float) -> float:
        return math.sqrt(max(value, 0.0)) if math.isfinite(value) else math.nan

    return replace(
        estimate, value=take(estimate.value), low=take(estimate.low), high=take(estimate.high)
    )


def interval_frame(frame: pd.DataFrame, by: Sequence[str], value: str) -> pd.DataFrame:
    """Return mean, t interval and n of column `value` for each group of `by`.

    The same interval as `mean_interval`, for thousands of groups at once (a curve has one a batch).

    Returns:
      Columns: those of `by`, then estimate, low, high, n; rows in the order of the sorted keys.
    """
    grouped = frame.dropna(subset=[value]).groupby(list(by), observed=True, sort=True)[value]
    table = grouped.agg(["mean", "std", "count"]).reset_index()
    n = table["count"].to_numpy(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        quantile = special.stdtrit(np.where(n > 1, n - 1, np.nan), 0.5 + CONFIDENCE / 2.0)
        half = quantile * table["std"].to_numpy(np.float64) / np.sqrt(n)
    mean = table["mean"].to_numpy(np.float64)
    result = table[list(by)].copy()
    return result.assign(estimate=mean, low=mean - half, high=mean + half, n=n.astype(np.int64))


def _t_estimate(value: float, error: float, df: float, n: int, tolerance: float = 0.0) -> Estimate:
    """Return the t interval of `value` and the test that it lies within the tolerance.

    The numbers of scipy.stats.ttest_1samp, from the functions below it: a report has a thousand of
    them, and the checks around ttest_1samp would take a second of its time.
    """
    half = float(special.stdtrit(df, 0.5 + CONFIDENCE / 2.0)) * error
    p_value = min(1.0, 2.0 * float(special.stdtr(df, (tolerance - abs(value)) / error)))
    return Estimate(value, value - half, value + half, n, p_value, error, df)


def _exp(value: float) -> float:
    """Return e**value without an exception where it is too large."""
    return float(np.exp(value)) if value < 700.0 else math.inf if value > 0 else math.nan

"""Measurements whose draws have such heavy tails that few of them make most of the variance.

The interval of one measurement is normal on the log variance, with a standard error from the
squared distances of its draws. From heavy tails it is too narrow, and the variance itself is
likelier too low than too high, as the largest draws are rare. Simulated over laws and numbers of
draws (docs/statistics.md), coverage falls to 90 % about where the sample's kurtosis reaches half
the root of the number of draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from estbench.report.formatting import clean, quantity
from estbench.report.memory import once

if TYPE_CHECKING:
    from estbench.report.comparisons import Comparisons

__all__ = ["Tail", "heavy", "kurtosis_limit", "tails", "tails_text", "too_narrow"]

FACTOR = 0.5
HEAVY_SHARE = 0.25  # of the sum of squared distances, in one draw
IN_FULL = 2  # estimators whose numbers a sentence gives; all are named


@dataclass(frozen=True)
class Tail:
    """The heavy-tailed measurements of an estimator on a task.

    Attributes:
      heavy: How many there are, of `measurements`.
      kurtosis: The largest.
      limit: Above which a measurement counts as heavy-tailed.
      lean: By which part the estimator's mean log variance is about too low.
    """

    task: str
    estimator: str
    heavy: int
    measurements: int
    kurtosis: float
    limit: float
    lean: float


def kurtosis_limit(draws: ArrayLike) -> NDArray[np.float64]:
    """Return the kurtosis, E|g - m|^4 / (E|g - m|^2)^2, above which an interval is too narrow."""
    return FACTOR * np.sqrt(np.asarray(draws, dtype=np.float64))


def too_narrow(kurtosis: ArrayLike, draws: ArrayLike) -> NDArray[np.bool_]:
    """Whether each measurement's own interval is too narrow; unknown kurtosis is not."""
    return np.asarray(kurtosis, dtype=np.float64) > kurtosis_limit(draws)


def heavy(rows: pd.DataFrame) -> NDArray[np.bool_]:
    """Whether each measurement's tails are so heavy that its variance only bounds the true one.

    If one draw holds the part s of the sum of all n squared distances, their kurtosis is at least
    about n s^2. A measurement is heavy where it is as if one draw held a quarter.

    Args:
      rows: Measurements, with columns kurtosis and draws; an unknown kurtosis is not heavy.
    """
    draws = rows["draws"].astype("float64").to_numpy()
    result: NDArray[np.bool_] = rows["kurtosis"].to_numpy(np.float64) > draws * HEAVY_SHARE**2
    return result


@once
def tails(comparisons: Comparisons) -> list[Tail]:
    """Return the estimators with heavy-tailed measurements, task by task, the worst first."""
    rows = comparisons.results.measured
    rows = rows.assign(draws=rows["draws"].astype("float64"))
    rows = rows.assign(heavy=too_narrow(rows["kurtosis"], rows["draws"]))
    # The log of a mean of n draws lies low by half its relative variance.
    rows = rows.assign(lean=(rows["kurtosis"] - 1.0) / (2.0 * rows["draws"]))
    found = []
    for (task, estimator), own in rows.groupby(["task", "estimator"], sort=False):
        count = int(own["heavy"].sum())
        if count:
            limit = float(kurtosis_limit(own["draws"]).min())
            worst, lean = float(own["kurtosis"].max()), float(own["lean"].mean())
            found.append(Tail(str(task), str(estimator), count, len(own), worst, limit, lean))
    return sorted(found, key=lambda t: (comparisons.results.tasks.index(t.task), -t.lean))


def tails_text(comparisons: Comparisons, task: str) -> str:
    """Return a sentence on a task's heavy-tailed estimators, or nothing."""
    own = [tail for tail in tails(comparisons) if tail.task == task]
    if not own:
        return ""
    listed = "; ".join(
        f"{clean(tail.estimator, 60)} ({tail.heavy} of {tail.measurements}, kurtosis to "
        f"{quantity(tail.kurtosis)}{_lean(tail.lean)})"
        for tail in own[:IN_FULL]
    )
    rest = [clean(tail.estimator, 60) for tail in own[IN_FULL:]]
    also = f"; fewer or lighter ones: {', '.join(rest)}" if rest else ""
    limits = sorted({quantity(tail.limit) for tail in own}, key=float)
    return (
        f"Heavy tails on {clean(task, 60)}: in these measurements the kurtosis is above "
        f"{' or '.join(limits)} (half the root of the draws), where a measurement's own interval "
        f"may cover less than 90 %: {listed}{also}."
    )


def _lean(lean: float) -> str:
    part = -100.0 * math.expm1(-lean)
    return f", reads about {part:.0f} % low" if part >= 0.5 else ""

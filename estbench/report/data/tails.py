"""Measurements whose draws have such heavy tails that few of them make most of the variance.

The interval of one measurement is normal on the log variance, with a standard error from the
squared distances of its draws. Heavy tails make it too narrow, and the variance itself is likelier
too low than too high, as the largest draws are rare. A sample shows heavy tails in two ways:

* its kurtosis, where the rare long draws are in it (`kurtosis_limit`, `heavy`);
* its tail index, where the longest draws of all are not (`power_tailed`).

A draw rarer than 1 in N is in none of N draws, and nothing can show it. docs/statistics.md has the
simulations that these limits come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from estbench.report.data.memory import once

if TYPE_CHECKING:
    from estbench.report.data.comparisons import Comparisons

__all__ = ["Tail", "heavy", "kurtosis_limit", "power_tailed", "tails", "too_narrow"]

FACTOR = 0.5
HEAVY_SHARE = 0.25  # of the sum of squared distances, in one draw
# Tail indices of laws with a variance and without a fourth moment, as far as an estimate can tell.
POWERS = (1.8, 3.2)


@dataclass(frozen=True)
class Tail:
    """The heavy-tailed measurements of an estimator on a task.

    Attributes:
      heavy: How many there are, of `measurements`.
      kurtosis: The largest.
      limit: The kurtosis above which a measurement counts as heavy-tailed.
      powers: How many count for their tail index.
      lean: The approximate downward bias of the mean log variance.
    """

    task: str
    estimator: str
    heavy: int
    measurements: int
    kurtosis: float
    limit: float
    powers: int
    lean: float


def kurtosis_limit(draws: ArrayLike) -> NDArray[np.float64]:
    """Return the kurtosis, E|g - m|^4 / (E|g - m|^2)^2, above which an interval is too narrow."""
    return FACTOR * np.sqrt(np.asarray(draws, dtype=np.float64))


def power_tailed(rows: pd.DataFrame) -> NDArray[np.bool_]:
    """Whether the lengths of each measurement's draws fall off like x^-a, with a below about 4.

    Such a law has no fourth moment: a sample without its longest draws has a small kurtosis, a
    small variance and a short interval at once. The largest 5 % of the draws, which every sample
    has, give a away. The index is the mean over the seeds of an estimator's snapshot.

    The limit is below 4 because intervals still hold at 3.5 and the index of lighter laws comes
    near 4. An index below 2 would leave the law no variance. It is not believed, for the kurtosis
    would be large. It comes from a mixture of long draws, one in twenty or fewer, with short ones,
    and measures the gap between the two.

    Args:
      rows: Measurements, with columns task, estimator, snapshot and tail_index; an unknown index
        (older sets, few draws) is no power.
    """
    by = rows.groupby(["task", "estimator", "snapshot"])["tail_index"]
    return by.transform("mean").astype("float64").between(*POWERS).to_numpy(np.bool_)


def too_narrow(rows: pd.DataFrame) -> NDArray[np.bool_]:
    """Whether each measurement's own interval is too narrow.

    Args:
      rows: As for `heavy`.
    """
    kurtosis = rows["kurtosis"].to_numpy(np.float64)
    limit = kurtosis_limit(rows["draws"].astype("float64"))
    result: NDArray[np.bool_] = (kurtosis > limit) | power_tailed(rows)
    return result


def heavy(rows: pd.DataFrame) -> NDArray[np.bool_]:
    """Whether each measurement's tails are so heavy that its variance only bounds the true one.

    If one draw holds the part s of the sum of all n squared distances, their kurtosis is at least
    about n s^2. A measurement is heavy where it is as if one draw held a quarter, or where its tail
    is a power.

    The first rule is not that of `too_narrow`, because a ratio over seeds does not use the interval
    of a measurement and sees how much measurements differ.

    Args:
      rows: Measurements, with columns kurtosis and draws and those of `power_tailed`; an unknown
        kurtosis is not heavy.
    """
    draws = rows["draws"].astype("float64").to_numpy()
    few = rows["kurtosis"].to_numpy(np.float64) > draws * HEAVY_SHARE**2
    result: NDArray[np.bool_] = few | power_tailed(rows)
    return result


@once
def tails(comparisons: Comparisons) -> list[Tail]:
    """Return the estimators with heavy-tailed measurements, task by task, the worst first."""
    rows = comparisons.results.measured
    rows = rows.assign(draws=rows["draws"].astype("float64"))
    rows = rows.assign(heavy=too_narrow(rows), power=power_tailed(rows))
    # The log of a mean of n draws lies low by half its relative variance.
    rows = rows.assign(lean=(rows["kurtosis"] - 1.0) / (2.0 * rows["draws"]))
    found = []
    for (task, estimator), own in rows.groupby(["task", "estimator"], sort=False):
        count = int(own["heavy"].sum())
        if count:
            limit = float(kurtosis_limit(own["draws"]).min())
            worst, lean = float(own["kurtosis"].max()), float(own["lean"].mean())
            where = (str(task), str(estimator), count, len(own))
            found.append(Tail(*where, worst, limit, int(own["power"].sum()), lean))
    return sorted(found, key=lambda t: (comparisons.results.tasks.index(t.task), -t.lean))

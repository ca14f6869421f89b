"""How probable it is that one estimator beats another, seed by seed.

Within a seed two estimators share data, initialisation and evaluation, so they are compared there
and nowhere else: the share of seeds in which the one is better, a tie counting half to each. The
interval (Clopper and Pearson 1934) and the test know the seeds as better or not, and assume no
distribution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from estbench.report.data.comparisons import ALPHA, Comparisons
from estbench.report.data.marks import MARKS, TRAINING, with_marks
from estbench.report.data.memory import once
from estbench.report.data.methods import CLOPPER_PEARSON
from estbench.report.data.statistics import CONFIDENCE, Estimate, holm

__all__ = [
    "IMPROVEMENT_COLUMNS",
    "Duel",
    "Duels",
    "improvement_table",
    "least_p_holm",
    "quality_duels",
]

IMPROVEMENT_COLUMNS = ["task", "quantity", "metric", "estimator", "against", "wins", "ties"]
IMPROVEMENT_COLUMNS += ["losses", "undecided", "n", "estimate", "low", "high", "p_value", "p_holm"]
IMPROVEMENT_COLUMNS += ["method", *MARKS]


@dataclass(frozen=True)
class Duel:
    """Two estimators over the seeds that both have.

    Attributes:
      wins: Seeds in which the first is better.
      ties: Seeds in which neither is.
      losses: Seeds in which the second is better.
      undecided: Seeds in which nobody can know, as a run ended before it came to the level.
    """

    wins: int
    ties: int
    losses: int
    undecided: int = 0

    @property
    def n(self) -> int:
        """Seeds that both have."""
        return self.wins + self.ties + self.losses + self.undecided

    @property
    def turned(self) -> Duel:
        """The same, told of the second."""
        return Duel(self.losses, self.ties, self.wins, self.undecided)

    @property
    def estimate(self) -> Estimate:
        """The probability that the first beats the second; what is open counts half.

        The interval goes from Clopper and Pearson's lower limit with every open seed lost to their
        upper limit with every one won: each limit errs in at most 1 of 40 cases, whatever the open
        ones are. The p-value is that of the exact sign test, in which ties do not count and every
        undecided seed counts for the side that has fewer.
        """
        return _estimate(self.wins, self.ties, self.losses, self.undecided)


@cache
def _estimate(wins: int, ties: int, losses: int, undecided: int) -> Estimate:
    n, half = wins + ties + losses + undecided, ties + undecided
    if n == 0:
        return Estimate(math.nan)
    more, fewer = max(wins, losses), min(wins, losses) + undecided
    p_value = _sign_test(more, more + fewer) if more > fewer else 1.0
    low, high = _limits(wins, n)[0], _limits(wins + half, n)[1]
    return Estimate((wins + 0.5 * half) / n, low, high, n, p_value)


# Thousands of duels have thousands of outcomes, but from the same few counts.
@cache
def _limits(wins: int, n: int) -> tuple[float, float]:
    found = stats.binomtest(wins, n).proportion_ci(CONFIDENCE)
    return float(found.low), float(found.high)


@cache
def _sign_test(wins: int, n: int) -> float:
    return float(stats.binomtest(wins, n).pvalue)


@dataclass(frozen=True)
class Duels:
    """Every pair of estimators in one quantity on one task.

    Attributes:
      scores: A row a seed, a column an estimator; nan where there is no run.
      better: "higher" or "lower".
      reached: For times: whether each is when something happened; if not, it happens later than
        that, if ever. Without it every score is what it is.
    """

    scores: pd.DataFrame
    better: str
    reached: pd.DataFrame | None = None

    def duel(self, first: str, second: str) -> Duel:
        """Return how `first` did against `second`.

        A time that is known beats one that is not from the same moment on. Where the run that never
        got there ended earlier than the other one arrived, nobody knows who is sooner.
        """
        if first not in self.scores or second not in self.scores:
            return Duel(0, 0, 0)
        a, b = self._columns[first], self._columns[second]
        both = ~(np.isnan(a) | np.isnan(b))
        if self.reached is None:
            below, above = a < b, a > b
        else:
            came, went = self._came[first], self._came[second]
            below = came & np.where(went, a < b, a <= b)
            above = went & np.where(came, b < a, b <= a)
        wins, losses = (above, below) if self.better == "higher" else (below, above)
        ties = (a == b) if self.reached is None else came & went & (a == b)
        won, tied, lost = (int((kind & both).sum()) for kind in (wins, ties, losses))
        return Duel(won, tied, lost, int(both.sum()) - won - tied - lost)

    @cached_property
    def _columns(self) -> dict[str, NDArray[np.float64]]:
        return {str(name): own.to_numpy(np.float64) for name, own in self.scores.items()}

    @cached_property
    def _came(self) -> dict[str, NDArray[np.bool_]]:
        frame = self.scores.notna() if self.reached is None else self.reached
        return {str(name): own.to_numpy(np.bool_) for name, own in frame.items()}

    @cached_property
    def pairs(self) -> dict[tuple[str, str], tuple[Duel, float]]:
        """(estimator, against) -> duel and p-value of the sign test, Holm-adjusted over all."""
        names = list(self.scores.columns)
        duels = {(b, a): self.duel(b, a) for a, b in combinations(names, 2)}
        adjusted = holm([duel.estimate.p_value for duel in duels.values()])
        return {
            pair: (duel, float(p)) for (pair, duel), p in zip(duels.items(), adjusted, strict=True)
        }

    def p_holm(self, first: str, second: str) -> float:
        """Return the adjusted p-value of a pair, in either order."""
        found = self.pairs.get((first, second)) or self.pairs.get((second, first))
        return found[1] if found else math.nan

    def told_apart(self, first: str, second: str) -> bool:
        """Whether the sign test tells two estimators apart, after Holm over all pairs."""
        return self.p_holm(first, second) < ALPHA


def least_p_holm(seeds: int, pairs: int) -> float:
    """Return the least adjusted p-value that a pair can have: one side wins in every seed."""
    return min(1.0, pairs * float(stats.binomtest(0, seeds).pvalue)) if seeds and pairs else 1.0


@once
def quality_duels(comparisons: Comparisons, task: str) -> Duels | None:
    """Return the pairs in the task's main metric after the last batch; None where it has none."""
    main = comparisons.primary(task)
    if main is None or main.better == "neither":
        return None
    scores = comparisons.replicates(task, main.name)
    return None if scores.empty else Duels(scores, main.better)


@once
def improvement_table(comparisons: Comparisons) -> pd.DataFrame:
    """Return tables/improvement.csv: every pair once, in final quality and in time to the level.

    `estimate` is the probability that `estimator` beats `against` (better by the metric, or sooner
    at the level), what is open half; the p-value is the sign test's, `p_holm` over the pairs of
    that task and quantity.
    """
    from estbench.report.data.learning import level_duels

    rows: list[tuple[Any, ...]] = []
    for task in comparisons.results.tasks:
        main = comparisons.primary(task)
        kinds = {"quality": quality_duels(comparisons, task)} | {
            f"{unit}_to_level": level_duels(comparisons, task, unit)
            for unit in ("batches", "seconds")
        }
        for kind, duels in kinds.items():
            for (name, against), (duel, p_holm) in duels.pairs.items() if duels else ():
                if duel.n == 0:
                    continue
                found = duel.estimate
                counts = (duel.wins, duel.ties, duel.losses, duel.undecided, duel.n)
                numbers = (*found.numbers[:3], found.p_value, p_holm)
                head = (task, kind, main.name if main else "", name, against)
                rows.append((*head, *counts, *numbers, CLOPPER_PEARSON))
    frame = pd.DataFrame(rows, columns=IMPROVEMENT_COLUMNS[: -len(MARKS)])
    return with_marks(comparisons, frame, TRAINING)

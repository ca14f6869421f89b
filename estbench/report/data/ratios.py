"""One estimator's noise over another's, with what a referee would ask of the number.

A ratio knows its values at every informative snapshot, what becomes of it without any one of them,
whether heavy tails make it a mere bound, and its test, corrected for all tests that were made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from estbench.report.data.statistics import Estimate, add_independent, holm, mean_interval
from estbench.report.data.trajectory import Measured, logs

__all__ = [
    "ALPHA",
    "EMA",
    "HEAVY_PART",
    "HIGHER",
    "LOWER",
    "OPEN",
    "PARTNER",
    "Omission",
    "Part",
    "Ratio",
    "bound_of",
    "log_ratio",
    "ratios",
]

ALPHA = 0.05

# What an estimator is compared with: its partner with the same baseline, and `reinforce-ema`.
PARTNER, EMA = "partner", "ema"

# Verdicts. OPEN: it was tested, and no difference was found (or heavy tails forbid to name one).
LOWER, HIGHER, OPEN = "lower", "higher", "no difference found"

# From this part of an estimator's noise on, heavy-tailed measurements make its ratios bounds.
HEAVY_PART = 0.1

# (is the numerator heavy, is the denominator) -> what the ratio still is.
_BOUNDS: Final = {
    (False, False): "",
    (True, False): "lower",
    (False, True): "upper",
    (True, True): "none",
}


@dataclass(frozen=True)
class Part:
    """A ratio at one snapshot.

    Attributes:
      snapshot: Its index.
      step: Batches of the reference trajectory before it.
      informative: Whether it enters the ratio of the trajectory.
      estimate: The ratio there.
      p_holm: Corrected for all estimators, references and snapshots of the task and cost.
      bound: See `Ratio`.
    """

    snapshot: int
    step: float
    informative: bool
    estimate: Estimate
    p_holm: float
    bound: str


@dataclass(frozen=True)
class Omission:
    """A ratio without one snapshot, whose batch is `step`."""

    step: float
    estimate: Estimate
    p_holm: float


@dataclass(frozen=True)
class Ratio:
    """The noise of the trajectory of one estimator over that of another.

    Attributes:
      estimator: Whose noise.
      against: Over whose.
      role: PARTNER or EMA.
      estimate: The ratio with its interval over seeds and raw p-value.
      p_holm: Corrected over all comparisons of the task and cost; nan where it was not tested, as
        one of the two is never ranked.
      bound: What heavy tails leave of it: "" a ratio with an interval; "lower": the true ratio is
        likelier larger; "upper": likelier smaller; "none": no statement.
      omissions: Without each informative snapshot in turn; tests corrected likewise.
      parts: At every snapshot.
    """

    estimator: str
    against: str
    role: str
    estimate: Estimate
    p_holm: float
    bound: str
    omissions: tuple[Omission, ...]
    parts: tuple[Part, ...]

    @property
    def verdict(self) -> str:
        """LOWER or HIGHER where the test finds it, else OPEN; "" where nothing was tested."""
        return verdict_of(self.estimate, self.p_holm, self.bound)

    @property
    def turned_by(self) -> tuple[Omission, ...]:
        """The snapshots without which the verdict is another."""
        return tuple(
            omission
            for omission in self.omissions
            if verdict_of(omission.estimate, omission.p_holm, self.bound) != self.verdict
        )

    @property
    def survives(self) -> bool:
        """Whether the verdict is the same without any one snapshot, and there is more than one."""
        return len(self.omissions) > 1 and not self.turned_by

    @property
    def least(self) -> float:
        """The least ratio without one snapshot; nan where nothing can be left out."""
        return min(self._without, default=math.nan)

    @property
    def most(self) -> float:
        """The largest ratio without one snapshot."""
        return max(self._without, default=math.nan)

    @property
    def span(self) -> tuple[float, float]:
        """The least and the largest ratio at an informative snapshot."""
        known = [p.estimate.value for p in self.parts if p.informative and p.estimate.known]
        return min(known, default=math.nan), max(known, default=math.nan)

    @property
    def _without(self) -> list[float]:
        return [o.estimate.value for o in self.omissions if o.estimate.known]


def verdict_of(estimate: Estimate, p_holm: float, bound: str) -> str:
    """Return what a corrected test says of a ratio that may be a bound."""
    if not math.isfinite(p_holm):
        return ""
    side = LOWER if estimate.value < 1.0 else HIGHER
    allowed = {"": (LOWER, HIGHER), "lower": (HIGHER,), "upper": (LOWER,), "none": ()}[bound]
    return side if p_holm < ALPHA and side in allowed else OPEN


def bound_of(heavy: float, against: float) -> str:
    """Return what is left of a ratio, given the part of each side's noise that is heavy-tailed."""
    return _BOUNDS[heavy >= HEAVY_PART, against >= HEAVY_PART]


def log_ratio(
    values: NDArray[np.float64], first: int, second: int, time: Estimate | None = None
) -> Estimate:
    """Return the paired log ratio of two rows of ``[estimators, seeds]``.

    Args:
      time: Log ratio of seconds, to be added as an independent factor.
    """
    difference = mean_interval(values[first] - values[second])
    return difference if time is None else add_independent(difference, time)


def ratios(
    measured: Measured,
    cost: str,
    wanted: Sequence[tuple[str, str, str]],
    tested: Sequence[bool],
    times: Mapping[tuple[str, str], Estimate] | None = None,
) -> dict[tuple[str, str], Ratio]:
    """Return the ratios of a task for one cost, by (estimator, against).

    Args:
      cost: A key of `Measured.values`.
      wanted: Estimator, against and role: one family of tests for Holm's correction.
      tested: Which of them are in that family.
      times: Log ratios of seconds, which every ratio is multiplied with.
    """
    at = [(measured.places[first], measured.places[second]) for first, second, _ in wanted]
    seconds = [None if times is None else times[pair[:2]] for pair in wanted]

    def estimates(values: NDArray[np.float64]) -> list[Estimate]:
        of = logs(values)
        return [log_ratio(of, *places, time) for places, time in zip(at, seconds, strict=True)]

    def corrected(found: Sequence[Sequence[Estimate]]) -> NDArray[np.float64]:
        p_values = [[e.p_value for e in column] for column in found]
        rows = np.array(p_values, dtype=np.float64).reshape(len(found), len(wanted))
        rows[:, ~np.array(tested, dtype=np.bool_)] = math.nan
        return holm(rows.ravel()).reshape(rows.shape)

    kept = measured.kept(cost)
    whole = estimates(measured.noise(cost))
    # Leaving out the only snapshot would leave nothing.
    left_out = kept if len(kept) > 1 else kept[:0]
    without = [estimates(measured.noise(cost, int(place))) for place in left_out]
    single = [estimates(measured.values[cost][:, :, i]) for i in range(len(measured.snapshots))]
    p_whole = corrected([whole])[0]
    p_without = [corrected([column])[0] for column in without]
    # Uninformative snapshots are shown, but are no tests.
    p_single = np.full((len(single), len(wanted)), math.nan)
    p_single[kept] = corrected([single[place] for place in kept])
    heavy = measured.heavy_part(cost)
    heavy_there = [measured.heavy_share(place) for place in range(len(measured.snapshots))]
    found = {}
    for i, ((estimator, against, role), (first, second)) in enumerate(zip(wanted, at, strict=True)):
        omissions = [
            Omission(float(measured.steps[place]), column[i].exp(), float(p_values[i]))
            for place, column, p_values in zip(left_out, without, p_without, strict=True)
        ]
        parts = [
            Part(
                snapshot,
                float(measured.steps[place]),
                place in kept,
                single[place][i].exp(),
                float(p_single[place, i]),
                bound_of(heavy_there[place][first], heavy_there[place][second]),
            )
            for place, snapshot in enumerate(measured.snapshots)
        ]
        found[estimator, against] = Ratio(
            estimator,
            against,
            role,
            whole[i].exp(),
            float(p_whole[i]),
            bound_of(heavy[first], heavy[second]),
            tuple(omissions),
            tuple(parts),
        )
    return found

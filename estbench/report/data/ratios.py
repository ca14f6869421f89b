"""One estimator's noise over another's, with what a referee would ask of the number.

A ratio knows its values at every informative snapshot, what becomes of it without any one of them,
whether heavy tails make it a mere bound, and its test, corrected for all tests that were made.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Final

import numpy as np
from numpy.typing import NDArray

from estbench.report.data.statistics import (
    Estimate,
    add_independent,
    corrected,
    logs,
    mean_interval,
)
from estbench.report.data.trajectory import Measured

__all__ = [
    "ALPHA",
    "EMA",
    "HEAVY_PART",
    "HIGHER",
    "LOWER",
    "OPEN",
    "PARTNER",
    "Bounded",
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
class Bounded:
    """A ratio that may be a mere bound.

    Attributes:
      estimate: With its interval over seeds, and its p-value, raw and corrected.
      bound: What heavy tails leave of it: "" a ratio with an interval; "lower": the true ratio is
        likelier larger; "upper": likelier smaller; "none": no statement.
    """

    estimate: Estimate
    bound: str

    @property
    def p_holm(self) -> float:
        """The corrected p-value; nan where it was not tested."""
        return self.estimate.p_holm

    @property
    def verdict(self) -> str:
        """LOWER or HIGHER where the test finds it, else OPEN; "" where nothing was tested."""
        if not math.isfinite(self.p_holm):
            return ""
        side = LOWER if self.estimate.value < 1.0 else HIGHER
        allowed = {"": (LOWER, HIGHER), "lower": (HIGHER,), "upper": (LOWER,), "none": ()}
        return side if self.p_holm < ALPHA and side in allowed[self.bound] else OPEN


@dataclass(frozen=True)
class Part(Bounded):
    """A ratio at one snapshot, corrected for all comparisons and snapshots of the task and cost.

    Attributes:
      snapshot: Its index.
      step: Batches of the reference trajectory before it.
      informative: Whether it enters the ratio of the trajectory.
      without: The ratio of the trajectory without this snapshot; None where it is not in that, or
        alone.
    """

    snapshot: int
    step: float
    informative: bool
    without: Bounded | None


@dataclass(frozen=True)
class Ratio(Bounded):
    """The noise of the trajectory of one estimator over that of another.

    It is corrected over all comparisons of the task and cost, and not tested where one of the two
    is never ranked.

    Attributes:
      estimator: Whose noise.
      against: Over whose.
      role: PARTNER or EMA.
      parts: At every snapshot.
    """

    estimator: str
    against: str
    role: str
    parts: tuple[Part, ...]

    @property
    def omissions(self) -> dict[float, Bounded]:
        """The ratio without each informative snapshot in turn, by the batch of the snapshot."""
        return {part.step: part.without for part in self.parts if part.without}

    @property
    def turned_by(self) -> dict[float, Bounded]:
        """The omissions that have another verdict."""
        return {s: left for s, left in self.omissions.items() if left.verdict != self.verdict}

    @property
    def survives(self) -> bool:
        """Whether the verdict is the same without any one snapshot, and there is more than one."""
        return len(self.omissions) > 1 and not self.turned_by

    @property
    def least(self) -> float:
        """The least ratio without one snapshot; nan where nothing can be left out."""
        return _range(self.omissions.values())[0]

    @property
    def most(self) -> float:
        """The largest ratio without one snapshot."""
        return _range(self.omissions.values())[1]

    @property
    def span(self) -> tuple[float, float]:
        """The least and the largest ratio at an informative snapshot."""
        return _range(part for part in self.parts if part.informative)


def _range(found: Iterable[Bounded]) -> tuple[float, float]:
    known = [one.estimate.value for one in found if one.estimate.known]
    return min(known, default=math.nan), max(known, default=math.nan)


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
    pairs = [pair[:2] for pair in wanted]
    at = [(measured.places[first], measured.places[second]) for first, second in pairs]
    seconds = [None if times is None else times[pair] for pair in pairs]

    def estimates(values: NDArray[np.float64]) -> list[Estimate]:
        of = logs(values)
        return [log_ratio(of, *places, time) for places, time in zip(at, seconds, strict=True)]

    def family(*columns: list[Estimate]) -> list[list[Estimate]]:
        """Return ratios, those that are tested corrected over all columns together."""
        tests = iter(corrected([e for column in columns for e in compress(column, tested)]))
        return [
            [(next(tests) if test else e).exp() for e, test in zip(column, tested, strict=True)]
            for column in columns
        ]

    kept = [int(place) for place in measured.kept(cost)]
    (whole,) = family(estimates(measured.noise(cost)))
    # Leaving out the only snapshot would leave nothing.
    left_out = kept if len(kept) > 1 else []
    without = {place: family(estimates(measured.noise(cost, place)))[0] for place in left_out}
    single = [estimates(measured.values[cost][:, :, i]) for i in range(len(measured.snapshots))]
    # Uninformative snapshots are shown, but are no tests.
    there = dict(zip(kept, family(*(single[place] for place in kept)), strict=True))
    heavy = measured.heavy_part(cost)
    heavy_there = [measured.heavy_share(place) for place in range(len(measured.snapshots))]
    found = {}
    for i, ((estimator, against, role), (first, second)) in enumerate(zip(wanted, at, strict=True)):
        bound = bound_of(heavy[first], heavy[second])
        parts = []
        for place, (snapshot, shares) in enumerate(
            zip(measured.snapshots, heavy_there, strict=True)
        ):
            ratio = there[place][i] if place in there else single[place][i].exp()
            left = Bounded(without[place][i], bound) if place in without else None
            where = (snapshot, float(measured.steps[place]), place in there)
            parts.append(Part(ratio, bound_of(shares[first], shares[second]), *where, left))
        found[estimator, against] = Ratio(whole[i], bound, estimator, against, role, tuple(parts))
    return found

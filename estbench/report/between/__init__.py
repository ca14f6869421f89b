"""Two result sets against each other: two commits, two machines, two versions of an estimator.

What differs in how they were made, and in what was found: paired by seed, with intervals and tests
corrected by Holm's method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from estbench.core.errors import UserError
from estbench.report.between.contents import Changed, Only, changed_failures, changed_proofs, only
from estbench.report.between.rows import differences
from estbench.report.between.settings import Difference, environments, same_machine, settings
from estbench.report.between.sides import Side, read_side, same_numbers

if TYPE_CHECKING:
    from os import PathLike

__all__ = ["MARGIN", "Between", "between", "compare"]

MARGIN = 1.1
"""Ratio of times, or of memory, up to which more is no worse: machines are noisy."""


@dataclass(frozen=True)
class Between:
    """Everything that ``estbench compare`` has to say.

    Attributes:
      a: What is compared to.
      b: What is compared.
      margin: Ratio up to which more time or memory is no worse.
      same_machine: Whether both were made on the same kind of machine.
      judged: Whether time and memory are judged.
      settings: Settings that differ.
      environment: Versions and machine, as far as they differ.
      frame: See ``compare``.
      only: What one of the sets holds alone.
      failures: What finished in one set and failed in the other.
      proofs: What was proven of an estimator in one set and not in the other.
      records: Records that both sets hold.
      equal: How many of them have the same numbers, to the bit.
      snapshots: By task, how many seeds have the same snapshots, and how many there are; a task
        is missing where that is not known.
    """

    a: Side
    b: Side
    margin: float
    same_machine: bool
    judged: bool
    settings: tuple[Difference, ...]
    environment: tuple[Difference, ...]
    frame: pd.DataFrame
    only: tuple[Only, ...]
    failures: tuple[Changed, ...]
    proofs: tuple[Changed, ...]
    records: int
    equal: int
    snapshots: Mapping[str, tuple[int, int]]

    @property
    def identical(self) -> bool:
        """Whether both hold the same records with the same numbers, to the bit."""
        same = self.records > 0 and self.equal == self.records and not self.only
        return same and "not comparable" not in self.counts

    @property
    def counts(self) -> dict[str, int]:
        """How often each verdict was given."""
        found = self.frame["verdict"].value_counts()
        return {str(verdict): int(count) for verdict, count in found.items()}

    @property
    def worse(self) -> int:
        """How much is worse in B: quantities, failures and lost proofs."""
        changed = [change for change in (*self.failures, *self.proofs) if change.worse]
        return self.counts.get("worse", 0) + len(changed)


def between(
    a: str | PathLike[str], b: str | PathLike[str], *, margin: float | None = None
) -> Between:
    """Hold two result sets against each other; see ``compare``.

    Raises:
      UserError: As ``compare``.
    """
    if margin is not None and not 1.0 <= margin < 100.0:
        raise UserError(
            f"margin {margin:g}: must be from 1 to 100; it is a ratio, so that 1.1 lets 10 % pass"
        )
    first, second = Path(a), Path(b)
    if first.exists() and second.exists() and first.samefile(second):
        raise UserError(f"{a} and {b} are the same folder: give two result sets")
    left, right = read_side("A", first), read_side("B", second)
    shared = [task for task in left.results.tasks if task in right.results.tasks]
    if not shared:
        raise UserError(
            f"no task in common: {a} holds {', '.join(left.results.tasks)}, "
            f"{b} holds {', '.join(right.results.tasks)}"
        )
    alike = same_machine(left, right)
    judged = alike or margin is not None
    frame = differences(left, right, margin or MARGIN, judged)
    if frame.empty:
        raise UserError(f"no estimator in common on {', '.join(shared)}: nothing to compare")
    common = left.records.keys() & right.records.keys()
    same = sum(
        same_numbers(left.records[where].path, right.records[where].path) for where in common
    )
    return Between(
        left,
        right,
        margin or MARGIN,
        alike,
        judged,
        tuple(settings(left, right)),
        tuple(environments(left, right)),
        frame,
        tuple(only(left, right)),
        tuple(changed_failures(left, right)),
        tuple(changed_proofs(left, right)),
        len(common),
        same,
        _snapshots(left, right),
    )


def compare(
    a: str | PathLike[str], b: str | PathLike[str], *, margin: float | None = None
) -> pd.DataFrame:
    """Compare result set B with result set A: what is better, what is worse, what cannot be told.

    Args:
      a: Folder of the set that is compared to.
      b: Folder of the set that is compared.
      margin: Ratio up to which more time or memory is no worse, 1.1 if None. Sets of different
        machines are judged by time and memory only if it is given.

    Returns:
      A row a task, estimator and quantity that both sets hold:

      - ``task``, ``estimator``, ``quantity``: "variance_per_sequence" (noise of the reference
        trajectory), a final metric of the task, "seconds_per_step" or "peak_mb" (MiB);
      - ``family``: the quantities that Holm's correction counts together: "variance", "quality",
        "description" (metrics without a better direction), "time" or "memory";
      - ``kind``: "ratio" (B over A, analysed as logarithms) or "difference" (B - A, in ``unit``);
      - ``better``: "lower", "higher" or "neither";
      - ``a``, ``b``: the mean of each set, geometric for ratios;
      - ``estimate``, ``low``, ``high``: the ratio or difference with its 95 % t interval: paired by
        seed, but of time and memory Welch's;
      - ``n_a``, ``n_b``, ``pairs``: replicates of each, and seeds that both have;
      - ``p_value``, ``p_holm``: of no difference; of time and memory: of none beyond the margin;
      - ``verdict``: "better", "worse", "differs" (where neither way is better), "cannot tell",
        "equal" (to the bit), "within tolerance" (time and memory), "not judged" (another machine)
        or "not comparable";
      - ``reason``: why it is not comparable, not judged or cannot be told; of a variance, also
        which snapshots a difference rests on;
      - ``least``, ``most``: of variances, the range of the ratio without any one snapshot;
      - ``bound``: what heavy tails leave of a ratio of variances: "", "lower", "upper" or "none".

    Raises:
      UserError: There is no such result set, both are the same, they have nothing in common, or one
        was made by a version of estbench whose records mean something else.
    """
    return between(a, b, margin=margin).frame


def _snapshots(a: Side, b: Side) -> dict[str, tuple[int, int]]:
    """Return for each task how many of the common seeds have the same snapshots."""
    found: dict[str, tuple[int, int]] = {}
    for where, record in a.records.items():
        other = b.records.get(where)
        if other is not None and record.state and other.state:
            same, count = found.get(where[1], (0, 0))
            found[where[1]] = (same + (record.state == other.state), count + 1)
    return found

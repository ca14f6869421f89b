"""What a sequence costs in reward evaluations, where a batch shares some of them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from estbench.report.data.comparisons import Comparisons
from estbench.report.data.formatting import quantity
from estbench.report.data.trajectory import batch_size, evaluations
from estbench.report.records import matching

__all__ = ["Cost", "cost", "shared_text"]


@dataclass(frozen=True)
class Cost:
    """Reward evaluations a sequence, hard and relaxed, of one estimator on one task.

    Attributes:
      one: In a batch of one draw; nan where it is not recorded.
      batch: At the batch in use, which ratios are made with.
      limit: In a batch without end; nan where it is not recorded.
    """

    one: float
    batch: float
    limit: float

    @property
    def shared(self) -> bool:
        """Whether it depends on the batch."""
        return math.isfinite(self.one) and self.one != self.limit

    @property
    def text(self) -> str:
        """One number, or the three where they differ: "2 / 1.01 / 1"."""
        parts = (self.one, self.batch, self.limit) if self.shared else (self.batch,)
        return " / ".join(f"{part:.3g}" if part < 1000 else quantity(part) for part in parts)


def cost(comparisons: Comparisons, task: str, estimator: str) -> Cost:
    """Return what an estimator that was measured on a task costs."""
    rows = matching(comparisons.results.measured, task=task, estimator=estimator)
    # Older sets lack these columns; numpy warns of the median of nothing.
    ends = (rows[f"evaluations_{end}"].dropna() for end in ("at_one", "in_limit"))
    one, limit = (float(known.median()) if len(known) else math.nan for known in ends)
    return Cost(one, float(evaluations(rows).median()), limit)


def shared_text(comparisons: Comparisons, task: str, names: Iterable[str]) -> str:
    """Return what is shared on a task, by whom; "" where nothing is."""
    costs = {name: cost(comparisons, task, name) for name in names}
    said = [f"{name} {found.text}" for name, found in costs.items() if found.shared]
    if not said:
        return ""
    return (
        "Reward evaluations a sequence in a batch of one draw / at the batch in use "
        f"({batch_size(comparisons.results, task):g}), which ratios are made with / in a batch "
        f"without end: {'; '.join(said)}."
    )

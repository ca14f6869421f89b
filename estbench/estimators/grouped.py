"""Groups whose rewards are compared with their own mean: GRPO and its kin, biased as published.

The mean of a group holds each sequence's own reward, and a deviation depends on all of them. Where
the mean is left as it is the gradient is scaled by (K - 1) / K; where rewards are divided by the
deviation its direction is wrong too.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from estbench.estimators.base import EstimatorInfo, register
from estbench.estimators.baselines import alike
from estbench.estimators.score_function import Grouped

__all__ = ["GroupRelative"]


class GroupRelative(Grouped):
    """g = 1/K sum_i (Q^i - mean) / scale S^i over a group of K.

    Args:
      name: Name in the catalogue.
      group: Sequences K a draw, at least 2.
      standardised: Whether the scale is the group's standard deviation (Shao et al. 2024, section
        4.1.2), or 1.
      rollouts: Rollouts N a position; 0 for the terminal reward.
      summary: One line for the catalogue, with K for ``{K}``.
      source: Paper and equation.
    """

    def __init__(
        self,
        name: str,
        group: int,
        standardised: bool,
        rollouts: int = 0,
        summary: str = "",
        source: str = "",
    ) -> None:
        self.standardised = standardised
        self.rollouts = rollouts
        why = f"the mean holds each sequence's own reward: ({group} - 1) / {group} of the gradient"
        if standardised:
            why = "rewards are divided by the group's standard deviation"
        self.info = EstimatorInfo(
            name=name,
            summary=summary.format(K=group),
            source=source,
            unbiased=False,
            why_biased=why,
            baseline="group mean",
            group=group,
            hard_evals=f"{group}(1 + {rollouts}(T - 1))" if rollouts else f"{group}",
            version=2 if standardised else 1,  # 1 divided what rounding left of equal rewards
        )

    def weights(self, grouped: Tensor) -> Tensor:
        """See ``Grouped.weights``."""
        K = grouped.shape[1]
        if not self.standardised:
            return (grouped - grouped.mean(dim=1, keepdim=True)) / K
        # In float64, as a deviation is a small difference; a constant added to it would be a unit.
        values = grouped.double()
        gaps = values - values.mean(dim=1, keepdim=True)
        weights = gaps / (K * values.std(dim=1, keepdim=True))
        # Where all rewards are equal there is nothing to learn, and rounding must not be divided.
        return torch.where(alike(grouped, dim=1), 0.0, weights).to(grouped.dtype)


def _group(name: str, group: int, standardised: bool, summary: str, source: str) -> None:
    register(
        partial(
            GroupRelative,
            name,
            group=group,
            standardised=standardised,
            summary=summary,
            source=source,
        )
    )


_group(
    "grpo", 8, True, "GRPO in groups of {K}, without clipping", "Shao et al. 2024, section 4.1.2"
)
_group(
    "dr-grpo",
    8,
    False,
    "Dr. GRPO in groups of {K}: a group's mean, and no deviation",
    "Liu et al. 2025, section 3.2",
)
_group(
    "reinforce-standardised",
    64,
    True,
    "REINFORCE with rewards standardised over batches of {K}",
    "common practice",
)

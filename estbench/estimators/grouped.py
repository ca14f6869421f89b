"""Groups whose rewards are compared with their own mean: GRPO and its kin, biased as published.

The mean of a group holds each sequence's own reward, and a deviation depends on all of them. Where
the mean is left as it is the gradient is scaled by (K - 1) / K; where rewards are divided by the
deviation its direction is wrong too. What divides by lengths L, the end token included, prefers
short sequences to long ones of the same advantage. With fixed lengths that is only a scale.

All are written at the point where the sampler is the policy, so that no ratio is clipped.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from estbench.core.errors import UserError
from estbench.estimators.base import EstimatorInfo, register
from estbench.estimators.baselines import alike
from estbench.estimators.returns import evaluations
from estbench.estimators.score_function import Grouped

__all__ = ["GroupRelative"]

Share = Literal["sequence", "own token", "token"]


class GroupRelative(Grouped):
    """g = sum_i a_i (Q^i - mean) / scale S^i over a group of K.

    Args:
      name: Name in the catalogue.
      group: Sequences K a draw, at least 2.
      standardised: Whether the scale is the standard deviation of the gaps (Shao et al. 2024,
        section 4.1.2), or 1.
      share: What a sequence counts: a_i = 1 / K, 1 / (K L_i), or 1 / sum_j L_j.
      within: Sequences whose mean is subtracted; 0 for all K.
      rollouts: Rollouts N a position; 0 for the terminal reward.
      summary: One line for the catalogue, with K for ``{K}``.
      source: Paper and equation.
      mixed: Whether each sequence has a context of its own where a draw may hold several.

    Raises:
      UserError: K is no multiple of ``within``.
    """

    hue = "biased"

    def __init__(
        self,
        name: str,
        group: int,
        standardised: bool,
        share: Share = "sequence",
        within: int = 0,
        rollouts: int = 0,
        summary: str = "",
        source: str = "",
        mixed: bool = False,
    ) -> None:
        if within and group % within:
            raise UserError(f"{name}-{group}: K must be a multiple of {within}")
        self.standardised = standardised
        self.share = share
        self.within = within
        # A batch that is standardised as a whole has a prompt for each of its groups.
        self.contexts = group if mixed else group // (within or group)
        self.rollouts = rollouts
        why = [
            f"the mean holds each sequence's own reward: ({group} - 1) / {group} of the gradient"
        ]
        if standardised:
            why = ["rewards are divided by the group's standard deviation"]
        if share == "own token":
            why.append("each sequence by its length")
        if share == "token":
            why.append("the sum over tokens by their number, which is random")
        self.info = EstimatorInfo(
            name=name,
            summary=summary.format(K=group),
            source=source,
            unbiased=False,
            why_biased="; ".join(why),
            baseline="group mean",
            group=group,
            hard_evals=evaluations(rollouts, group),
            version=2 if standardised else 1,  # 1 divided what rounding left of equal rewards
        )

    def weights(self, grouped: Tensor) -> Tensor:
        """See ``Grouped.weights``; all sequences have T tokens."""
        lengths = torch.full_like(grouped[:, :, :1], grouped.shape[2], dtype=torch.int64)
        return self.weights_of(grouped, lengths)

    def weights_of(self, grouped: Tensor, lengths: Tensor) -> Tensor:
        K = grouped.shape[1]
        counts = {
            "sequence": torch.full_like(lengths[:, :1], K),
            "own token": K * lengths,
            "token": lengths.sum(dim=1, keepdim=True),
        }[self.share]
        if not self.standardised:
            return (grouped - grouped.mean(dim=1, keepdim=True)) / counts
        # In float64, as a deviation is a small difference; a constant added to it would be a unit.
        parts = grouped.double().reshape(len(grouped), -1, self.within or K, grouped.shape[2])
        gaps = (parts - parts.mean(dim=2, keepdim=True)).flatten(1, 2)
        spread = (gaps if self.within else parts.flatten(1, 2)).std(dim=1, keepdim=True)
        weights = gaps / (counts * spread)
        # Where all rewards are equal there is nothing to learn, and rounding must not be divided.
        same = alike(parts.to(grouped.dtype), dim=2).all(dim=1)
        return torch.where(same, 0.0, weights).to(grouped.dtype)


def _group(
    name: str, group: int, standardised: bool, summary: str, source: str, **how: Any
) -> None:
    how |= {"group": group, "standardised": standardised, "summary": summary, "source": source}
    register(partial(GroupRelative, name, **how))


_summary = "GRPO in groups of {K}, without clipping"
_group("grpo", 8, True, _summary, "Shao et al. 2024, section 4.1.2")
_summary = "GRPO in groups of {K} as first published: each sequence divided by its length"
_group("grpo-published", 8, True, _summary, "Shao et al. 2024, equation 3", share="own token")
_summary = "Dr. GRPO in groups of {K}: a group's mean, and no deviation"
_group("dr-grpo", 8, False, _summary, "Liu et al. 2025, section 3.2")
_summary = "DAPO's mean over all tokens of a group of {K}; no group is drawn again"
_group("dapo", 8, True, _summary, "Yu et al. 2025, equation 12", share="token")
_summary = "REINFORCE with rewards standardised over batches of {K}"
_source = "common practice; REINFORCE++: Hu et al. 2025"
_group("reinforce-standardised", 64, True, _summary, _source, mixed=True)
_summary = "REINFORCE++ with baseline: means of groups of 8, one deviation for {K} sequences"
_group("reinforce-plus-plus-baseline", 64, True, _summary, "Hu et al. 2025, section 3", within=8)

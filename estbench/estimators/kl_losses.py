"""The KL to a reference policy as a loss, beside RLOO: k1, k2 and k3 (Schulman 2020).

Of a reward R - beta log(policy / reference) these use R alone, and differentiate the log-ratio
themselves. With l_t = log policy - log reference of token t they stand for grad KL by

    k1, l                         sum_t S_t                  its mean is 0: there is no KL
    k2 of the sequence, l^2 / 2   sum_t (sum_s l_s) S_t      unbiased
    k2 of a token, l_t^2 / 2      sum_t l_t S_t              leaves out which prefixes come later
    k3, exp(-l) - 1 + l           sum_t (1 - exp(-l_t)) S_t  KL(reference || policy), by token

as is shown in arXiv 2512.21852. Where the reward has no penalty, all of them are RLOO.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from estbench.estimators.base import Learned, Reward, Section, Surrogate, register
from estbench.estimators.score_function import LeaveOneOut
from estbench.models.penalty import Penalty
from estbench.models.policy import Policy

__all__ = ["KLLoss"]

Slope = Callable[[Tensor], Tensor]

LOSSES: dict[str, tuple[Slope, str]] = {
    "kl-k1": (torch.ones_like, "the gradient of its KL term has mean zero"),
    "kl-k2": (lambda ratios: ratios.sum(dim=1, keepdim=True).expand_as(ratios), ""),
    "kl-k2-token": (
        lambda ratios: ratios,
        "its KL term leaves out that a token changes which prefixes come later",
    ),
    "kl-k3": (
        lambda ratios: 1 - (-ratios).exp(),
        "its KL term is KL(reference || policy), token by token",
    ),
}
"""By name: what multiplies the scores, for log-ratios ``[n, T]``, and why it is biased, or ""."""


class KLLoss(LeaveOneOut):
    """g = 1/(K-1) sum_i (R^i - mean_j R^j) S^i - beta/K sum_i sum_t w_t^i S_t^i.

    Args:
      name: A name in ``LOSSES``, which says what w is.
      group: Sequences K a draw, at least 2.
    """

    section = Section.TRAINERS
    hue = "rloo"
    without_penalty = "it is RLOO where the reward has no KL penalty: set beta above 0"

    def __init__(self, name: str, group: int = 8) -> None:
        super().__init__(group, name=name)
        self.slope, why = LOSSES[name]
        self.info = replace(
            self.info,
            summary=f"RLOO in groups of {group}, and {name[3:].replace('-', ' of each ')} as loss",
            source="Schulman 2020, Approximating KL divergence; arXiv 2512.21852",
            unbiased=not why,
            why_biased=why,
        )

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: Learned
    ) -> Surrogate:
        made = super().surrogate(policy, reward, draws, rng, state)
        penalty: Penalty | None = getattr(reward, "penalty", None)
        if penalty is None:
            return made
        ratios = penalty.log_ratios(made.tokens.flatten(0, 1))
        out = penalty.beta * ratios.sum(dim=1).reshape(made.rewards.shape)
        rewards = made.rewards + out  # without the penalty; its weights are linear in them
        advantages = self.weights(out.unsqueeze(2)).expand_as(made.tokens).flatten(1)
        losses = self.slope(ratios).reshape(made.weights.shape) * (penalty.beta / self.info.group)
        return replace(
            made,
            weights=made.weights + advantages - losses,
            rewards=rewards,
            info={"baseline": float(rewards.mean())},
        )


for _name in LOSSES:
    register(partial(KLLoss, _name))

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
from typing import Any

import torch
from torch import Tensor

from estbench.estimators.base import Learned, Reward, Section, Surrogate, register
from estbench.estimators.score_function import LeaveOneOut
from estbench.models.penalty import Penalty
from estbench.models.policy import Policy

__all__ = ["KLLoss"]

SLOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "kl-k1": torch.ones_like,
    "kl-k2": lambda ratios: ratios.sum(dim=1, keepdim=True).expand_as(ratios),
    "kl-k2-token": lambda ratios: ratios,
    "kl-k3": lambda ratios: 1 - (-ratios).exp(),
}
"""What multiplies the scores, for log-ratios ``[n, T]``."""

WHY_BIASED = {
    "kl-k1": "the gradient of its KL term has mean zero",
    "kl-k2": "",
    "kl-k2-token": "its KL term leaves out that a token changes which prefixes come later",
    "kl-k3": "its KL term is KL(reference || policy), token by token",
}


class _Unpenalised:
    """A reward without its penalty."""

    def __init__(self, reward: Reward, penalty: Penalty) -> None:
        self.reward = reward
        self.penalty = penalty

    def __call__(self, tokens: Tensor) -> Tensor:
        ratios = self.penalty.log_ratios(tokens).sum(dim=1)
        return self.reward(tokens) + self.penalty.beta * ratios


class KLLoss(LeaveOneOut):
    """g = 1/(K-1) sum_i (R^i - mean_j R^j) S^i - beta/K sum_i sum_t w_t^i S_t^i.

    Args:
      name: A name in ``SLOPES``, which says what w is.
      group: Sequences K a draw, at least 2.
    """

    section = Section.TRAINERS
    hue = "rloo"

    def __init__(self, name: str, group: int = 8) -> None:
        super().__init__(group, name=name)
        self.info = replace(
            self.info,
            summary=f"RLOO in groups of {group}, and {name[3:].replace('-', ' of each ')} as loss",
            source="Schulman 2020, Approximating KL divergence; arXiv 2512.21852",
            unbiased=not WHY_BIASED[name],
            why_biased=WHY_BIASED[name],
        )
        self.slope = SLOPES[name]

    def surrogate(
        self,
        policy: Policy,
        reward: Reward,
        draws: int,
        rng: torch.Generator,
        state: Learned,
    ) -> Surrogate:
        penalty: Penalty | None = getattr(reward, "penalty", None)
        if penalty is None:
            return super().surrogate(policy, reward, draws, rng, state)
        plain: Any = _Unpenalised(reward, penalty)
        made = super().surrogate(policy, plain, draws, rng, state)
        slopes = self.slope(penalty.log_ratios(made.tokens.flatten(0, 1)))
        weights = slopes.reshape(made.weights.shape) * (penalty.beta / self.info.group)
        return replace(made, weights=made.weights - weights)


for _name in SLOPES:
    register(partial(KLLoss, _name))

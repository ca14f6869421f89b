"""Double control variates: slopes of the reward at the other sequences, used twice."""

from __future__ import annotations

import torch
from torch import Tensor

from estbench.core import noise
from estbench.estimators.base import (
    Component,
    EstimatorInfo,
    Learned,
    Reward,
    Section,
    Surrogate,
    register,
)
from estbench.estimators.coefficients import Coefficients
from estbench.estimators.control_weights import Tuned, combine
from estbench.estimators.gumbel import one_hot
from estbench.models.policy import Policy

__all__ = ["DoubleControl"]


class DoubleControl(Tuned):
    """Leave-one-out with a linear guess at the reward taken off, inside the baseline and outside.

    With D_j = df/dx at sequence x_j, p_t the policy's probabilities after a sequence's own prefix,
    D^k = mean_{j != k} D_j and c(x, D) = sum_t D_t . (x_t - p_t):

        g = 1/K sum_k { [R_k - a c(x_k, D^k) - mean_{j != k} (R_j - a c(x_j, D_j))] S_k
                        + a sum_t sum_v D^k_t(v) grad p_t(v) }

    Titsias and Shi 2022, "Double control variates for gradient estimation in discrete latent
    variable models", section 3, is for latents that are independent, where p_t is their mean. On
    sequences p_t depends on x_{<t}, and c is a sum of a martingale's differences. As D^k knows
    nothing of x_k, E c(x_k, D^k) S_k = E sum_t D^k_t . grad p_t still: E[D_t . (x_t - p_t) S_s] is
    0 for s > t, because E S_s = 0 after x_{<s}, and for s < t, because E x_t = p_t. What c leaves
    is what the prefix changes in p_t, so that it is worth less than on independent latents. The
    second use, in the baseline, is independent of x_k and costs no correction. a is solved for on
    past draws.

    Unbiased. Needs a relaxed reward: K hard and K relaxed evaluations a draw.

    Args:
      group: Sequences K a draw, at least 2.
      name: Name in the catalogue.
    """

    section = Section.COUPLED
    hue = "evolution"

    def __init__(self, group: int = 8, name: str = "double-cv") -> None:
        self.group = group
        self.coefficients = Coefficients(("slope",))
        self.info = EstimatorInfo(
            name=name,
            summary=f"double control variates: leave-one-out in groups of {group} with slopes of f",
            source="Titsias & Shi 2022, section 3, a step at a time",
            baseline="leave-one-out",
            group=group,
            needs_relaxed_reward=True,
            learned=("slope",),
            hard_evals=str(group),
            relaxed_evals=str(group),
        )

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: Learned
    ) -> Surrogate:
        """A draw is a group of K sequences."""
        K, T, V = self.group, policy.length, policy.vocabulary
        u = noise.uniforms(rng, draws * K, {"tokens": (T,)}, policy.dtype)["tokens"]
        tokens = policy.sample_from(u)
        rewards = reward(tokens).reshape(draws, K)
        log_probs, _ = policy.trace(tokens)
        hot = one_hot(tokens, V, policy.dtype)
        slopes = _slopes(reward, hot).reshape(draws, K, T, V)
        probs = log_probs.detach().exp().reshape(draws, K, T, V)
        hot = hot.reshape(draws, K, T, V)
        others = (slopes.sum(dim=1, keepdim=True) - slopes) / (K - 1)
        own = ((hot - probs) * slopes).sum(dim=(2, 3))
        given = ((hot - probs) * others).sum(dim=(2, 3))
        baseline = (own.sum(dim=1, keepdim=True) - own) / (K - 1)
        on_scores = (baseline - given).view(draws, K, 1, 1) * hot
        centred = (rewards - rewards.mean(dim=1, keepdim=True)) / (K - 1)
        components = (
            Component("score", (centred.view(draws, K, 1, 1) * hot).flatten(1)),
            Component("slope", ((on_scores + probs * others) / K).flatten(1)),
        )
        coefficients = self.coefficients.values(state["coefficients"])
        weights = combine(components, coefficients)
        return Surrogate.of(
            log_probs, weights, tokens, rewards, K, components=components, info=coefficients
        )


def _slopes(reward: Reward, hot: Tensor) -> Tensor:
    """Return df/dx ``[n, T, V]`` at one-hot sequences ``[n, T, V]``."""
    with torch.enable_grad():
        x = hot.detach().requires_grad_()
        (slope,) = torch.autograd.grad(reward.relaxed(x).sum(), x)
    return slope


register(DoubleControl)

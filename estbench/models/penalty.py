"""Rewards with a penalty for leaving a reference: their mean is E R - beta KL(policy || ref)."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from estbench.models.policy import Policy, at_tokens
from estbench.models.reward import FunctionReward, Reward

__all__ = ["Penalised", "Penalty"]


@dataclass(frozen=True)
class Penalty:
    """beta times the log-ratio of a policy to a reference.

    Attributes:
      beta: What multiplies it.
      policy: The policy.
      reference: What it is compared with; both have the same tokens, end and contexts.
    """

    beta: float
    policy: Policy
    reference: Policy

    @torch.no_grad()
    def log_ratios(self, tokens: Tensor) -> Tensor:
        """Return log policy - log reference of each token, ``[n, T]``, 0 after an end token."""
        gap = self.policy.log_probs(tokens) - self.reference.log_probs(tokens)
        return at_tokens(gap, tokens)


class Penalised:
    """R - beta log(policy / reference), "k1 in the reward".

    Any estimator of the gradient of an expected reward is one of the gradient of E R - beta KL
    here: what it leaves out, the gradient of the log-ratio itself, has mean zero.

    Args:
      reward: The reward R, which counts its evaluations.
      policy: The policy; its parameters may change in place.
      reference: What it should stay near; it has the same tokens, end and contexts.
      beta: What multiplies the log-ratio.

    Attributes:
      penalty: The penalty, for estimators that differentiate a loss of the log-ratios instead.
    """

    def __init__(
        self, reward: Reward | FunctionReward, policy: Policy, reference: Policy, beta: float
    ) -> None:
        self.reward = reward
        self.penalty = Penalty(beta, _constant(policy), _constant(reference))
        self.is_relaxed = reward.is_relaxed
        self.hard_evals = 0
        self.relaxed_evals = 0

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return ``[n]`` for sequences int64 ``[n, T]``, without a graph."""
        self.hard_evals += tokens.shape[0]
        return self.reward(tokens) - self.penalty.beta * self.penalty.log_ratios(tokens).sum(dim=1)

    def relaxed(self, weights: Tensor) -> Tensor:
        """Return ``[n]`` for relaxed sequences ``[n, T, V]``, differentiable in them."""
        self.relaxed_evals += weights.shape[0]
        gap = self.penalty.policy.log_probs(weights) - self.penalty.reference.log_probs(weights)
        return self.reward.relaxed(weights) - self.penalty.beta * (weights * gap).sum(dim=(1, 2))


def _constant(policy: Policy) -> Policy:
    """Return a policy with the same parameters in the same memory, as constants.

    It follows the policy, nobody hears it compute, and no gradient reaches the parameters.
    """
    twin = copy.deepcopy(policy)
    twin.contexts = policy.contexts
    for mine, theirs in zip(twin.parameters(), policy.parameters(), strict=True):
        mine.data = theirs.data
        mine.requires_grad_(False)
    return twin

"""Estimators whose sequences come from an older policy: importance weights, whole and cut.

q is the policy of ``staleness`` steps ago, from which the sequences are drawn; rho_t =
p(b_t | s_t) / q(b_t | s_t), and w = prod_t rho_t. The product is what corrects for the sampler
(Precup et al. 2000; weights by decision are the same where the reward comes at the end). All
others are biased where p has moved, and RLOO where it has not (GSPO has RLOO's weights divided by
the length). Here all have RLOO's leave-one-out advantages A, so that only the weights differ.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from estbench.core import noise
from estbench.estimators.base import (
    EstimatorInfo,
    Learned,
    PerDrawGradients,
    Reward,
    Section,
    Surrogate,
    register,
)
from estbench.estimators.score_function import LeaveOneOut
from estbench.models.policy import Policy, at_tokens, sequence_lengths

__all__ = ["OffPolicy"]

CLIP = 0.2  # PPO's and CISPO's
NARROW = 4e-4  # GSPO's, whose ratio is a mean over tokens
MOST = 2.0  # what a sequence's weight may be before it is cut

Rule = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(log rho ``[n, K, T]``, A ``[n, K, 1]``, lengths ``[n, K, 1]``) -> what multiplies the scores."""


def _sequence(log_ratio: Tensor, advantages: Tensor, lengths: Tensor) -> Tensor:
    return log_ratio.sum(dim=2, keepdim=True).exp() * advantages


def _token(log_ratio: Tensor, advantages: Tensor, lengths: Tensor) -> Tensor:
    return log_ratio.exp() * advantages


def _truncated(log_ratio: Tensor, advantages: Tensor, lengths: Tensor) -> Tensor:
    return log_ratio.sum(dim=2, keepdim=True).exp().clamp_max(MOST) * advantages


def _masked(log_ratio: Tensor, advantages: Tensor, lengths: Tensor) -> Tensor:
    weights = log_ratio.sum(dim=2, keepdim=True).exp()
    return torch.where(weights <= MOST, weights, 0.0) * advantages


def _unclipped(ratio: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """Return PPO's rho A, and 0 where min(rho A, clip(rho) A) has no slope."""
    outside = torch.where(advantages > 0, ratio > 1 + clip, ratio < 1 - clip)
    return torch.where(outside, 0.0, ratio * advantages)


def _ppo(log_ratio: Tensor, advantages: Tensor, lengths: Tensor) -> Tensor:
    return _unclipped(log_ratio.exp(), advantages, CLIP)


def _gspo(log_ratio: Tensor, advantages: Tensor, lengths: Tensor) -> Tensor:
    ratio = (log_ratio.sum(dim=2, keepdim=True) / lengths).exp()
    return _unclipped(ratio, advantages, NARROW) / lengths


def _cispo(log_ratio: Tensor, advantages: Tensor, lengths: Tensor) -> Tensor:
    return log_ratio.exp().clamp_max(1 + CLIP) * advantages


def _v_trace(log_ratio: Tensor, advantages: Tensor, lengths: Tensor) -> Tensor:
    clipped = log_ratio.clamp_max(0.0)
    return clipped.flip(2).cumsum(dim=2).flip(2).exp() * advantages


class OffPolicy(LeaveOneOut):
    """g = 1/K sum_i sum_t c(rho)^i_t A^i S^i_t on sequences of an older policy.

    Args:
      name: Name in the catalogue.
      rule: What c(rho) A is; see the functions above.
      unbiased: Whether it corrects for the sampler.
      summary: One line for the catalogue, with K for ``{K}``.
      source: Paper and equation.
      group: Sequences K a draw, at least 2.
      staleness: Optimiser steps between sampler and policy; 0: it is the policy.
    """

    section = Section.TRAINERS
    hue = "biased"

    def __init__(
        self,
        name: str,
        rule: Rule,
        unbiased: bool,
        summary: str,
        source: str,
        group: int = 8,
        staleness: int = 1,
    ) -> None:
        self.rule = rule
        self.staleness = staleness
        self.rollouts = 0
        self.info = EstimatorInfo(
            name=name,
            summary=summary.format(K=group),
            source=source,
            unbiased=unbiased,
            why_biased="" if unbiased else "its weights do not correct for a sampler that is older",
            baseline="leave-one-out",
            group=group,
            sampler="an older policy" if staleness else "policy",
            hard_evals=f"{group}",
        )

    def initial_state(self, policy: Policy, rng: torch.Generator) -> Learned:
        """See ``Estimator.initial_state``: the policies of the last steps, the oldest first."""
        return {"past": [_kept(policy) for _ in range(self.staleness)]}

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: Learned
    ) -> Surrogate:
        """A draw is a group."""
        K, T = self.info.group, policy.length
        sampler = state["past"][0] if self.staleness else policy
        uniforms = noise.uniforms(rng, draws * K, {"tokens": (T,)}, policy.dtype)
        tokens = sampler.sample_from(uniforms["tokens"])
        terminal = reward(tokens)
        chosen = at_tokens(policy.log_probs(tokens), tokens)
        with torch.no_grad():
            old = at_tokens(sampler.log_probs(tokens), tokens)
        log_ratio = (chosen.detach() - old).reshape(draws, K, T)
        lengths = sequence_lengths(tokens, policy.end).reshape(draws, K, 1)
        advantages = self.weights(terminal.reshape(draws, K, 1))
        weights = self.rule(log_ratio, advantages, lengths).expand(draws, K, T)
        whole = log_ratio.sum(dim=2).exp()
        size = float(whole.sum() ** 2 / whole.square().sum() / whole.numel())
        info = {"baseline": float(terminal.mean()), "effective_sample_share": size}
        return Surrogate.of(chosen, weights, tokens, terminal, K, info=info)

    def adapt(
        self, policy: Policy, surrogate: Surrogate, gradients: PerDrawGradients, state: Learned
    ) -> None:
        """See ``Estimator.adapt``: the policy of this step is remembered before it moves on."""
        if self.staleness:
            state["past"] = [*state["past"][1:], _kept(policy)]


def _kept(policy: Policy) -> Policy:
    return copy.deepcopy(policy).requires_grad_(False)


def _off_policy(name: str, rule: Rule, summary: str, source: str, unbiased: bool = False) -> None:
    register(partial(OffPolicy, name, rule, unbiased, summary, source, group=8, staleness=1))


_summary = (
    "an older sampler's sequences, weighted by the ratio of the whole sequence, groups of {K}"
)
_off_policy(
    "importance-sequence", _sequence, _summary, "Precup et al. 2000, section 3", unbiased=True
)
_summary = "an older sampler's sequences, weighted token by token, groups of {K}"
_off_policy("importance-token", _token, _summary, "Schulman et al. 2017, equation 6")
_summary = "an older sampler's sequences, their weights at most 2, groups of {K}"
_off_policy("importance-truncated", _truncated, _summary, "Ionides 2008")
_summary = "an older sampler's sequences, those with weights above 2 left out, groups of {K}"
_off_policy("importance-masked", _masked, _summary, "common practice")
_summary = "PPO's clipped ratios (0.2), token by token, groups of {K}"
_off_policy("ppo-clip", _ppo, _summary, "Schulman et al. 2017, equation 7")
_summary = "GSPO: one clipped ratio a sequence, the geometric mean of its tokens', groups of {K}"
_off_policy("gspo", _gspo, _summary, "Zheng et al. 2025 (arXiv 2507.18071), equation 5")
_summary = "CISPO: ratios of at most 1.2 multiply the scores, groups of {K}"
_off_policy("cispo", _cispo, _summary, "arXiv 2506.13585, section 3.1")
_summary = "V-trace with a constant value: products of ratios of at most 1, groups of {K}"
_off_policy("v-trace", _v_trace, _summary, "Espeholt et al. 2018, equation 1")

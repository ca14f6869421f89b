"""Exact gradients and variances, by enumeration of every sequence, and centred rewards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from estbench.estimators.base import Reward, Surrogate
from estbench.meter.passes import Passes, in_passes
from estbench.models.enumeration import LARGEST, enumerate_sequences
from estbench.models.policy import Policy, at_tokens

__all__ = ["LARGEST", "Centred", "Exact", "enumerable", "enumerate_sequences", "exact"]


def enumerable(policy: Policy) -> bool:
    """Return whether all V^T sequences can be listed."""
    return bool(policy.vocabulary**policy.length <= LARGEST)


@dataclass(frozen=True)
class Exact:
    """Exact moments of the score-function estimators of one policy and reward.

    Attributes:
      gradient: grad E[f], a tensor for each parameter.
      mean_reward: E[f].
      reward_variance: Var f.
      score_moment: E|S|^2.
      weighted_score_moment: E[(f - E f)^2 |S|^2].
      reward_score_moment: E[(f - E f) |S|^2].
    """

    gradient: list[Tensor]
    mean_reward: float
    reward_variance: float
    score_moment: float
    weighted_score_moment: float
    reward_score_moment: float

    @property
    def squared_norm(self) -> float:
        """|grad E[f]|^2."""
        return float(sum((g.double() ** 2).sum() for g in self.gradient))

    def reinforce_variance(self, baseline: float = 0.0) -> float:
        """Return tr Cov of (f - baseline) S, one sequence a draw."""
        shift = self.mean_reward - baseline
        second = (
            self.weighted_score_moment
            + 2 * shift * self.reward_score_moment
            + shift**2 * self.score_moment
        )
        return second - self.squared_norm

    @property
    def best_constant(self) -> float:
        """The constant baseline of least variance, E[f |S|^2] / E|S|^2."""
        return self.mean_reward + self.reward_score_moment / self.score_moment

    def leave_one_out_variance(self, group: int) -> float:
        """Return tr Cov of one RLOO draw of ``group`` sequences.

        RLOO is the sample covariance of reward and score, whose variance is the textbook one.
        """
        K = group
        return (
            self.weighted_score_moment
            - (K - 2) / (K - 1) * self.squared_norm
            + self.reward_variance * self.score_moment / (K - 1)
        ) / K


class Centred:
    """A reward minus a constant, hard and relaxed alike; it counts as the reward does.

    Args:
      reward: The reward.
      mean: What is subtracted, such as ``Exact.mean_reward``.
    """

    def __init__(self, reward: Reward, mean: float) -> None:
        self.reward = reward
        self.mean = mean
        self.hard_evals = 0
        self.relaxed_evals = 0

    @property
    def penalty(self) -> Any:
        """The reward's penalty for leaving a reference policy; None where it has none."""
        return getattr(self.reward, "penalty", None)

    def __call__(self, tokens: Tensor) -> Tensor:
        self.hard_evals += tokens.shape[0]
        return self.reward(tokens) - self.mean

    def relaxed(self, weights: Tensor) -> Tensor:
        self.relaxed_evals += weights.shape[0]
        return self.reward.relaxed(weights) - self.mean


def exact(
    policy: Policy,
    reward: Callable[[Tensor], Tensor],
    chunk: int = 2048,
    sequences: Tensor | None = None,
) -> Exact:
    """Return exact moments by enumeration, accumulated in float64.

    Args:
      policy: An enumerable policy.
      reward: Rewards ``[n]`` of sequences int64 ``[n, T]``.
      chunk: Sequences at a time.
      sequences: All that the policy can draw, int64 ``[N, T]``, where that is less than V^T; of a
        policy with M contexts once for each, context by context, in one chunk.

    Raises:
      UserError: There are more than ``LARGEST`` sequences.
    """
    if sequences is None:
        sequences = enumerate_sequences(policy.vocabulary, policy.length).to(policy.device)
    with torch.no_grad():
        f = torch.cat([reward(part) for part in torch.split(sequences, chunk)]).double()
        log_p = torch.cat(
            [
                at_tokens(policy.log_probs(part), part).sum(dim=1)
                for part in torch.split(sequences, chunk)
            ]
        ).double()
    p = log_p.exp()
    p = p / p.sum()
    # As differences from one of them, equal rewards leave nothing that only rounding made.
    gaps = f - f[0]
    centred = gaps - p @ gaps
    mean = float(f[0] + p @ gaps)
    parts = [torch.split(each, chunk) for each in (sequences, p, centred)]
    gradient, squared = in_passes(policy, None, lambda passes: _scores(passes, policy, *parts))
    return Exact(
        gradient=gradient,
        mean_reward=mean,
        reward_variance=float(p @ centred**2),
        score_moment=float(p @ squared),
        weighted_score_moment=float(p @ (centred**2 * squared)),
        reward_score_moment=float(p @ (centred * squared)),
    )


def _scores(
    passes: Passes,
    policy: Policy,
    sequences: Sequence[Tensor],
    p: Sequence[Tensor],
    centred: Sequence[Tensor],
) -> tuple[list[Tensor], Tensor]:
    """Return the exact gradient, and |S|^2 of every sequence.

    All come in chunks: sequences ``[n, T]``, their probabilities and centred rewards ``[n]``.
    """
    gradient: list[Tensor] | None = None
    norms: list[Tensor] = []
    for part, p_part, f_part in zip(sequences, p, centred, strict=True):
        with passes.tape() as tape:
            log_probs = at_tokens(policy.log_probs(part), part)
        ones = torch.ones_like(log_probs)
        surrogate = Surrogate(log_probs, ones, part.unsqueeze(1), f_part.unsqueeze(1))
        last = len(norms) == len(sequences) - 1
        scores = passes.differentiate(tape, surrogate, last, retain_graph=True)
        norms.append(scores.squared_norms().double())
        # E[(f - E f) S] = grad E f: centring removes what only rounding would have to cancel.
        weights = (p_part * f_part).to(ones.dtype)
        total = (log_probs.sum(dim=1) * weights).sum()
        grads = torch.autograd.grad(total, tape.parameters, materialize_grads=True)
        gradient = (
            [g.double() for g in grads]
            if gradient is None
            else [a + g.double() for a, g in zip(gradient, grads, strict=True)]
        )
    assert gradient is not None
    return gradient, torch.cat(norms)

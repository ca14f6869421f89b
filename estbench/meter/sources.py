"""Where the variance comes from: the part of each time step in the variance of a draw.

A draw is a sum over the policy's log-probabilities, g = sum_t g_t, with g_t what flows back from
those of step t (through all earlier steps of the network). Then tr Cov(g) = sum_t tr Cov(g_t, g):
each step's part, which is negative where a step cancels what others bring.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from estbench.estimators.base import Estimator, Learned, Reward, Surrogate
from estbench.meter.cost import sequences_at_once
from estbench.meter.gradients import Tape
from estbench.models.policy import Policy

__all__ = ["variance_by_step"]


def variance_by_step(
    method: Estimator,
    policy: Policy,
    reward: Reward,
    sequences: int,
    rng: torch.Generator,
    learned: Learned,
) -> dict[str, Any] | None:
    """Return each step's part of the total variance of one draw.

    Args:
      method: The estimator; nothing of it learns here.
      policy: The policy.
      reward: The reward.
      sequences: About how many to draw; one backward pass a step and draw is made of them.
      rng: Noise.
      learned: The estimator's state.

    Returns:
      ``draws``; ``total``, tr Cov of one draw from these draws; ``parts`` ``[T]``, tr Cov(g_t, g),
      and ``path``, the same of the pathwise term (0 where there is none), which sum to ``total``;
      ``alone`` ``[T]``, tr Cov(g_t). None where the draws are no sum over the steps of whole
      sequences that the meter can take apart.
    """
    group = method.info.group
    draws = max(2, min(sequences, sequences_at_once(policy, sequences)) // group)
    with Tape(policy) as tape:
        surrogate = method.surrogate(policy, reward, draws, rng, learned)
    if not isinstance(surrogate, Surrogate) or surrogate.tensor_terms:
        return None
    steps = _steps(surrogate, policy)
    whole = tape.differentiate(surrogate, retain_graph=True)
    if steps is None or tape.fault:
        return None
    mean = [m.double() for m in whole.mean()]

    def part(chosen: Surrogate) -> tuple[float, float]:
        found = tape.differentiate(chosen, check=False, retain_graph=True)
        own = [m.double() for m in found.mean()]
        crossed = float(found.inner(whole).double().sum())
        squared = float(found.squared_norms().double().sum())
        across = sum(float((a * b).sum()) for a, b in zip(own, mean, strict=True))
        within = sum(float((a * a).sum()) for a in own)
        return (crossed - draws * across) / (draws - 1), (squared - draws * within) / (draws - 1)

    detached = surrogate.weights.detach()
    found = []
    for step in range(policy.length):
        weights = detached * (steps == step)
        found.append(part(replace(surrogate, weights=weights, pathwise=None)))
    path = 0.0
    if surrogate.pathwise is not None:
        path = part(replace(surrogate, weights=torch.zeros_like(detached)))[0]
    total2 = float(whole.squared_norms().double().sum())
    mean2 = sum(float((m * m).sum()) for m in mean)
    return {
        "draws": draws,
        "total": (total2 - draws * mean2) / (draws - 1),
        "parts": [crossed for crossed, _ in found],
        "alone": [squared for _, squared in found],
        "path": path,
    }


def _steps(surrogate: Surrogate, policy: Policy) -> torch.Tensor | None:
    """Return the step of each column of log-probabilities: a row holds [K, T] or [K, T, V]."""
    _, K, T = surrogate.tokens.shape
    columns = surrogate.log_probs.shape[1]
    index = torch.arange(columns, device=policy.device)
    if policy.length == T and columns == K * T:
        return index % T
    if policy.length == T and columns == K * T * policy.vocabulary:
        return index // policy.vocabulary % T
    return None

"""What an estimator has learned when it is tested: nothing, anything, or what it is meant to."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from estbench.estimators.base import Estimator, Learned
from estbench.meter.bias import Centred
from estbench.meter.exact import exact
from estbench.meter.measuring import adapt_once
from estbench.models.policy import Policy
from estbench.proof.problems import Problem
from estbench.proof.rewards import rng

STATES = ("fresh", "arbitrary", "trained")
BATCHES, SEQUENCES = 60, 128
MOVED = "moved"
"""The policy has moved since the estimator last saw it; see ``moved``."""
BEFORE = 120  # batches of training before it moves
STRIDE = 0.3


def learned(method: Estimator, problem: Problem, how: str, seed: int = 0) -> dict[str, Any]:
    """Return the state; "arbitrary" has every coefficient away from 0 and a random network."""
    noise = rng(seed)
    state = method.initial_state(problem.policy, noise)
    if how == "trained":
        train(method, problem, state, noise)
    if how == "arbitrary":
        disturb(method, problem.policy, state, noise)
    return state


def prepared(method: Estimator, problem: Problem, how: str) -> tuple[Problem, dict[str, Any]]:
    """Return the problem to judge an estimator on, and what it has learned by then."""
    return moved(method, problem) if how == MOVED else (problem, learned(method, problem, how))


def moved(method: Estimator, problem: Problem, seed: int = 0) -> tuple[Problem, dict[str, Any]]:
    """Return a problem whose policy moved away after the estimator was trained with it.

    The estimator is trained on 120 batches and draws once more; then a step of 0.3 normal(0, 1)
    moves every parameter. What it kept of the policy (a copy, log-probabilities, rollouts, sums
    over sequences) is that of another policy.
    """
    policy = copy.deepcopy(problem.policy)
    noise = rng(seed)
    steps = [
        STRIDE * torch.randn(p.shape, generator=noise, dtype=p.dtype) for p in policy.parameters()
    ]
    target = copy.deepcopy(policy)
    _take(target, steps)
    truth = exact(target, problem.reward.reward)
    reward = Centred(problem.reward.reward, truth.mean_reward)
    before = Problem(policy, reward, problem.exact)
    state = method.initial_state(policy, noise)
    train(method, before, state, noise, BEFORE)
    method.surrogate(policy, reward, max(2, SEQUENCES // method.info.group), noise, state)
    _take(policy, steps)
    return Problem(policy, reward, truth), state


@torch.no_grad()
def _take(policy: Policy, steps: Sequence[Tensor]) -> None:
    for parameter, step in zip(policy.parameters(), steps, strict=True):
        parameter.add_(step)


def train(
    method: Estimator,
    problem: Problem,
    state: Learned,
    noise: torch.Generator,
    batches: int = BATCHES,
) -> None:
    contexts = problem.policy.fewest_rows
    draws = contexts * max(2, SEQUENCES // method.info.group // contexts)
    for _ in range(batches):
        adapt_once(method, problem.policy, problem.reward, draws, noise, state)


def disturb(method: Any, policy: Policy, state: Learned, noise: torch.Generator) -> None:
    """Move what the catalogue's families learn; what a user keeps under such a name stays."""
    coefficients = _part(state, "coefficients", "values")
    if coefficients and hasattr(method, "coefficients"):
        # The constant is an offset of a reward that is centred; the others are best near 1.
        given = {"constant": 0.1, "factor": 0.7, "eta": 0.6}
        coefficients["values"] = tuple(
            given.get(label, 0.5) for label in method.coefficients.labels
        )
    tensors = _part(state, "tensors")
    for k, name in enumerate(tensors):
        if part := _part(tensors, name, "values"):
            part["values"] = (0.1 - 0.05 * (k % 3), 0.9 - 0.3 * (k % 4))
    if isinstance(network := state.get("network"), nn.Module):
        with torch.no_grad():
            for parameter in network.parameters():
                shape, dtype = parameter.shape, parameter.dtype
                parameter.add_(0.2 * torch.randn(shape, generator=noise, dtype=dtype))
    if steps := _part(state, "steps", "values"):
        values = steps["values"]
        steps["values"] = 0.2 * torch.randn(values.shape, generator=noise).to(values)
    for name in ("baseline", "critic"):
        part = _part(state, name)
        average = _part(part, "average", "weight") or _part({name: part}, name, "weight")
        average.update({"weight": 1.0, "sum": 0.1, "squares": 0.2} if average else {})


def _part(state: Mapping[str, Any], name: str, key: str = "") -> dict[str, Any]:
    """Return a part of a state, {} if it is not there or is not a table that holds ``key``."""
    part = state.get(name)
    return part if isinstance(part, dict) and (not key or key in part) else {}

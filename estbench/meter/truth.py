"""The gradient that estimators are held against: exact where it can be, else from many draws."""

from __future__ import annotations

import torch

from estbench.estimators.base import Reward
from estbench.estimators.score_function import LeaveOneOut, Reinforce
from estbench.meter.centred import Centred
from estbench.meter.contexts import moments_for, portions
from estbench.meter.cost import sequences_at_once
from estbench.meter.exact import enumerable, exact
from estbench.meter.gradients import Tape
from estbench.meter.moments import Reference
from estbench.models.policy import Policy

__all__ = ["true_gradient"]

PILOT = 1024
CHUNK = 2048
GROUP = 16  # sequences a draw, where there are several contexts


def true_gradient(
    policy: Policy, reward: Reward, sequences: int, rng: torch.Generator
) -> Reference:
    """Return the gradient of E[reward], with its noise.

    Always with full backpropagation through time, also where the policy cuts it: truncation is
    then a bias that shows. Enumerated where there are few enough sequences. Elsewhere REINFORCE
    over many sequences, with a constant baseline from a pilot sample that is not used again, so
    that it is unbiased.

    Of a policy that is conditioned on contexts it is the mean over those that it has now. Where it
    cannot be enumerated, leave-one-out in groups of 16 sequences of the same context makes it, for
    rewards of different contexts have different means.

    Args:
      policy: The policy.
      reward: The reward; its counters are left alone.
      sequences: How many sequences, where it cannot be enumerated.
      rng: Noise of the draws.
    """
    evals = reward.hard_evals
    truncation = policy.truncation
    if truncation:
        policy.truncation = 0
    try:
        return _untruncated(policy, reward, sequences, rng)
    finally:
        reward.hard_evals = evals
        if truncation:
            policy.truncation = truncation


def _untruncated(policy: Policy, reward: Reward, sequences: int, rng: torch.Generator) -> Reference:
    if policy.fewest_rows > 1:
        return _over_contexts(policy, reward, sequences, rng)
    if enumerable(policy):
        return Reference(exact(policy, reward).gradient, 0.0)
    method = Reinforce("reference", "none")
    centre = float(reward(policy.sample(PILOT, rng)).double().mean())
    centred = Centred(reward, centre)
    sums = None
    squares, done, fault = 0.0, 0, ""
    at_once = sequences_at_once(policy, CHUNK)
    while done < sequences:
        n = min(at_once, sequences - done)
        with Tape(policy, fault) as tape:
            surrogate = method.surrogate(
                policy,
                centred,
                n,
                rng,
                method.initial_state(policy, rng),
            )
        found = tape.differentiate(surrogate, check=done == 0)
        fault = tape.fault
        squares += float(found.squared_norms().double().sum())
        parts = [s.double() for s in found.sums]
        sums = parts if sums is None else [a + b for a, b in zip(sums, parts, strict=True)]
        done += n
    assert sums is not None
    mean = [s / done for s in sums]
    norm2 = sum(float((m**2).sum()) for m in mean)
    return Reference(mean, (squares - done * norm2) / (done - 1) / done)


def _over_contexts(
    policy: Policy, reward: Reward, sequences: int, rng: torch.Generator
) -> Reference:
    assert policy.contexts is not None
    zeros = [
        torch.zeros_like(p, dtype=torch.float64) for p in policy.parameters() if p.requires_grad
    ]
    if enumerable(policy):
        M = policy.contexts.count
        for context in torch.split(policy.contexts.values, 1):
            with policy.contexts.given(context):
                found = exact(policy, reward).gradient
            zeros = [a + b / M for a, b in zip(zeros, found, strict=True)]
        return Reference(zeros, 0.0)
    method = LeaveOneOut(GROUP, name="reference")
    moments = moments_for(policy, Reference(zeros, 0.0), ["" for _ in zeros])
    fault = ""
    for draws in portions(policy, sequences // GROUP, sequences_at_once(policy, CHUNK) // GROUP):
        with Tape(policy, fault) as tape:
            surrogate = method.surrogate(policy, reward, draws, rng, {})
        moments.add(tape.differentiate(surrogate, check=moments.draws == 0), by_tensor=False)
        fault = tape.fault
    return moments.mean_as_reference()

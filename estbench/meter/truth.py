"""The gradient that estimators are held against: exact where it can be, else from many draws."""

from __future__ import annotations

import torch
from torch import Tensor

from estbench.estimators.base import Estimator, Reward
from estbench.estimators.score_function import LeaveOneOut, Reinforce
from estbench.meter.contexts import moments_for, portions
from estbench.meter.cost import sequences_at_once
from estbench.meter.exact import Centred, enumerable, exact
from estbench.meter.gains import untouched
from estbench.meter.moments import Reference
from estbench.meter.passes import Passes, in_passes
from estbench.models.policy import Policy, at_tokens

__all__ = ["true_gradient"]

PILOT = 1024
CHUNK = 2048
LISTED = 500_000  # sequences of all contexts together, at most
GROUP = 16  # sequences a draw, where there are several contexts


def true_gradient(
    policy: Policy,
    reward: Reward,
    sequences: int,
    rng: torch.Generator,
    metric: list[Tensor] | None = None,
    noisy: bool = False,
) -> Reference:
    """Return the gradient of E[reward], with its noise.

    Always with full backpropagation through time, also where the policy cuts it: truncation is
    then a bias that shows. Enumerated where there are few enough sequences. Elsewhere REINFORCE
    over many sequences, with a constant baseline from a pilot sample that is not used again, so
    that it is unbiased.

    Of a policy that is conditioned on contexts it is the mean over those that it has now. The
    reward may know the one answer to each context that earns anything (``only_rewarded``, see
    ``tasks.arithmetic``), which makes it exact. Else, where it cannot be enumerated, leave-one-out
    in groups of 16 sequences of the same context makes it, for rewards of different contexts have
    different means.

    Args:
      policy: The policy.
      reward: The reward; its counters are left alone.
      sequences: How many sequences, where it cannot be enumerated.
      rng: Noise of the draws.
      metric: Diagonal P of a metric in which the noise is wanted too, a tensor for each parameter.
      noisy: Whether the reward is noisy. It is then never enumerated: each sequence would be
        evaluated once, and that noise would be taken for a part of the gradient.
    """
    listed = enumerable(policy) and not noisy
    with untouched(policy, reward):
        if policy.fewest_rows > 1:
            return _over_contexts(policy, reward, sequences, rng, metric, listed)
        if listed:
            return Reference(exact(policy, reward).gradient, 0.0, metric)
        centre = float(reward(policy.sample(PILOT, rng)).double().mean())
        method, centred = Reinforce("reference", "none"), Centred(reward, centre)
        at_once = sequences_at_once(policy, CHUNK)
        return _from_draws(method, policy, centred, sequences, at_once, rng, metric)


def _over_contexts(
    policy: Policy,
    reward: Reward,
    sequences: int,
    rng: torch.Generator,
    metric: list[Tensor] | None,
    listed: bool,
) -> Reference:
    assert policy.contexts is not None
    M = policy.contexts.count
    if (only := getattr(reward, "only_rewarded", lambda: None)()) is not None:
        # grad E R is the sum of p R S over the answers that earn anything.
        p = at_tokens(policy.log_probs(only), only).sum(dim=1).exp()
        chosen = [part for part in policy.parameters() if part.requires_grad]
        gradient = torch.autograd.grad((p * reward(only)).mean(), chosen, materialize_grads=True)
        return Reference([part.double() for part in gradient], 0.0, metric)
    if listed and M * policy.vocabulary**policy.length <= LISTED:
        total = _zeros(policy)
        for context in torch.split(policy.contexts.values, 1):
            with policy.contexts.given(context):
                found = exact(policy, reward).gradient
            total = [a + b / M for a, b in zip(total, found, strict=True)]
        return Reference(total, 0.0, metric)
    method, draws = LeaveOneOut(GROUP, name="reference"), sequences // GROUP
    at_once = sequences_at_once(policy, CHUNK) // GROUP
    return _from_draws(method, policy, reward, draws, at_once, rng, metric)


def _from_draws(
    method: Estimator,
    policy: Policy,
    reward: Reward,
    draws: int,
    at_once: int,
    rng: torch.Generator,
    metric: list[Tensor] | None,
) -> Reference:
    """Return the mean of an estimator's draws, at most ``at_once`` in a pass."""
    zeros = _zeros(policy)
    state = method.initial_state(policy, rng)
    sizes = list(portions(policy, draws, at_once))

    def measure(passes: Passes) -> Reference:
        moments = moments_for(policy, Reference(zeros, 0.0, metric), ["" for _ in zeros])
        for index, size in enumerate(sizes, 1):
            with passes.tape() as tape:
                surrogate = method.surrogate(policy, reward, size, rng, state)
            found = passes.differentiate(tape, surrogate, last=index == len(sizes))
            moments.add(found, by_tensor=False)
        return moments.mean_as_reference()

    return in_passes(policy, rng, measure)


def _zeros(policy: Policy) -> list[Tensor]:
    trained = (p for p in policy.parameters() if p.requires_grad)
    return [torch.zeros_like(p, dtype=torch.float64) for p in trained]

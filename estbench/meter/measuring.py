"""Measuring one estimator at one policy and reward: adapt first, then freeze, then draw."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import torch

from estbench.core.errors import UserError
from estbench.estimators.base import Draws, Estimator, Learned, Reward, Surrogate
from estbench.meter.answers import Answers
from estbench.meter.contexts import in_sets, moments_for, portions, sets_of
from estbench.meter.cost import count_steps, sequences_at_once
from estbench.meter.gradients import Tape
from estbench.meter.moments import Reference
from estbench.meter.passes import Passes, in_passes
from estbench.models.policy import Policy

__all__ = ["adapt_once", "measure"]

CHUNK = 1024  # sequences in one backward pass, at most


def adapt_once(
    method: Estimator,
    policy: Policy,
    reward: Reward,
    draws: int,
    rng: torch.Generator,
    learned: Learned,
) -> None:
    """Train what is learned on one batch of draws that serve nothing else.

    Raises:
      UserError: The policy's attention cannot be differentiated twice.
    """
    with Tape(policy) as tape:
        surrogate = method.surrogate(policy, reward, draws, rng, learned)
    try:
        method.adapt(policy, surrogate, tape, learned)
    except RuntimeError as error:
        if "attention" not in str(error) or "is not implemented" not in str(error):
            raise
        raise UserError(
            f"{method.info.name} differentiates the policy twice, and its attention cannot be: "
            "use eager attention, for a model of transformers "
            "model.set_attn_implementation('eager')"
        ) from error


def measure(
    method: Estimator,
    policy: Policy,
    reward: Reward,
    sequences: int,
    rng: torch.Generator,
    learned: Learned,
    reference: Reference,
) -> dict[str, Any]:
    """Return a row of measurements from about ``sequences`` sequences; nothing learns on them.

    Of a policy that is conditioned on several contexts, they are shared out among those, and the
    variance is within contexts (see ``contexts``).
    """

    def measured(passes: Passes) -> dict[str, Any]:
        group = method.info.group
        total = max(2, sequences // group)
        names = [name for name, p in policy.named_parameters() if p.requires_grad]
        sets = sets_of(method, policy)
        moments = moments_for(policy, reference, names, sets)
        without = moments_for(policy, replace(reference, metric=None), names, sets)
        hard, relaxed = reward.hard_evals, reward.relaxed_evals
        seconds = 0.0
        surrogate: Draws | None = None
        at_once = max(1, sequences_at_once(policy, CHUNK) // group)
        copies = [part for part in learned.values() if isinstance(part, Policy)]
        sizes = list(portions(policy, total, at_once, sets))
        answers = Answers(policy, reward)
        with count_steps(policy, *copies) as counted:
            for index, draws in enumerate(sizes, 1):
                started = time.perf_counter()
                with passes.tape() as tape, in_sets(policy, sets, draws):
                    surrogate = method.surrogate(policy, reward, draws, rng, learned)
                seconds += time.perf_counter() - started
                answers.add(surrogate)
                last = index == len(sizes)
                found = passes.differentiate(tape, surrogate, last, retain_graph=True)
                moments.add(found)
                plain = None
                if isinstance(surrogate, Surrogate):
                    plain = method.without_control(surrogate, learned)
                if plain is not None:
                    without.add(tape.differentiate(plain, check=False), by_tensor=False)
        assert surrogate is not None
        total = moments.draws
        bare = float(without.summary(group)["total_variance"]) if without.distances else math.nan  # type: ignore[arg-type]
        return {
            **moments.summary(group),
            "hard_evals_per_draw": (reward.hard_evals - hard) / total,
            "relaxed_evals_per_draw": (reward.relaxed_evals - relaxed) / total,
            "policy_steps_per_draw": counted.steps / total,
            **answers.summary(),
            "seconds_per_draw": seconds / total,
            "untrained_variance": bare,
            "info": {**surrogate.info, "meter_fault": passes.fault},
        }

    return in_passes(policy, rng, measured)

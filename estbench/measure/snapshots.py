"""Measuring an estimator at the shared snapshots of a reference trajectory.

Every estimator meets the same parameters. What it learns starts from where the previous snapshot
left it, adapts on a stated number of sequences, the same for all, and is then frozen; the draws
that are measured come after.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from estbench import tasks
from estbench.estimators import make
from estbench.estimators.base import Estimator, Surrogate
from estbench.experiment import FRACTIONS, Experiment
from estbench.measure.cost import count_steps
from estbench.measure.gradients import Tape
from estbench.measure.moments import Moments, Reference
from estbench.models.build import build
from estbench.models.policy import Policy
from estbench.models.reward import Reward
from estbench.seeding import stream

__all__ = ["measure_at_snapshots"]

CHUNK = 1024  # sequences in one backward pass


def measure_at_snapshots(
    experiment: Experiment, task: str, estimator: str, seed: int, state: dict[str, Any]
) -> dict[str, Any]:
    """Return an estimator's measurements at the snapshots of one (task, seed).

    Args:
      experiment: Settings.
      task: Name of the task.
      estimator: Name of the estimator.
      seed: The replicate.
      state: What ``estbench.training.reference.reference`` returned as state.
    """
    settings = experiment.training_for(task)
    device = experiment.device
    size = tasks.info(task)
    policy, discriminator = build(size.vocabulary, size.length, settings.truncation, device)
    reward = Reward(discriminator, settings.reward)
    method = make(estimator, rollouts=settings.rollouts, truncation=settings.truncation)
    learned = method.initial_state(policy, stream("learned", task, seed, estimator))
    rng = stream("snapshot", task, seed, estimator, device=device)
    rows = []
    for snapshot in state["snapshots"]:
        policy.load_state_dict(snapshot["policy"])
        discriminator.load_state_dict(snapshot["discriminator"])
        reference = Reference([g.to(device) for g in snapshot["gradient"]], snapshot["noise"])
        before = reward.hard_evals + reward.relaxed_evals
        batch = max(1, settings.batch_size // method.info.group)
        for _ in range(experiment.snapshots.adaptation_batches):
            adapt_once(method, policy, reward, batch, rng, learned)
        adapted = reward.hard_evals + reward.relaxed_evals - before
        measured = measure(
            method, policy, reward, experiment.snapshots.sequences, rng, learned, reference
        )
        rows.append(
            {
                "snapshot": snapshot["snapshot"],
                "step": snapshot["step"],
                "fraction": FRACTIONS[snapshot["snapshot"]],
                **measured,
                "adapt_evals": adapted,
            }
        )
    return {
        "snapshots": rows,
        "declared": {"unbiased": method.info.unbiased, "why_biased": method.info.why_biased},
    }


def adapt_once(
    method: Estimator,
    policy: Policy,
    reward: Reward,
    draws: int,
    rng: torch.Generator,
    learned: dict[str, Any],
) -> None:
    """Train what is learned on one batch of draws that serve nothing else."""
    with Tape(policy) as tape:
        surrogate = method.surrogate(policy, reward, draws, rng, learned)
    method.adapt(policy, surrogate, tape, learned)


def measure(
    method: Estimator,
    policy: Policy,
    reward: Reward,
    sequences: int,
    rng: torch.Generator,
    learned: dict[str, Any],
    reference: Reference,
) -> dict[str, Any]:
    """Return a row of measurements from about ``sequences`` sequences; nothing learns on them."""
    group = method.info.group
    total = max(2, sequences // group)
    names = [name for name, p in policy.named_parameters() if p.requires_grad]
    moments, without = Moments(reference, names), Moments(reference, names)
    hard, relaxed = reward.hard_evals, reward.relaxed_evals
    seconds, fault = 0.0, ""
    surrogate: Surrogate | None = None
    with count_steps(policy) as counted:
        while moments.draws < total:
            draws = min(max(1, CHUNK // group), total - moments.draws)
            started = time.perf_counter()
            with Tape(policy, fault) as tape:
                surrogate = method.surrogate(policy, reward, draws, rng, learned)
            seconds += time.perf_counter() - started
            first = moments.draws == 0
            found = tape.differentiate(surrogate, check=first, retain_graph=True)
            fault = tape.fault
            moments.add(found)
            plain = method.without_control(surrogate, learned)
            if plain is not None:
                without.add(tape.differentiate(plain, check=False), by_tensor=False)
    assert surrogate is not None
    bare = float(without.summary(group)["total_variance"]) if without.distances else math.nan  # type: ignore[arg-type]
    return {
        **moments.summary(group),
        "hard_evals_per_draw": (reward.hard_evals - hard) / total,
        "relaxed_evals_per_draw": (reward.relaxed_evals - relaxed) / total,
        "policy_steps_per_draw": counted.steps / total,
        "seconds_per_draw": seconds / total,
        "untrained_variance": bare,
        "info": {**surrogate.info, "meter_fault": fault},
    }

"""Measuring an estimator at the shared snapshots of a reference trajectory.

Every estimator meets the same parameters. What it learns starts from where the previous snapshot
left it, adapts on a stated number of sequences, the same for all, and is then frozen; the draws
that are measured come after.
"""

from __future__ import annotations

from typing import Any

from estbench import tasks
from estbench.estimators import make
from estbench.experiment import FRACTIONS, Experiment
from estbench.meter.measuring import adapt_once, measure
from estbench.meter.moments import Reference
from estbench.models.build import build
from estbench.models.reward import Reward
from estbench.seeding import stream

__all__ = ["measure_at_snapshots"]


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
    size = tasks.size(task, settings)
    policy, discriminator = build(
        size.vocabulary,
        size.length,
        settings.truncation,
        device,
        size.end,
        settings.discriminator,
    )
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

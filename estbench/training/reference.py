"""The reference trajectory: RLOO's run, with the snapshots at which every estimator is measured."""

from __future__ import annotations

from typing import Any

from estbench.experiment import FRACTIONS, Experiment
from estbench.meter.truth import true_gradient
from estbench.seeding import stream
from estbench.training.adversarial import train
from estbench.training.session import Session

__all__ = ["REFERENCE", "reference", "snapshot_steps"]

REFERENCE = "rloo"


def snapshot_steps(batches: int) -> list[int]:
    """Return after how many batches the snapshots are taken; equal steps are kept apart."""
    return [round(fraction * batches) for fraction in FRACTIONS]


def reference(
    experiment: Experiment, task: str, seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return RLOO's run record and the state of its snapshots.

    The state holds, for each snapshot, the parameters of the policy and of its reward, and
    the gradient that estimators are held against, with its own noise: see ``estbench.meter.truth``.
    """
    settings = experiment.training_for(task)
    steps = snapshot_steps(settings.batches)
    taken: list[dict[str, Any]] = []
    rng = stream("reference", task, seed, device=experiment.device)

    def keep(done: int, session: Session) -> None:
        for index, step in enumerate(steps):
            if step == done:
                with session.stage.measured():
                    truth = true_gradient(
                        session.policy,
                        session.reward,
                        experiment.snapshots.reference_sequences,
                        rng,
                    )
                taken.append(
                    {
                        "snapshot": index,
                        "step": step,
                        **session.stage.snapshot(),
                        "gradient": [g.cpu() for g in truth.gradient],
                        "noise": truth.noise,
                    }
                )

    also = {"taken": taken, "rng": rng}
    payload = train(experiment, task, REFERENCE, seed, at_batch=keep, also=also)
    return {**payload, "snapshot_steps": steps}, {"snapshots": taken}

"""The reference trajectory: RLOO's run, with the snapshots at which every estimator is measured."""

from __future__ import annotations

from typing import Any

import torch

from estbench.experiment import FRACTIONS, Experiment
from estbench.meter.gains import parameters
from estbench.meter.progress import Adam, exact_steps
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
    ``optimiser`` is what Adam has there (see ``moments``). Where steps are followed, ``progress``
    holds the exact gradient's: see ``estbench.meter.progress.exact_steps``.
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
                        "optimiser": moments(session.optimiser),
                        "progress": follow(session, step),
                    }
                )

    def follow(session: Session, step: int) -> dict[str, Any] | None:
        if step not in experiment.progress_steps(task):
            return None
        here, rate = parameters(session.policy), settings.generator_learning_rate
        with session.stage.whole():
            return exact_steps(
                session.policy,
                session.reward,
                Adam.resumed(moments(session.optimiser), here, rate),
                experiment.snapshots.progress_rates,
                experiment.snapshots.reference_sequences,
                stream("exact steps", task, seed, step, device=experiment.device),
                settings.gradient_clip,
            )

    also = {"taken": taken, "rng": rng}
    payload = train(experiment, task, REFERENCE, seed, at_batch=keep, also=also)
    return {**payload, "snapshot_steps": steps}, {"snapshots": taken}


def moments(optimiser: torch.optim.Optimizer) -> dict[str, Any] | None:
    """Return Adam's moving averages, a tensor for each parameter, and its settings.

    They are those of a descent: of minus the gradient of E[reward]. None before the first step.
    """
    (group,) = optimiser.param_groups
    states = [optimiser.state[p] for p in group["params"] if p in optimiser.state]
    if not states:
        return None
    return {
        "exp_avg": [state["exp_avg"].detach().clone().cpu() for state in states],
        "exp_avg_sq": [state["exp_avg_sq"].detach().clone().cpu() for state in states],
        "step": int(states[0]["step"]),
        "lr": float(group["lr"]),
        "betas": tuple(group["betas"]),
        "eps": float(group["eps"]),
    }

"""The reference trajectory: RLOO's run, with the snapshots at which every estimator is measured."""

from __future__ import annotations

from typing import Any

import torch

from estbench import tasks
from estbench.config.experiment import FRACTIONS, Experiment
from estbench.core.seeding import stream
from estbench.meter.adam import metric, moments_of
from estbench.meter.gains import parameters
from estbench.meter.progress import Adam, exact_steps
from estbench.meter.truth import true_gradient
from estbench.training.adversarial import train
from estbench.training.session import Session

__all__ = ["REFERENCE", "reference", "snapshot_steps"]

REFERENCE = "rloo"
SPREAD = 1024  # sequences of the policy, and as many of the data, that say how rewards differ


def snapshot_steps(batches: int) -> list[int]:
    """Return after how many batches the snapshots are taken, each number once."""
    return sorted({round(fraction * batches) for fraction in FRACTIONS})


def reference(
    experiment: Experiment, task: str, seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return RLOO's run record and the state of its snapshots.

    The state holds for each snapshot:

    - ``snapshot`` (its number) and ``step`` (batches done);
    - the parameters of each part of the stage, by its name;
    - ``optimiser``: the moments that Adam holds of the policy, see ``estbench.meter.adam``;
    - ``gradient``, ``noise`` and ``metric_noise``: what estimators are compared with, see
      ``estbench.meter.moments.Reference``;
    - ``reward_std`` and ``reward_scale``: see ``reward_spread``;
    - ``progress``: the exact gradient's steps where steps are followed, else None; see
      ``estbench.meter.progress.exact_steps``.
    """
    settings, snapshots = experiment.training_for(task), experiment.snapshots_for(task)
    steps = snapshot_steps(settings.batches)
    taken: list[dict[str, Any]] = []
    rng = stream("reference", task, seed, device=experiment.device)

    def keep(done: int, session: Session) -> None:
        for index, step in enumerate(steps):
            if step == done:
                moments = moments_of(session.optimiser, session.policy)
                with session.stage.measured():
                    truth = true_gradient(
                        session.policy,
                        session.reward,
                        snapshots.reference_sequences,
                        rng,
                        metric(moments, experiment.device),
                    )
                    noise = stream("reward spread", task, seed, step, device=experiment.device)
                    spread = reward_spread(session, task, noise)
                taken.append(
                    {
                        "snapshot": index,
                        "step": step,
                        **session.stage.snapshot(),
                        "optimiser": moments,
                        "gradient": [g.cpu() for g in truth.gradient],
                        "noise": truth.noise,
                        "metric_noise": truth.metric_noise,
                        **spread,
                        "progress": follow(session, step, moments),
                    }
                )

    def follow(
        session: Session, step: int, moments: dict[str, Any] | None
    ) -> dict[str, Any] | None:
        if step not in experiment.progress_steps(task):
            return None
        here, rate = parameters(session.policy), settings.generator_learning_rate
        with session.stage.whole():
            return exact_steps(
                session.policy,
                session.reward,
                Adam.resumed(moments, here, rate),
                snapshots.progress_rates,
                snapshots.reference_sequences,
                stream("exact steps", task, seed, step, device=experiment.device),
                settings.gradient_clip,
            )

    also = {"taken": taken, "rng": rng}
    payload = train(experiment, task, REFERENCE, seed, at_batch=keep, also=also)
    return {**payload, "snapshot_steps": steps}, {"snapshots": taken}


@torch.no_grad()
def reward_spread(session: Session, task: str, rng: torch.Generator) -> dict[str, float]:
    """Return how much rewards differ, from 1,024 sequences; the reward's counters are left alone.

    Returns:
      ``reward_std``: Standard deviation under the policy; of one with contexts, within a context.
      ``reward_scale``: Standard deviation over the policy's sequences and as many of the data
      together; where the task has no data, over the policy's alone, of all contexts.
    """
    policy, reward = session.policy, session.reward
    evals, contexts = reward.hard_evals, policy.fewest_rows
    each = max(2, SPREAD // contexts)
    own = reward(policy.sample(contexts * each, rng)).double()
    both = own
    if tasks.info(task).kind == "adversarial":
        data = session.task.train
        rows = torch.randint(len(data), (len(own),), generator=rng, device=rng.device)
        both = torch.cat([own, reward(data[rows.to(data.device)]).double()])
    reward.hard_evals = evals
    within = own.view(contexts, each).var(dim=1).mean().sqrt()
    return {"reward_std": float(within), "reward_scale": float(both.std())}

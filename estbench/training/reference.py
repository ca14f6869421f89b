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
from estbench.training.loop import train
from estbench.training.resume import Phases
from estbench.training.session import Session
from estbench.training.state_dict import Stateful

__all__ = ["REFERENCE", "reference", "snapshot_steps"]

REFERENCE = "rloo"
SPREAD = 1024  # sequences of the policy, and as many of the data, that say how rewards differ


def snapshot_steps(batches: int) -> list[int]:
    """Return after how many batches the snapshots are taken, each number once."""
    return sorted({round(fraction * batches) for fraction in FRACTIONS})


def reference(
    experiment: Experiment, task: str, seed: int, phases: Phases | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return RLOO's run record and the state of its snapshots, see ``Snapshots``.

    Args:
      experiment: Settings.
      task: Name of the task.
      seed: The replicate.
      phases: See ``estbench.training.loop.train``.
    """
    snapshots = Snapshots(experiment, task, seed)
    payload = train(experiment, task, REFERENCE, seed, snapshots, phases)
    return {**payload, "snapshot_steps": snapshots.steps}, {"snapshots": snapshots.taken}


class Snapshots(Stateful):
    """Takes the snapshots of a run as it passes them.

    Attributes:
      steps: After how many batches snapshots are taken.
      taken: One table a snapshot:

        - ``snapshot`` (its number) and ``step`` (batches done);
        - the parameters of each part of the stage, by its name;
        - ``optimiser``: the moments that Adam holds of the policy, see ``estbench.meter.adam``;
        - ``gradient``, ``noise`` and ``metric_noise``: what estimators are compared with, see
          ``estbench.meter.moments.Reference``;
        - ``reward_std`` and ``reward_scale``: see ``reward_spread``;
        - ``progress``: the exact gradient's steps where steps are followed, else None; see
          ``estbench.meter.progress.exact_steps``.
    """

    changing = ("taken", "rng")

    def __init__(self, experiment: Experiment, task: str, seed: int) -> None:
        self.experiment, self.identity = experiment, (task, seed)
        self.settings = experiment.snapshots_for(task)
        self.steps = snapshot_steps(experiment.training_for(task).batches)
        self.taken: list[dict[str, Any]] = []
        self.rng = self.stream("reference")

    def stream(self, *name: Any) -> torch.Generator:
        """Return a stream of noise of this task and seed."""
        return stream(name[0], *self.identity, *name[1:], device=self.experiment.device)

    def __call__(self, done: int, session: Session) -> None:
        """Take a snapshot, if one is due after this number of batches."""
        if done not in self.steps:
            return
        moments = moments_of(session.optimiser, session.policy)
        with session.stage.measured():
            truth = true_gradient(
                session.policy,
                session.reward,
                self.settings.reference_sequences,
                self.rng,
                metric(moments, self.experiment.device),
            )
            noise = self.stream("reward spread", done)
            spread = reward_spread(session, self.identity[0], noise)
        snapshot = {
            "snapshot": self.steps.index(done),
            "step": done,
            **session.stage.snapshot(),
            "optimiser": moments,
            "gradient": [g.cpu() for g in truth.gradient],
            "noise": truth.noise,
            "metric_noise": truth.metric_noise,
            **spread,
            "progress": self.exact_progress(session, done, moments),
        }
        self.taken.append(snapshot)

    def exact_progress(
        self, session: Session, done: int, moments: dict[str, Any] | None
    ) -> dict[str, Any] | None:
        """Return what the exact gradient's steps gain, where steps are followed."""
        if done not in self.experiment.progress_steps(self.identity[0]):
            return None
        settings = session.settings
        here, rate = parameters(session.policy), settings.generator_learning_rate
        with session.stage.whole():
            return exact_steps(
                session.policy,
                session.reward,
                Adam.resumed(moments, here, rate),
                self.settings.progress_rates,
                self.settings.reference_sequences,
                self.stream("exact steps", done),
                settings.gradient_clip,
            )


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

"""What a run is made of, whatever the task: a stage, what trains it, and how it is judged.

All of it depends on (task, seed) alone, so that estimators of one seed start from the same point
and read the same data.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn

from estbench import tasks
from estbench.config.experiment import Experiment, TrainingSettings
from estbench.estimators.base import Draws, Reward
from estbench.models.policy import Policy
from estbench.tasks.base import Task
from estbench.tasks.stage import Stage
from estbench.training.resume import Phases
from estbench.training.state_dict import Stateful

__all__ = ["Session", "make_session", "prepare"]


class Session(Stateful):
    """The moving parts of a run, not yet trained.

    Args:
      experiment: Settings.
      task: Name of the task.
      seed: The replicate.

    Attributes:
      stage: Policy and reward.
      task: Data and metrics.
      settings: Training settings of this task.
      optimiser: Of the policy.
    """

    changing: ClassVar[tuple[str, ...]] = ("parts", "optimiser", "evaluations")

    stage: Stage
    task: Task
    settings: TrainingSettings
    optimiser: torch.optim.Optimizer

    @property
    def policy(self) -> Policy:
        """The policy."""
        return self.stage.policy

    @property
    def reward(self) -> Reward:
        """The reward."""
        return self.stage.reward

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The networks, by name."""
        return self.stage.parts

    @property
    def evaluations(self) -> tuple[int, int]:
        """Hard and relaxed evaluations of the reward so far."""
        return self.reward.hard_evals, self.reward.relaxed_evals

    @evaluations.setter
    def evaluations(self, counts: tuple[int, int]) -> None:
        self.reward.hard_evals, self.reward.relaxed_evals = counts

    @property
    def pretraining(self) -> list[float]:
        """Mean loss of each epoch of maximum likelihood, in nats per token; empty if none."""
        return []

    def pretrain(self, phases: Phases) -> None:
        """Do all training that comes before the first batch."""

    def after_step(self, used: Draws | None, phases: Phases) -> dict[str, float]:
        """Train everything but the policy, after its step and evaluation; return metrics.

        Args:
          used: The draws of the step; None where the run goes on from a checkpoint within this
            call, which happens only to a session that has phases in it.
          phases: Counts the steps of such phases.
        """
        return {}

    def quality(self, rng: torch.Generator) -> dict[str, float]:
        """Return metrics that are cheap enough for every batch."""
        raise NotImplementedError

    def full_quality(self, rng: torch.Generator) -> dict[str, float]:
        """Return metrics that are exact or need a large sample; see ``Task.full_quality``."""
        raise NotImplementedError

    def quality_at(self, temperature: float, rng: torch.Generator) -> dict[str, float]:
        """Return ``full_quality`` of the policy at a temperature; empty where it has no meaning."""
        return {}

    def samples(self, count: int, rng: torch.Generator) -> list[str]:
        """Return samples for people to look at, as text."""
        raise NotImplementedError


_SESSIONS = {
    "adversarial": "estbench.training.seqgan:AdversarialSession",
    "fixed reward": "estbench.training.fixed_reward:FixedRewardSession",
    "language model": "estbench.training.language:LanguageSession",
    "autoencoder": "estbench.training.autoencoder:AutoencoderSession",
}


def make_session(experiment: Experiment, task: str, seed: int) -> Session:
    """Return a session in which nothing is trained yet."""
    module, _, attribute = _SESSIONS[tasks.info(task).kind].partition(":")
    made: Session = getattr(importlib.import_module(module), attribute)(experiment, task, seed)
    return made


def prepare(experiment: Experiment, task: str, seed: int) -> Session:
    """Return a session that is ready for its first batch, pre-training included."""
    session = make_session(experiment, task, seed)
    session.pretrain(Phases())
    return session

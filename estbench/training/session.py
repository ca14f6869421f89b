"""What a run is made of, whatever the task: a stage, what trains it, and how it is judged.

All of it depends on (task, seed) alone, so that estimators of one seed start from the same point
and read the same data.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch

from estbench import tasks
from estbench.config.experiment import Experiment, TrainingSettings
from estbench.estimators.base import Draws, Reward
from estbench.models.policy import Policy
from estbench.tasks.base import Task
from estbench.tasks.stage import Stage
from estbench.training.live import Fields, Ungraded

__all__ = ["Session", "prepare"]


class Session:
    """The moving parts of a run.

    Attributes:
      stage: Policy and reward.
      task: Data and metrics.
      settings: Training settings of this task.
      optimiser: Of the policy.
      pretraining: Mean loss of each epoch of maximum likelihood, in nats per token; empty if none.
    """

    stage: Stage
    task: Task
    settings: TrainingSettings
    optimiser: torch.optim.Optimizer
    pretraining: list[float]

    @property
    def policy(self) -> Policy:
        """The policy."""
        return self.stage.policy

    @property
    def reward(self) -> Reward:
        """The reward."""
        return self.stage.reward

    def live(self) -> dict[str, Any]:
        """Return all of it that changes during a run: see ``estbench.training.interruptions``."""
        return {
            "parts": {name: Ungraded(part) for name, part in self.stage.parts.items()},
            "optimiser": self.optimiser,
            "reward": Fields(self.reward, ("hard_evals", "relaxed_evals")),
            "pretraining": self.pretraining,
        }

    def after_step(self, used: Draws | None) -> dict[str, float]:
        """Train what else there is, after the policy's step and its evaluation; return metrics.

        Args:
          used: The draws of the step; None where the run is taken up again within this call, which
            only a session meets that has phases in it.
        """
        return {}

    def quality(self, rng: torch.Generator) -> dict[str, float]:
        """Return what is cheap enough for every batch."""
        raise NotImplementedError

    def full_quality(self, rng: torch.Generator) -> dict[str, float]:
        """Return what is exact or needs a large sample; see ``Task.full_quality``."""
        raise NotImplementedError

    def quality_at(self, temperature: float, rng: torch.Generator) -> dict[str, float]:
        """Return ``full_quality`` of the policy at a temperature; empty where that says nothing."""
        return {}

    def samples(self, count: int, rng: torch.Generator) -> list[str]:
        """Return samples for people to look at, as text."""
        raise NotImplementedError


_PREPARE = {
    "adversarial": "estbench.training.seqgan:prepare",
    "fixed reward": "estbench.training.fixed_reward:prepare",
    "autoencoder": "estbench.training.autoencoder:prepare",
}


def prepare(experiment: Experiment, task: str, seed: int) -> Session:
    """Return a session that is ready for its first batch, pre-training included."""
    module, _, attribute = _PREPARE[tasks.info(task).kind].partition(":")
    made: Session = getattr(importlib.import_module(module), attribute)(experiment, task, seed)
    return made

"""The session of a task whose reward is a fixed function: there is nothing to train but the policy.

Replicates differ in the estimator's noise, and in what the task draws from the seed, if anything.
"""

from __future__ import annotations

import torch

from estbench import tasks
from estbench.config.experiment import Experiment
from estbench.models.adam import Adam
from estbench.tasks.stage import make_stage
from estbench.training.session import Session

__all__ = ["FixedRewardSession"]


class FixedRewardSession(Session):
    """A policy and a function."""

    def __init__(self, experiment: Experiment, task: str, seed: int) -> None:
        self.settings = experiment.training_for(task)
        self.task = tasks.make(task, seed, self.settings.data_size)
        self.stage = make_stage(experiment, task, seed)
        self.optimiser = Adam(
            self.policy.parameters(), lr=self.settings.generator_learning_rate, fused=True
        )

    def quality(self, rng: torch.Generator) -> dict[str, float]:
        """Return the exact quality."""
        return self.full_quality(rng)

    def full_quality(self, rng: torch.Generator) -> dict[str, float]:
        return self.task.full_quality(self.policy, rng)

    def samples(self, count: int, rng: torch.Generator) -> list[str]:
        return self.task.format(self.policy.sample(count, rng).cpu())

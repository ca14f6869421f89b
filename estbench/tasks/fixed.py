"""What tasks with a fixed reward share: there is nothing to train but the policy."""

from __future__ import annotations

import torch
from torch import Tensor

from estbench import tasks
from estbench.config.experiment import Experiment, TrainingSettings
from estbench.models.policy import Policy
from estbench.models.reward import FunctionReward
from estbench.tasks.base import Task
from estbench.tasks.stage import Stage

__all__ = ["FixedRewardStage", "FixedRewardTask"]


class FixedRewardStage(Stage):
    """A task's policy as it starts, and its reward, hard and relaxed."""

    reward: FunctionReward

    def __init__(self, experiment: Experiment, task: str, seed: int) -> None:
        made = tasks.make(task, seed)
        assert isinstance(made, FixedRewardTask)
        self.policy = made.start(experiment.training_for(task)).to(experiment.device)
        self.reward = FunctionReward(made.reward, made.reward)
        self.parts = {"policy": self.policy}


class FixedRewardTask(Task):
    """A task without data, whose metrics are exact: there is no need of samples.

    Training sequences are copies of the best one.
    """

    kind = "fixed reward"
    stage = FixedRewardStage

    def start(self, settings: TrainingSettings) -> Policy:
        """Return the policy as it is before the first batch; the same for all estimators."""
        raise NotImplementedError

    def reward(self, sequences: Tensor) -> Tensor:
        """Return rewards ``[n]`` of tokens int64 ``[n, T]`` or weights ``[n, T, V]``."""
        raise NotImplementedError

    def quality(self, policy: Policy, tokens: Tensor, rng: torch.Generator) -> dict[str, float]:
        """Return the exact metrics; the sample is not needed."""
        return self.full_quality(policy, rng)

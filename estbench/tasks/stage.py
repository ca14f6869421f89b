"""A task's policy and reward, as a snapshot holds them and as estimators meet them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from estbench import tasks
from estbench.config.experiment import Experiment
from estbench.estimators.base import Reward as AnyReward
from estbench.models.build import build
from estbench.models.policy import Policy
from estbench.models.reward import CONTROLS, Discriminator, Reward, UninformedReward

__all__ = ["AdversarialStage", "Stage", "make_stage"]


class Stage:
    """A policy, the reward it is trained on, and whatever the reward is made of.

    Args:
      experiment: Settings.
      task: Name of the task.
      seed: The replicate, whose data the policy may be conditioned on.

    Attributes:
      policy: The policy.
      reward: The reward.
      parts: The modules that a snapshot holds, by name; "policy" is one of them.
      conditional: Whether each draw is given data of its own.
    """

    policy: Policy
    reward: AnyReward
    parts: Mapping[str, nn.Module]
    conditional: bool = False

    def __init__(self, experiment: Experiment, task: str, seed: int) -> None:
        raise NotImplementedError

    def snapshot(self) -> dict[str, dict[str, Tensor]]:
        """Return copies of the parameters of all parts."""
        return {
            name: {key: torch.clone(value).cpu() for key, value in part.state_dict().items()}
            for name, part in self.parts.items()
        }

    def load(self, snapshot: Mapping[str, Any]) -> None:
        """Take the parameters of a snapshot."""
        for name, part in self.parts.items():
            part.load_state_dict(snapshot[name])

    def next_batch(self, contexts: int, rng: torch.Generator) -> None:
        """Give the policy what the next draws are conditioned on, drawn from the data.

        Args:
          contexts: How many: one a draw, but for estimators that hold several in a draw.
          rng: Stream of the data.
        """

    def older(self, steps: int) -> Policy | None:
        """Return the policy of so many steps before the snapshot that was loaded; None if unknown.

        What an off-policy estimator draws from there.
        """
        return None

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Have the policy's contexts be those of all measurements: few, fixed, the same for all.

        What differs between images is no noise of an estimator. Variance is therefore that of draws
        with the same context, averaged over contexts (see ``meter.contexts``).
        """
        yield

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Have the policy's contexts be all the data that the objective is a mean over."""
        yield


class AdversarialStage(Stage):
    """A generator of sequences and the discriminator that is its reward.

    Parameters come from a snapshot, or from pre-training: the seed is not used.
    """

    policy: Policy
    reward: Reward
    discriminator: Discriminator

    def __init__(self, experiment: Experiment, task: str, seed: int) -> None:
        settings = experiment.training_for(task)
        size = tasks.size(task, settings)
        self.policy, self.discriminator = build(
            size.vocabulary,
            size.length,
            settings.truncation,
            experiment.device,
            size.end,
            settings.discriminator,
            settings.generator,
        )
        if settings.reward in CONTROLS:
            shape = (size.vocabulary, size.length)
            self.reward = UninformedReward(self.discriminator, settings.reward, *shape)
        else:
            self.reward = Reward(self.discriminator, settings.reward)
        self.parts = {"policy": self.policy, "discriminator": self.discriminator}


def make_stage(experiment: Experiment, task: str, seed: int) -> Stage:
    """Return a task's policy and reward, not yet trained; see ``Stage``."""
    made: Stage = tasks.task_class(task).stage(experiment, task, seed)
    return made

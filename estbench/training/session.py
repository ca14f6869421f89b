"""What a run starts from: data, a pre-trained generator, a discriminator, and their optimisers.

All of it depends on (task, seed) alone, so that estimators of one seed start from the same point
and read the same data.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from estbench import tasks
from estbench.experiment import Experiment, TrainingSettings
from estbench.models.build import build
from estbench.models.discriminator import Discriminator
from estbench.models.generator import Generator
from estbench.models.reward import Reward
from estbench.seeding import stream
from estbench.tasks.base import Task
from estbench.training.discriminator import train_discriminator
from estbench.training.pretraining import pretrain

__all__ = ["Session", "prepare"]


@dataclass
class Session:
    """The moving parts of a run.

    Attributes:
      task: Data and metrics.
      settings: Training settings of this task.
      policy: The generator.
      discriminator: The discriminator.
      reward: The discriminator as a reward.
      generator_optimiser: Adam on the generator.
      discriminator_optimiser: Adam on the discriminator.
      discriminator_rng: Stream of the discriminator's data order and of the fakes it reads.
      pretraining: Mean loss of each epoch of maximum likelihood, in nats per token.
    """

    task: Task
    settings: TrainingSettings
    policy: Generator
    discriminator: Discriminator
    reward: Reward
    generator_optimiser: torch.optim.Optimizer
    discriminator_optimiser: torch.optim.Optimizer
    discriminator_rng: torch.Generator
    pretraining: list[float]

    def train_discriminator(self, updates: int) -> tuple[float, float]:
        """Train on real data against fresh fakes; return mean loss and accuracy."""
        settings = self.settings
        fake = self.policy.sample(
            updates * settings.discriminator_batch_size, self.discriminator_rng
        )
        return train_discriminator(
            self.discriminator,
            self.discriminator_optimiser,
            self.task.train,
            fake,
            updates,
            settings.discriminator_batch_size,
            self.discriminator_rng,
        )


def prepare(experiment: Experiment, task: str, seed: int) -> Session:
    """Return a session after maximum likelihood and the discriminator's pre-training."""
    settings = experiment.training_for(task)
    device = experiment.device
    made = tasks.make(task, seed, settings.data_size)
    made.train, made.heldout = made.train.to(device), made.heldout.to(device)
    policy, discriminator = build(made.vocabulary, made.length, settings.truncation)
    policy.initialise(*made.initialisation, stream("generator", task, seed))
    discriminator.initialise(stream("discriminator", task, seed))
    policy, discriminator = policy.to(device), discriminator.to(device)
    losses = pretrain(
        policy,
        made.train,
        settings.pretrain_epochs,
        settings.pretrain_batch_size,
        settings.pretrain_learning_rate,
        stream("pretraining", task, seed, device=device),
    )
    session = Session(
        task=made,
        settings=settings,
        policy=policy,
        discriminator=discriminator,
        reward=Reward(discriminator, settings.reward),
        generator_optimiser=torch.optim.Adam(
            policy.parameters(), lr=settings.generator_learning_rate, fused=True
        ),
        discriminator_optimiser=torch.optim.Adam(
            discriminator.parameters(), lr=settings.discriminator_learning_rate, fused=True
        ),
        discriminator_rng=stream("discriminator training", task, seed, device=device),
        pretraining=losses,
    )
    if settings.discriminator_pretrain_updates:
        session.train_discriminator(settings.discriminator_pretrain_updates)
    return session

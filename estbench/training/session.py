"""What a run starts from: data, a pre-trained generator, a discriminator, and their optimisers.

All of it depends on (task, seed) alone, so that estimators of one seed start from the same point
and read the same data.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from estbench import tasks
from estbench.experiment import Experiment, TrainingSettings
from estbench.models.build import build
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
    discriminator: nn.Module
    reward: Reward
    generator_optimiser: torch.optim.Optimizer
    discriminator_optimiser: torch.optim.Optimizer
    discriminator_rng: torch.Generator
    pretraining: list[float]

    def train_discriminator(self, updates: int, rounds: int) -> tuple[float, float]:
        """Train on real data against generated ones; return mean loss and accuracy.

        Args:
          updates: Updates in all.
          rounds: Pools of generated sequences, each drawn anew and gone through
            ``discriminator_epochs`` times; the updates are shared out among them.
        """
        settings = self.settings
        batch, loss, accuracy = settings.discriminator_batch_size, 0.0, 0.0
        for round_ in range(rounds):
            share = updates * (round_ + 1) // rounds - updates * round_ // rounds
            if not share:
                continue
            pool = -(-share * batch // settings.discriminator_epochs)
            found = train_discriminator(
                self.discriminator,
                self.discriminator_optimiser,
                self.task.train,
                self.policy.sample(pool, self.discriminator_rng),
                share,
                batch,
                self.discriminator_rng,
            )
            loss += found[0] * (share / updates)
            accuracy += found[1] * (share / updates)
        return loss, accuracy


def prepare(experiment: Experiment, task: str, seed: int) -> Session:
    """Return a session after maximum likelihood and the discriminator's pre-training."""
    settings = experiment.training_for(task)
    device = experiment.device
    made = tasks.make(task, seed, settings.data_size, **tasks.options(task, settings))
    made.train, made.heldout = made.train.to(device), made.heldout.to(device)
    policy, discriminator = build(
        made.vocabulary,
        made.length,
        settings.truncation,
        end=made.end,
        discriminator=settings.discriminator,
    )
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
        clip=settings.gradient_clip,
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
        session.train_discriminator(
            settings.discriminator_pretrain_updates, settings.discriminator_pretrain_rounds
        )
    return session

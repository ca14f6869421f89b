"""SeqGAN's session: data, a pre-trained generator, a discriminator, and their optimisers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from estbench import tasks
from estbench.config.experiment import Experiment, TrainingSettings
from estbench.core.seeding import stream
from estbench.estimators.base import Draws
from estbench.models.adam import Adam
from estbench.models.policy import Policy
from estbench.models.reward import Reward
from estbench.models.tempered import Tempered
from estbench.tasks.base import Task
from estbench.tasks.stage import AdversarialStage
from estbench.training.discriminator import train_discriminator
from estbench.training.interruptions import Live, steps
from estbench.training.pretraining import pretrain
from estbench.training.session import Session

__all__ = ["AdversarialSession", "prepare"]


class AdversarialSession(Session):
    """A generator against a discriminator.

    Args:
      stage: Both of them, initialised and the generator pre-trained.
      task: Data and metrics.
      settings: Training settings of this task.
      pretraining: Mean loss of each epoch of maximum likelihood, in nats per token.
      rng: Stream of the discriminator's data order and of the fakes it reads.
    """

    stage: AdversarialStage

    def __init__(
        self,
        stage: AdversarialStage,
        task: Task,
        settings: TrainingSettings,
        pretraining: list[float],
        rng: torch.Generator,
    ) -> None:
        self.stage = stage
        self.task = task
        self.settings = settings
        self.pretraining = pretraining
        self.discriminator_rng = rng
        self.optimiser = Adam(
            stage.policy.parameters(), lr=settings.generator_learning_rate, fused=True
        )
        self.discriminator_optimiser = Adam(
            stage.discriminator.parameters(), lr=settings.discriminator_learning_rate, fused=True
        )

    @property
    def policy(self) -> Policy:
        """The generator."""
        return self.stage.policy

    @property
    def discriminator(self) -> nn.Module:
        """The discriminator."""
        return self.stage.discriminator

    @property
    def reward(self) -> Reward:
        """The discriminator as a reward."""
        return self.stage.reward

    def live(self) -> dict[str, Any]:
        """See ``Session.live``."""
        return {
            **super().live(),
            "discriminator_optimiser": self.discriminator_optimiser,
            "discriminator_rng": self.discriminator_rng,
        }

    def after_step(self, used: Draws | None) -> dict[str, float]:
        """Train the discriminator; return its mean loss and accuracy, nan if it is not trained."""
        settings = self.settings
        loss = accuracy = float("nan")
        if settings.discriminator_updates:
            loss, accuracy = self.train_discriminator(
                settings.discriminator_updates, settings.discriminator_rounds
            )
        return {"discriminator_loss": loss, "discriminator_accuracy": accuracy}

    def train_discriminator(self, updates: int, rounds: int) -> tuple[float, float]:
        """Train on real data against generated ones; return mean loss and accuracy.

        Args:
          updates: Updates in all.
          rounds: Pools of generated sequences, each drawn anew and gone through
            ``discriminator_epochs`` times; the updates are shared out among them.
        """
        settings = self.settings
        batch = settings.discriminator_batch_size
        means = {"loss": 0.0, "accuracy": 0.0}
        for round_ in steps("discriminator", rounds, Live({"means": means})):
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
            means["loss"] += found[0] * (share / updates)
            means["accuracy"] += found[1] * (share / updates)
        return means["loss"], means["accuracy"]

    def quality(self, rng: torch.Generator) -> dict[str, float]:
        """See ``Session.quality``."""
        tokens = self.policy.sample(self.settings.evaluation_samples, rng)
        return self.task.quality(self.policy, tokens, rng)

    def full_quality(self, rng: torch.Generator) -> dict[str, float]:
        """See ``Session.full_quality``."""
        return self.task.full_quality(self.policy, rng)

    def quality_at(self, temperature: float, rng: torch.Generator) -> dict[str, float]:
        """See ``Session.quality_at``."""
        return self.task.full_quality(Tempered(self.policy, temperature), rng)

    def samples(self, count: int, rng: torch.Generator) -> list[str]:
        """See ``Session.samples``."""
        return self.task.format(self.policy.sample(count, rng).cpu())


def prepare(experiment: Experiment, task: str, seed: int) -> AdversarialSession:
    """Return a session after maximum likelihood and the discriminator's pre-training."""
    settings = experiment.training_for(task)
    device = experiment.device
    made = tasks.make(task, seed, settings.data_size, **tasks.options(task, settings))
    made.train, made.heldout = made.train.to(device), made.heldout.to(device)
    stage = AdversarialStage(experiment, task, seed)
    # Initial parameters are drawn on the CPU: they do not depend on the device.
    policy, discriminator = stage.policy.to("cpu"), stage.discriminator.to("cpu")
    policy.initialise(*made.initialisation, stream("generator", task, seed))
    discriminator.initialise(stream("discriminator", task, seed))
    policy.to(device)
    discriminator.to(device)
    losses = pretrain(
        policy,
        made.train,
        settings.pretrain_epochs,
        settings.pretrain_batch_size,
        settings.pretrain_learning_rate,
        stream("pretraining", task, seed, device=device),
        clip=settings.gradient_clip,
    )
    session = AdversarialSession(
        stage,
        made,
        settings,
        losses,
        stream("discriminator training", task, seed, device=device),
    )
    if settings.discriminator_pretrain_updates:
        for _ in steps("discriminator's pre-training", 1, Live(session.live())):
            session.train_discriminator(
                settings.discriminator_pretrain_updates, settings.discriminator_pretrain_rounds
            )
    return session

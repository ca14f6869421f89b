"""SeqGAN's session: data, a generator, a discriminator, and what trains them."""

from __future__ import annotations

import torch
from torch import nn

from estbench import tasks
from estbench.config.experiment import Experiment
from estbench.core.seeding import stream
from estbench.estimators.base import Draws
from estbench.models.adam import Adam
from estbench.models.policy import Policy
from estbench.models.reward import Reward
from estbench.models.tempered import Tempered
from estbench.tasks.stage import AdversarialStage
from estbench.training.discriminator import train_discriminator
from estbench.training.pretraining import MaximumLikelihood
from estbench.training.resume import Phases
from estbench.training.session import Session

__all__ = ["AdversarialSession"]


class AdversarialSession(Session):
    """A generator against a discriminator."""

    changing = (
        *(*Session.changing, "likelihood"),
        *("discriminator_optimiser", "discriminator_rng", "loss", "accuracy"),
    )

    stage: AdversarialStage

    def __init__(self, experiment: Experiment, task: str, seed: int) -> None:
        self.settings = settings = experiment.training_for(task)
        device = experiment.device
        self.task = tasks.make(task, seed, settings.data_size, **tasks.options(task, settings))
        self.task.train = self.task.train.to(device)
        self.task.heldout = self.task.heldout.to(device)
        self.stage = stage = AdversarialStage(experiment, task, seed)
        # Initial parameters are drawn on the CPU: they do not depend on the device.
        policy, discriminator = stage.policy.to("cpu"), stage.discriminator.to("cpu")
        policy.initialise(*self.task.initialisation, stream("generator", task, seed))
        discriminator.initialise(stream("discriminator", task, seed))
        policy.to(device)
        discriminator.to(device)
        self.likelihood = MaximumLikelihood(
            policy,
            self.task.train,
            settings.pretrain_batch_size,
            settings.pretrain_learning_rate,
            stream("pretraining", task, seed, device=device),
            settings.gradient_clip,
        )
        self.optimiser = Adam(policy.parameters(), lr=settings.generator_learning_rate, fused=True)
        self.discriminator_optimiser = Adam(
            discriminator.parameters(), lr=settings.discriminator_learning_rate, fused=True
        )
        # The order of the discriminator's data, and the generated sequences that it reads.
        self.discriminator_rng = stream("discriminator training", task, seed, device=device)
        self.loss = self.accuracy = 0.0

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

    @property
    def pretraining(self) -> list[float]:
        """Mean loss of each epoch of maximum likelihood, in nats per token."""
        return self.likelihood.losses

    def pretrain(self, phases: Phases) -> None:
        """Train the generator by maximum likelihood, then the discriminator."""
        for _ in phases.steps("likelihood", self.settings.pretrain_epochs):
            self.likelihood.epoch()
        self.train_discriminator(
            self.settings.discriminator_pretrain_updates,
            self.settings.discriminator_pretrain_rounds,
            phases,
            "the discriminator's pre-training",
        )

    def after_step(self, used: Draws | None, phases: Phases) -> dict[str, float]:
        """Train the discriminator; return its mean loss and accuracy, nan if it is not trained."""
        settings = self.settings
        updates, rounds = settings.discriminator_updates, settings.discriminator_rounds
        self.train_discriminator(updates, rounds, phases, "discriminator")
        if not updates:
            self.loss = self.accuracy = float("nan")
        return {"discriminator_loss": self.loss, "discriminator_accuracy": self.accuracy}

    def train_discriminator(self, updates: int, rounds: int, phases: Phases, phase: str) -> None:
        """Train on real data against generated ones; sets ``loss`` and ``accuracy``, means.

        Args:
          updates: Updates in all.
          rounds: Pools of generated sequences, each freshly drawn and used
            ``discriminator_epochs`` times; the updates are shared out among them.
          phases: Counts the pools.
          phase: What this training is called.
        """
        batch = self.settings.discriminator_batch_size
        for pool in phases.steps(phase, rounds if updates else 0):
            if pool == 0:
                self.loss = self.accuracy = 0.0
            share = updates * (pool + 1) // rounds - updates * pool // rounds
            if not share:
                continue
            loss, accuracy = train_discriminator(
                self.discriminator,
                self.discriminator_optimiser,
                self.task.train,
                self.policy.sample(
                    -(-share * batch // self.settings.discriminator_epochs), self.discriminator_rng
                ),
                share,
                batch,
                self.discriminator_rng,
            )
            self.loss += loss * (share / updates)
            self.accuracy += accuracy * (share / updates)

    def quality(self, rng: torch.Generator) -> dict[str, float]:
        tokens = self.policy.sample(self.settings.evaluation_samples, rng)
        return self.task.quality(self.policy, tokens, rng)

    def full_quality(self, rng: torch.Generator) -> dict[str, float]:
        return self.task.full_quality(self.policy, rng)

    def quality_at(self, temperature: float, rng: torch.Generator) -> dict[str, float]:
        return self.task.full_quality(Tempered(self.policy, temperature), rng)

    def samples(self, count: int, rng: torch.Generator) -> list[str]:
        return self.task.format(self.policy.sample(count, rng).cpu())

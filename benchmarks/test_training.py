"""The rest of a batch at the paper's sizes: the discriminator's epoch, its fakes, likelihood."""

from __future__ import annotations

import pytest
import torch
from conftest import BATCH, Beside

from estbench import tasks
from estbench.models.build import build
from estbench.models.lstm_generator import Generator
from estbench.models.reward import Reward
from estbench.training.discriminator import train_by_autograd, train_discriminator
from estbench.training.pretraining import pretrain

UPDATES = 79


@pytest.mark.parametrize("setting", [3, 15], indirect=True, ids=["T=3", "T=15"])
def test_discriminator_epoch(beside: Beside, setting: tuple[Generator, Reward]) -> None:
    policy, reward = setting
    data = tasks.make(f"expressions-{policy.length}", 0).train
    rng = torch.Generator().manual_seed(0)
    fake = policy.sample(UPDATES * BATCH, rng)
    real = data[: UPDATES * BATCH]
    discriminator = reward.discriminator
    optimiser = torch.optim.Adam(discriminator.parameters(), lr=1e-3, fused=True)

    def ours() -> None:
        train_discriminator(discriminator, optimiser, real, fake, UPDATES, BATCH, rng)

    def autograd() -> None:
        rows = torch.randint(len(real), (UPDATES * BATCH,), generator=rng)
        shape = (UPDATES, BATCH, policy.length)
        train_by_autograd(discriminator, optimiser, real[rows].reshape(shape), fake.reshape(shape))

    work = f"the paper's discriminator epoch, {UPDATES} updates, T = {policy.length}"
    beside(work, ours, {"torch.nn.LSTM and autograd": autograd})


@pytest.mark.parametrize("setting", [3, 15], indirect=True, ids=["T=3", "T=15"])
def test_sample_the_fakes_of_an_epoch(beside: Beside, setting: tuple[Generator, Reward]) -> None:
    policy, _ = setting
    rng = torch.Generator().manual_seed(0)
    work = f"its generated sequences, {UPDATES * BATCH:,}, T = {policy.length}"
    beside(work, lambda: policy.sample(UPDATES * BATCH, rng))


@pytest.mark.parametrize("length", [3, 15], ids=["T=3", "T=15"])
def test_epoch_of_maximum_likelihood(beside: Beside, length: int) -> None:
    task = tasks.make(f"expressions-{length}", 0)
    policy, _ = build(task.vocabulary, task.length)
    rng = torch.Generator().manual_seed(0)
    policy.initialise(*task.initialisation, rng)
    work = f"the paper's epoch of maximum likelihood, T = {length}"
    beside(work, lambda: pretrain(policy, task.train, 1, BATCH, 1e-3, rng), rounds=3)

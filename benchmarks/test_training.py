"""The rest of a batch: the discriminator's epoch, its fakes, and maximum likelihood."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from estbench import tasks
from estbench.models.build import build
from estbench.models.lstm_generator import Generator
from estbench.models.reward import Reward
from estbench.training.discriminator import train_by_autograd, train_discriminator
from estbench.training.pretraining import pretrain

UPDATES, BATCH = 79, 128


@pytest.mark.parametrize("setting", [3, 15], indirect=True, ids=["T=3", "T=15"])
@pytest.mark.parametrize("path", ["ours", "autograd"])
def test_discriminator_epoch(benchmark: Any, setting: tuple[Generator, Reward], path: str) -> None:
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

    benchmark.group = f"discriminator epoch of 79 updates, T={policy.length}"
    benchmark.pedantic(ours if path == "ours" else autograd, rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("setting", [3, 15], indirect=True, ids=["T=3", "T=15"])
def test_sample_the_fakes_of_an_epoch(benchmark: Any, setting: tuple[Generator, Reward]) -> None:
    policy, _ = setting
    rng = torch.Generator().manual_seed(0)
    benchmark.group = f"sample 10,112 sequences, T={policy.length}"
    benchmark.pedantic(lambda: policy.sample(UPDATES * BATCH, rng), rounds=10, warmup_rounds=1)


@pytest.mark.parametrize("length", [3, 15], ids=["T=3", "T=15"])
def test_epoch_of_maximum_likelihood(benchmark: Any, length: int) -> None:
    task = tasks.make(f"expressions-{length}", 0)
    policy, _ = build(task.vocabulary, task.length)
    rng = torch.Generator().manual_seed(0)
    policy.initialise(*task.initialisation, rng)
    benchmark.group = f"epoch of maximum likelihood, T={length}"
    benchmark.pedantic(
        lambda: pretrain(policy, task.train, 1, BATCH, 1e-3, rng), rounds=3, warmup_rounds=1
    )

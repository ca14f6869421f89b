"""SeqGAN's discriminator at full size: V = 5000, T = 20, 1,720 feature maps.

Each row carries the operations of the convolutions and matrix products as they are defined, the
seconds they would take at the rate of this machine's best matrix product, measured in the same
session, and the multiple of it that was needed: below 1 where work is saved (table, shared
prefixes, gradients of the positions that won). On another machine of two cores (AVX-512, 400
GFLOP/s) the PyTorch peers need .058 s for a step of 64 sequences and 6.8-7.8 s for the
evaluation of 19,520; SeqGAN's original code .47 s for the step.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import THREADS, Rates

from estbench.models.reward import Reward
from estbench.models.text_cnn import TextCNN
from estbench.training.discriminator import train_discriminator

V, T, BATCH, ROLLOUTS = 5000, 20, 64, 16
STEPS = 30


@pytest.fixture(autouse=True)
def all_threads(one_thread: None) -> None:
    """Full size is worth every thread; ``one_thread`` puts the number back."""
    torch.set_num_threads(THREADS)


@pytest.fixture
def discriminator() -> TextCNN:
    return TextCNN(V, T).initialise(torch.Generator().manual_seed(0))


def flop_by_sequence(model: TextCNN) -> tuple[int, int]:
    """Operations of one sequence's convolutions, and of its highway and output layers."""
    filters = (f.shape for f in model.filters)
    convolutions = sum(2 * m * w * d * (T - w + 1) for m, w, d in filters)
    return convolutions, 2 * model.features * (2 * model.features + 2)


def flop_of_rollouts(model: TextCNN) -> int:
    """Operations of 16 rollouts a position when windows inside a prefix are read once."""
    filters = [f.shape for f in model.filters]
    past = sum(
        2 * m * w * d * min(T - w + 1, T - known) for m, w, d in filters for known in range(1, T)
    )
    convolutions, rest = flop_by_sequence(model)
    return BATCH * (convolutions + ROLLOUTS * (past + (T - 1) * rest))


def against_the_bound(benchmark: Any, rates: Rates, flop: float) -> None:
    bound = flop / rates.flops
    benchmark.extra_info["GFLOP"] = round(flop / 1e9, 1)
    benchmark.extra_info["GFLOP/s of this machine, mm"] = round(rates.mm / 1e9, 1)
    benchmark.extra_info["GFLOP/s of this machine, convolution"] = round(rates.conv / 1e9, 1)
    benchmark.extra_info["threads"] = rates.threads
    benchmark.extra_info["bound, seconds"] = round(bound, 3)
    if benchmark.stats is not None:
        benchmark.extra_info["times the bound"] = round(benchmark.stats.stats.median / bound, 2)


def rollouts() -> tuple[torch.Tensor, torch.Tensor]:
    """Sequences and 16 uniform completions of every prefix."""
    rng = torch.Generator().manual_seed(0)
    tokens = torch.randint(V, (BATCH, T), generator=rng)
    completed = torch.randint(V, (BATCH, T - 1, ROLLOUTS, T), generator=rng)
    for t in range(T - 1):
        completed[:, t, :, : t + 1] = tokens[:, None, : t + 1]
    return tokens, completed


def test_discriminator_steps(benchmark: Any, discriminator: TextCNN, rates: Rates) -> None:
    rng = torch.Generator().manual_seed(0)
    real, fake = torch.randint(V, (2, STEPS * BATCH // 2, T), generator=rng)
    optimiser = torch.optim.Adam(discriminator.parameters(), lr=1e-4, fused=True)
    benchmark.group = f"{STEPS} discriminator steps of {BATCH} sequences"
    benchmark.pedantic(
        lambda: train_discriminator(discriminator, optimiser, real, fake, STEPS, BATCH // 2, rng),
        rounds=5,
        warmup_rounds=1,
    )
    # Forward, and two products of the same size backward.
    against_the_bound(benchmark, rates, 3 * STEPS * BATCH * sum(flop_by_sequence(discriminator)))


@pytest.mark.parametrize("how", ["convolutions", "plain", "shared prefixes"])
def test_evaluation(benchmark: Any, discriminator: TextCNN, rates: Rates, how: str) -> None:
    """19,456 rollouts and 64 sequences; "convolutions" is the same network without a table."""
    tokens, completed = rollouts()
    sequences = torch.cat([tokens, completed.flatten(0, 2)])
    reward = Reward(discriminator)

    def plain() -> None:
        reward(sequences)

    def shared() -> None:
        reward(tokens)
        reward.of_rollouts(tokens, completed)

    def convolutions() -> None:
        discriminator.rows = 200  # fewer windows a call than V: no table pays
        reward(sequences)

    work = {"plain": plain, "shared prefixes": shared, "convolutions": convolutions}[how]
    benchmark.group = f"evaluate {len(sequences):,} sequences"
    benchmark.pedantic(work, rounds=3, warmup_rounds=1)
    flop = len(sequences) * sum(flop_by_sequence(discriminator))
    if how == "shared prefixes":
        flop = flop_of_rollouts(discriminator) + BATCH * sum(flop_by_sequence(discriminator))
    against_the_bound(benchmark, rates, flop)

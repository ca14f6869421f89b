"""A card's numbers against the processor's: norms, rewards, whole runs.

What is computed in float32 on a device is compared with float64 on the processor, so that the same
tests say something where there is no card.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from estbench.cli import main
from estbench.estimators.base import Surrogate
from estbench.meter.gradients import Tape
from estbench.models.lstm_generator import Generator
from estbench.models.policy import at_tokens
from estbench.models.reward import Reward
from estbench.models.text_cnn import TextCNN

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.cuda,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no card"),
        ],
    ),
]
on_each = pytest.mark.parametrize("device", DEVICES)
SIZES = pytest.mark.parametrize(("vocabulary", "length"), [(5, 15), (600, 8)])


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def generator(vocabulary: int, length: int) -> Generator:
    made = Generator(vocabulary, length, dtype=torch.float64)
    return made.initialise("normal", 0.3, rng())


def norms(policy: Generator, tokens: Tensor, weights: Tensor) -> Tensor:
    with Tape(policy) as tape:
        chosen = at_tokens(policy.log_probs(tokens), tokens)
        made = Surrogate(chosen, weights, tokens.unsqueeze(1), weights[:, :1])
    found = tape.differentiate(made)
    assert not tape.fault
    return found.squared_norms()


@on_each
@SIZES
def test_norms(device: str, vocabulary: int, length: int) -> None:
    policy = generator(vocabulary, length)
    tokens = torch.randint(vocabulary, (64, length), generator=rng(1))
    weights = torch.randn(64, length, generator=rng(2), dtype=torch.float64)
    exact = norms(policy, tokens, weights)
    found = norms(policy.float().to(device), tokens.to(device), weights.float().to(device))
    torch.testing.assert_close(found.double().cpu(), exact, rtol=1e-4, atol=0)


@on_each
@SIZES
def test_rollouts_and_their_rewards(device: str, vocabulary: int, length: int) -> None:
    """One uniform in thousands may fall on the other side of a rounded bound."""
    policy = generator(vocabulary, length)
    model = TextCNN(vocabulary, length, dtype=torch.float64).initialise(rng(3))
    tokens = policy.sample(16, rng(4))
    uniforms = torch.rand(16, 4, length - 1, length, generator=rng(5), dtype=torch.float64)
    completed = policy.continue_from(tokens, uniforms)
    exact = Reward(model).of_rollouts(tokens, completed)
    there = policy.float().to(device).continue_from(tokens.to(device), uniforms.float().to(device))
    assert (there.cpu() == completed).double().mean() > 0.999
    reward = Reward(model.float().to(device))
    found = reward.of_rollouts(tokens.to(device), completed.to(device))
    torch.testing.assert_close(found.double().cpu(), exact, rtol=1e-4, atol=1e-6)


@on_each
def test_gradients_of_the_discriminator(device: str) -> None:
    """Without dropout, whose stream is the device's own."""
    model = TextCNN(20, 8, keep=1.0, dtype=torch.float64).initialise(rng(3))
    tokens = torch.randint(20, (32, 8), generator=rng(6))

    def gradients(model: TextCNN, device: str) -> list[Tensor]:
        logits = model.training_logits(tokens.to(device), torch.Generator(device))
        found = torch.autograd.grad(logits.sigmoid().sum(), list(model.parameters()))
        return [gradient.double().cpu() for gradient in found]

    exact = gradients(model, "cpu")
    for found, expected in zip(gradients(model.float().to(device), device), exact, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@on_each
def test_a_grid(device: str, tmp_path: Path) -> None:
    words = ["run", "--preset", "smoke", "--seeds", "1", "--jobs", "1", "--no-live"]
    assert main([*words, "--device", device, "--out", str(tmp_path / "set")]) == 0

"""Models of a given size."""

from __future__ import annotations

import torch

from estbench.models.discriminator import Discriminator
from estbench.models.generator import Generator

__all__ = ["build"]


def build(
    vocabulary: int, length: int, truncation: int = 0, device: torch.device | str = "cpu"
) -> tuple[Generator, Discriminator]:
    """Return a generator and a discriminator for V tokens and length T, not yet initialised."""
    policy = Generator(vocabulary, length, truncation=truncation)
    return policy.to(device), Discriminator(vocabulary).to(device)

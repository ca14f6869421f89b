"""Models of a given size."""

from __future__ import annotations

import torch

from estbench.models.discriminator import Discriminator
from estbench.models.generator import Generator
from estbench.models.text_cnn import TextCNN

__all__ = ["build"]


def build(
    vocabulary: int,
    length: int,
    truncation: int = 0,
    device: torch.device | str = "cpu",
    end: int | None = None,
    discriminator: str = "lstm",
) -> tuple[Generator, Discriminator | TextCNN]:
    """Return a generator and a discriminator, not yet initialised.

    Args:
      vocabulary: Number of tokens V.
      length: Sequence length T.
      truncation: Steps of backpropagation through time; 0 for all.
      device: Where they are.
      end: The token that ends a sequence, or None.
      discriminator: "lstm" (``Discriminator``) or "cnn" (``TextCNN``).
    """
    policy = Generator(vocabulary, length, truncation=truncation, end=end).to(device)
    judge: Discriminator | TextCNN
    judge = TextCNN(vocabulary, length) if discriminator == "cnn" else Discriminator(vocabulary)
    return policy, judge.to(device)

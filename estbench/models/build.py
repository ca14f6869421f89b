"""The generator and the discriminator of a task, by name."""

from __future__ import annotations

import torch

from estbench.core.registry import POLICIES, REWARDS
from estbench.models.policy import Policy
from estbench.models.reward import Discriminator

__all__ = ["build"]


def build(
    vocabulary: int,
    length: int,
    truncation: int = 0,
    device: torch.device | str = "cpu",
    end: int | None = None,
    discriminator: str = "lstm",
    generator: str = "lstm",
) -> tuple[Policy, Discriminator]:
    """Return a generator and a discriminator, not yet initialised.

    Args:
      vocabulary: Number of tokens V.
      length: Sequence length T.
      truncation: Steps of backpropagation through time; 0 for all.
      device: Where they are.
      end: The token that ends a sequence, or None.
      discriminator: The name of a registered one.
      generator: The name of a registered policy.

    Raises:
      UserError: A name does not exist, or the generator cannot be made so.
    """
    policy: Policy = POLICIES[generator](vocabulary, length, truncation=truncation, end=end)
    judge: Discriminator = REWARDS[discriminator].of(vocabulary, length)
    return policy.to(device), judge.to(device)

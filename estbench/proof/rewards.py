"""What problems are made of: seeded noise, and smooth random rewards."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from estbench.models.reward import FunctionReward

__all__ = ["SmoothReward", "function_reward", "rng"]


def rng(seed: int = 0) -> torch.Generator:
    """Return a stream of random numbers."""
    return torch.Generator().manual_seed(seed)


class SmoothReward:
    """A random two-layer function of a sequence, with every interaction between its tokens."""

    def __init__(
        self,
        vocabulary: int,
        length: int,
        seed: int,
        dtype: torch.dtype = torch.float64,
        width: int = 8,
    ) -> None:
        noise = rng(seed)
        size = vocabulary * length
        self.vocabulary = vocabulary
        self.first = torch.randn(size, width, generator=noise, dtype=torch.float64)
        self.second = torch.randn(width, generator=noise, dtype=torch.float64) / math.sqrt(width)
        self.first, self.second = self.first.to(dtype), self.second.to(dtype)

    def __call__(self, weights: Tensor) -> Tensor:
        if not weights.is_floating_point():
            weights = nn.functional.one_hot(weights, self.vocabulary).to(self.first.dtype)
        first = self.first.to(weights.dtype)
        return (weights.flatten(1) @ first).tanh() @ self.second.to(weights.dtype)


def function_reward(
    vocabulary: int, length: int, seed: int, dtype: torch.dtype = torch.float64
) -> FunctionReward:
    """Return a smooth random reward, hard and relaxed."""
    smooth = SmoothReward(vocabulary, length, seed, dtype)
    return FunctionReward(smooth, smooth)

"""A small network on whole sequences: a learned guess at what a sequence is worth."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from estbench.models.adam import Adam

__all__ = ["SequenceNetwork"]


class SequenceNetwork(nn.Module):
    """A number for every sequence of T tokens out of V, zero at the start.

    A score for every token at every position, which an additive guess is learned from with few
    draws, plus two hidden layers on the one-hots.

    Args:
      vocabulary: Tokens V.
      length: Sequence length T.
      rng: Initialises the weights.
      width: Hidden width.
    """

    def __init__(self, vocabulary: int, length: int, rng: torch.Generator, width: int = 32) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        size = vocabulary * length
        # Every parameter is set below: torch's own initialisation would move its global stream.
        self.scores = nn.Parameter(torch.zeros(length, vocabulary))
        self.first: nn.Linear = skip_init(nn.Linear, size, width)  # type: ignore[no-untyped-call]
        self.middle: nn.Linear = skip_init(nn.Linear, width, width)  # type: ignore[no-untyped-call]
        self.out: nn.Linear = skip_init(nn.Linear, width, 1)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            # Of size V T inputs T are 1 and the rest 0.
            for layer, inputs in ((self.first, length), (self.middle, width)):
                bound = math.sqrt(3 / inputs)
                layer.weight.uniform_(-bound, bound, generator=rng)
                layer.bias.zero_()
            self.out.weight.zero_()
            self.out.bias.zero_()

    def forward(self, tokens: Tensor) -> Tensor:
        """Return ``[...]`` for sequences int64 ``[..., T]``."""
        hot = nn.functional.one_hot(tokens, self.vocabulary).to(self.scores)
        hidden = nn.functional.silu(self.first(hot.flatten(-2)))
        hidden = nn.functional.silu(self.middle(hidden))
        out: Tensor = self.out(hidden).squeeze(-1)
        return out + (hot * self.scores).sum(dim=(-1, -2))

    def optimiser(self, learning_rate: float, scores: float) -> Adam:
        """Return Adam, with another learning rate for the scores: few of them act together."""
        others = [p for p in self.parameters() if p is not self.scores]
        groups: list[dict[str, Any]] = [{"params": others}, {"params": [self.scores], "lr": scores}]
        return Adam(groups, lr=learning_rate)

"""Small networks on what the policy knows: critics and learned control variates."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from estbench.models.adam import Adam
from estbench.models.policy import at_tokens

__all__ = ["StateNetwork"]


class StateNetwork(nn.Module):
    """A number for every prefix: its worth, or what a control variate says of its next token.

    Two parts that add up, both zero at the start. Two hidden layers see (state, position, relaxed
    token); their activation is smooth, because its derivative with respect to the relaxed token is
    trained too. And a score for every token at every position, summed over the prefix: the state of
    a policy that was trained to predict tokens need not remember what a reward would ask for, and
    an additive guess at it is learned from few draws.

    Args:
      features: Width F of the policy's state.
      length: Sequence length T; the position enters one-hot.
      vocabulary: Tokens V.
      relaxed: Width in which the next token is given, relaxed: V for its weights, less for an
        embedding of them, 0 if it is not given.
      rng: Initialises the weights.
      width: Hidden width.
    """

    def __init__(
        self,
        features: int,
        length: int,
        vocabulary: int,
        relaxed: int,
        rng: torch.Generator,
        width: int = 64,
    ) -> None:
        super().__init__()
        # Every parameter is set below: torch's own initialisation would move its global stream.
        self.state = _linear(features, width)
        self.position = nn.Parameter(torch.zeros(length, width))
        self.relaxed = _linear(relaxed, width, bias=False) if relaxed else None
        self.middle = _linear(width, width)
        self.out = _linear(width, 1)
        self.scores = nn.Parameter(torch.zeros(vocabulary))
        self.scores_by_position = nn.Parameter(torch.zeros(length, vocabulary))
        with torch.no_grad():
            for layer in (self.state, self.middle, self.relaxed):
                if layer is not None:
                    bound = math.sqrt(3 / layer.in_features)
                    layer.weight.uniform_(-bound, bound, generator=rng)
                    if layer.bias is not None:
                        layer.bias.zero_()
            self.out.weight.zero_()
            self.out.bias.zero_()

    def forward(
        self,
        features: Tensor,
        tokens: Tensor,
        relaxed: Tensor | None = None,
        embedded: Tensor | None = None,
    ) -> Tensor:
        """Return ``[n, T]``; position t has seen the tokens before it and no other.

        Args:
          features: The policy's state ``[n, T, F]``.
          tokens: b, int64 ``[n, T]``.
          relaxed: The next token of each prefix ``[n, T, V]``, if the network takes it.
          embedded: Its embedding ``[n, T, E]``, where that is what the hidden layers see.
        """
        first = self.state(features) + self.position
        scores = self.scores + self.scores_by_position
        scores = scores - scores.mean(dim=1, keepdim=True)
        earned = at_tokens(scores.expand(len(tokens), -1, -1), tokens)
        # Shifted, not subtracted: a token must not reach its own prefix by rounding either.
        additive = nn.functional.pad(earned.cumsum(dim=1)[:, :-1], (1, 0))
        if self.relaxed is not None and relaxed is not None:
            first = first + self.relaxed(relaxed if embedded is None else embedded)
            additive = additive + (scores * relaxed).sum(dim=2)
        hidden = nn.functional.silu(first)
        hidden = nn.functional.silu(self.middle(hidden))
        out: Tensor = self.out(hidden).squeeze(-1)
        return out + additive

    def optimiser(self, learning_rate: float, scores: float) -> Adam:
        """Return Adam, with another learning rate for the scores: few of them act together."""
        tables = [self.scores, self.scores_by_position]
        others = [p for p in self.parameters() if all(p is not table for table in tables)]
        groups: list[dict[str, Any]] = [{"params": others}, {"params": tables, "lr": scores}]
        return Adam(groups, lr=learning_rate, fused=True)


def _linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    layer: nn.Linear = skip_init(nn.Linear, inputs, outputs, bias=bias)  # type: ignore[no-untyped-call]
    return layer

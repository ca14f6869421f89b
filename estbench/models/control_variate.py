"""Small networks on what the policy knows: critics and learned control variates."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

__all__ = ["StateNetwork"]


class StateNetwork(nn.Module):
    """Two hidden layers on (state, position, extra inputs), one number out, zero at the start.

    A smooth activation, because its derivative with respect to the inputs is trained too.

    Args:
      features: Width F of the policy's state.
      length: Sequence length T; the position enters one-hot.
      extra: Width of further inputs; 0 for none.
      width: Hidden width.
      rng: Initialises the weights.
    """

    def __init__(
        self, features: int, length: int, extra: int, rng: torch.Generator, width: int = 64
    ) -> None:
        super().__init__()
        # Every parameter is set below: torch's own initialisation would move its global stream.
        self.state = _linear(features, width)
        self.position = nn.Parameter(torch.zeros(length, width))
        self.extra = _linear(extra, width, bias=False) if extra else None
        self.middle = _linear(width, width)
        self.out = _linear(width, 1)
        with torch.no_grad():
            for layer in (self.state, self.middle, self.extra):
                if layer is not None:
                    bound = math.sqrt(3 / layer.in_features)
                    layer.weight.uniform_(-bound, bound, generator=rng)
                    if layer.bias is not None:
                        layer.bias.zero_()
            self.out.weight.zero_()
            self.out.bias.zero_()

    def forward(self, features: Tensor, extra: Tensor | None = None) -> Tensor:
        """Return ``[n, T]`` from features ``[n, T, F]`` and extra inputs ``[n, T, E]``."""
        first = self.state(features) + self.position
        if self.extra is not None and extra is not None:
            first = first + self.extra(extra)
        hidden = nn.functional.silu(first)
        hidden = nn.functional.silu(self.middle(hidden))
        out: Tensor = self.out(hidden).squeeze(-1)
        return out


def _linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    layer: nn.Linear = skip_init(nn.Linear, inputs, outputs, bias=bias)  # type: ignore[no-untyped-call]
    return layer

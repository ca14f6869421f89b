"""What each layer's gradient looks like per row: the input it saw and the gradient it was sent.

A rule turns one call of a layer into a tap: the tensor whose gradient is asked for in the
backward pass, and for each parameter how that gradient and the layer's input make the
parameter's. A layer without a rule is no error: the meter notices and differentiates draw by
draw instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from estbench.models.generator import TokenEmbedding
from estbench.models.lstm import LSTMRecurrence

__all__ = ["RULES", "Part", "Tap"]

DENSE_VOCABULARY = 64  # up to here one-hot rows are cheaper than comparing tokens pair by pair


@dataclass(frozen=True)
class Part:
    """One parameter's share of a tap.

    Attributes:
      parameter: The parameter.
      x: What multiplies the tap's gradient d: ``[rows, ..., a]`` numbers, int64 tokens
        ``[rows, ...]`` that stand for one-hot rows, or None where the gradient is just the sum.
      transposed: The parameter is ``[a, b]`` (sum of x d') rather than ``[b, a]`` (sum of d x').
      classes: Number of one-hot classes a where x holds tokens.
    """

    parameter: Tensor
    x: Tensor | None
    transposed: bool = False
    classes: int = 0


@dataclass(frozen=True)
class Tap:
    """A tensor of the graph, rows first, whose gradient the parts need."""

    output: Tensor
    parts: tuple[Part, ...]


Rule = Callable[[Any, tuple[Any, ...], Any], Tap]


def linear(layer: nn.Linear, inputs: tuple[Any, ...], output: Tensor) -> Tap:
    """Weight: outer products of output gradient and input. Bias: sums."""
    parts = [Part(layer.weight, inputs[0].detach())]
    if layer.bias is not None:
        parts.append(Part(layer.bias, None))
    return Tap(output, tuple(parts))


def token_embedding(layer: TokenEmbedding, inputs: tuple[Any, ...], output: Tensor) -> Tap:
    """Rows of the table: one-hot or relaxed tokens times the output gradient."""
    x = inputs[0].detach()
    classes = layer.weight.shape[0]
    if x.is_floating_point():
        # The begin symbol, the last row, is never part of a relaxed token.
        x = nn.functional.pad(x, (0, 1))
    return Tap(output, (Part(layer.weight, x, transposed=True, classes=classes),))


def embedding(layer: nn.Embedding, inputs: tuple[Any, ...], output: Tensor) -> Tap:
    """As above, for torch's own embedding of hard tokens."""
    part = Part(layer.weight, inputs[0], transposed=True, classes=layer.num_embeddings)
    return Tap(output, (part,))


def lstm_recurrence(layer: LSTMRecurrence, inputs: tuple[Any, ...], output: Any) -> Tap:
    """The gradient of the gates, which are an argument, and the hidden states that met them."""
    gates, hidden = inputs[0], inputs[1]
    before = torch.cat([hidden.detach().unsqueeze(1), output[0].detach()[:, :-1]], dim=1)
    return Tap(gates, (Part(layer.weight, before), Part(layer.bias, None)))


RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: linear,
    nn.Embedding: embedding,
    TokenEmbedding: token_embedding,
    LSTMRecurrence: lstm_recurrence,
}
"""Rules by exact type. Add one here for a layer of one's own: ``RULES[MyLayer] = my_rule``."""

"""Which layers the meter can read, by exact type.

A rule turns one call of a layer into a tap: the tensor whose gradient is asked for in the
backward pass, and for each parameter how that gradient and the layer's input make the
parameter's. A layer that computes everything inside itself is unrolled: while a tape listens,
its forward pass is replaced by one of the same result that has something to tap. A layer with
neither is no error: the meter notices and differentiates draw by draw instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from estbench.meter import attention, convolution, norms, recurrent, transformer_layers
from estbench.meter.taps import Declined, Part, Tap, affine_parts
from estbench.models.lstm_generator import TokenEmbedding
from estbench.models.lstm_recurrence import LSTMRecurrence

__all__ = ["DENSE_VOCABULARY", "RULES", "UNROLLED", "Part", "Rule", "Tap", "Unrolled", "rule_of"]

DENSE_VOCABULARY = 64  # up to here one-hot rows are cheaper than comparing tokens pair by pair

Rule = Callable[[Any, tuple[Any, ...], Any], Tap]
"""(layer, its positional arguments, its output) -> tap. May raise ``Declined``."""

Unrolled = Callable[..., Any]
"""(layer, record, the layer's own arguments) -> the layer's own output; leaves taps in ``record``.

May raise ``Declined`` before it leaves any; the layer's own forward pass is run instead.
"""


def linear(layer: nn.Linear, inputs: tuple[Any, ...], output: Tensor) -> Tap:
    """Weight: outer products of output gradient and input. Bias: sums."""
    return Tap(output, affine_parts(layer.weight, layer.bias, inputs[0]))


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
    if layer.scale_grad_by_freq or layer.sparse:
        raise Declined("nn.Embedding with sparse or scaled gradients has no rule")
    part = Part(layer.weight, inputs[0], transposed=True, classes=layer.num_embeddings)
    kept = transformer_layers.not_padding(layer, inputs[0])
    return Tap(output, (part,), None if kept is None else lambda d: d * kept)


def lstm_recurrence(layer: LSTMRecurrence, inputs: tuple[Any, ...], output: Any) -> Tap:
    """The gradient of the gates, which are an argument, and the hidden states that met them."""
    gates, hidden = inputs[0], inputs[1]
    before = torch.cat([hidden.detach().unsqueeze(1), output[0].detach()[:, :-1]], dim=1)
    return Tap(gates, (Part(layer.weight, before), Part(layer.bias, None)))


RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: linear,
    nn.Embedding: embedding,
    nn.LayerNorm: norms.layer_norm,
    nn.RMSNorm: norms.rms_norm,
    nn.GroupNorm: norms.group_norm,
    nn.Conv1d: convolution.conv1d,
    TokenEmbedding: token_embedding,
    LSTMRecurrence: lstm_recurrence,
}
"""Rules by exact type. Add one here for a layer of one's own: ``RULES[MyLayer] = my_rule``."""

UNROLLED: dict[type[nn.Module], Unrolled] = {
    nn.LSTM: recurrent.lstm,
    nn.GRU: recurrent.gru,
    nn.RNN: recurrent.rnn,
    nn.LSTMCell: recurrent.lstm_cell,
    nn.GRUCell: recurrent.gru_cell,
    nn.RNNCell: recurrent.rnn_cell,
    nn.MultiheadAttention: attention.attention,
}
"""What the meter computes in a layer's place while it listens, by exact type.

``nn.TransformerEncoderLayer`` and the like need no entry: they are made of these.
"""


def rule_of(layer: nn.Module) -> Rule | None:
    """Return the rule for a layer; None if it has none."""
    return RULES.get(type(layer)) or transformer_layers.named_rule(layer)

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
from torch.nn import functional

from estbench.meter import attention, recurrent
from estbench.meter.taps import Declined, Part, Tap, affine_parts, at_least_float32
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


def not_padding(layer: nn.Embedding, tokens: Tensor) -> Tensor | None:
    """Return 0 where a token ``[n, ...]`` is the padding, whose row has no gradient; 1 elsewhere.

    None where the embedding has no padding.
    """
    if layer.padding_idx is None:
        return None
    return (tokens != layer.padding_idx).unsqueeze(-1).to(at_least_float32(layer.weight.dtype))


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
    kept = not_padding(layer, inputs[0])
    return Tap(output, (part,), None if kept is None else lambda d: d * kept)


def lstm_recurrence(layer: LSTMRecurrence, inputs: tuple[Any, ...], output: Any) -> Tap:
    """The gradient of the gates, which are an argument, and the hidden states that met them."""
    gates, hidden = inputs[0], inputs[1]
    before = torch.cat([hidden.detach().unsqueeze(1), output[0].detach()[:, :-1]], dim=1)
    return Tap(gates, (Part(layer.weight, before), Part(layer.bias, None)))


def layer_norm(layer: nn.LayerNorm, inputs: tuple[Any, ...], output: Tensor) -> Tap:
    """Weight: d times (x - mean) / deviation. Bias: d."""
    x = functional.layer_norm(inputs[0].detach(), layer.normalized_shape, eps=layer.eps)
    return _scaled(layer.weight, layer.bias, x, output, len(layer.normalized_shape))


def rms_norm(layer: nn.RMSNorm, inputs: tuple[Any, ...], output: Tensor) -> Tap:
    """Weight: d times x / root mean square."""
    x = functional.rms_norm(inputs[0].detach(), list(layer.normalized_shape), eps=layer.eps)
    return _scaled(layer.weight, None, x, output, len(layer.normalized_shape))


def group_norm(layer: nn.GroupNorm, inputs: tuple[Any, ...], output: Tensor) -> Tap:
    """As layer normalisation, with a weight for each channel ``[n, channels, ...]``."""
    x = functional.group_norm(inputs[0].detach(), layer.num_groups, eps=layer.eps)
    parts = _parts(layer.weight, layer.bias, x.movedim(1, -1))
    return Tap(output, parts, lambda d: d.movedim(1, -1))


def _scaled(
    weight: Tensor | None, bias: Tensor | None, x: Tensor, output: Tensor, dims: int
) -> Tap:
    parts = _parts(weight, bias, x.flatten(-dims))
    return Tap(output, parts, (lambda d: d.flatten(-dims)) if dims > 1 else None)


def _parts(weight: Tensor | None, bias: Tensor | None, x: Tensor) -> tuple[Part, ...]:
    parts = []
    if weight is not None:
        parts.append(Part(weight, x, elementwise=True))
    if bias is not None:
        parts.append(Part(bias, None))
    return tuple(parts)


def conv1d(layer: nn.Conv1d, inputs: tuple[Any, ...], output: Tensor) -> Tap:
    """Weight: outer products of output gradient and window. Bias: sums.

    Inputs are ``[n, channels, T]``; every position of the output is a row more of its draw.
    """
    if layer.groups != 1:
        raise Declined("nn.Conv1d in groups has no rule")
    x = inputs[0].detach()
    if x.dim() != 3:
        raise Declined("nn.Conv1d without a dimension of rows has no rule")
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = functional.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    windows = functional.unfold(
        padded.unsqueeze(2),
        kernel_size=(1, layer.kernel_size[0]),
        dilation=(1, layer.dilation[0]),
        stride=(1, layer.stride[0]),
    )
    parts = affine_parts(layer.weight, layer.bias, windows.transpose(1, 2))
    return Tap(output, parts, lambda d: d.transpose(1, 2))


RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: linear,
    nn.Embedding: embedding,
    nn.LayerNorm: layer_norm,
    nn.RMSNorm: rms_norm,
    nn.GroupNorm: group_norm,
    nn.Conv1d: conv1d,
    TokenEmbedding: token_embedding,
    LSTMRecurrence: lstm_recurrence,
}
"""Rules by exact type. Add one here for a layer of one's own: ``RULES[MyLayer] = my_rule``."""

UNROLLED: dict[type[nn.Module], Unrolled] = {
    nn.LSTM: recurrent.layers,
    nn.GRU: recurrent.layers,
    nn.RNN: recurrent.layers,
    nn.LSTMCell: recurrent.cell,
    nn.GRUCell: recurrent.cell,
    nn.RNNCell: recurrent.cell,
    nn.MultiheadAttention: attention.attention,
}
"""What the meter computes in a layer's place while it listens, by exact type.

``nn.TransformerEncoderLayer`` and the like need no entry: they are made of these.
"""


def transformers_conv1d(layer: Any, inputs: tuple[Any, ...], output: Tensor) -> Tap:
    """GPT-2's linear layer, whose weight is ``[in, out]``."""
    weight = Part(layer.weight, inputs[0].detach(), transposed=True)
    bias = () if layer.bias is None else (Part(layer.bias, None),)
    return Tap(output, (weight, *bias))


def transformers_rms_norm(layer: Any, inputs: tuple[Any, ...], output: Tensor) -> Tap:
    """Weight: d times x / root mean square, whether the layer scales by ``w`` or by ``1 + w``."""
    eps = layer.variance_epsilon if hasattr(layer, "variance_epsilon") else layer.eps
    x = inputs[0].detach().to(torch.float32)  # as these layers do, in whatever type the model is
    x = x * torch.rsqrt(x.pow(2).mean(dim=-1, keepdim=True) + eps)
    return Tap(output, (Part(layer.weight, x, elementwise=True),))


def scaled_embedding(layer: Any, inputs: tuple[Any, ...], output: Tensor) -> Tap:
    """Gemma's embedding: torch's, and its output times a number."""
    scale = layer.embed_scale.to(layer.weight.dtype)
    kept = not_padding(layer, inputs[0])
    part = Part(layer.weight, inputs[0], transposed=True, classes=layer.num_embeddings)
    return Tap(output, (part,), lambda d: scale * (d if kept is None else d * kept))


def named_rule(layer: nn.Module) -> Rule | None:
    """Return the rule for a layer of Hugging Face's transformers; None if it has none.

    They are known by their classes' names: each family of models has a class of its own for the
    same normalisation, and nothing of transformers is imported here. What a class computes may
    differ from what its name says; the meter compares its draws with autograd, and then takes the
    loop.
    """
    name = type(layer).__name__
    own = {label for label, _ in layer.named_parameters(recurse=False)}
    if name == "Conv1D" and own <= {"weight", "bias"}:
        return transformers_conv1d
    if name.endswith("RMSNorm") and own == {"weight"}:
        return transformers_rms_norm
    if name.endswith("ScaledWordEmbedding") and own == {"weight"}:
        return scaled_embedding
    return None


def rule_of(layer: nn.Module) -> Rule | None:
    """Return the rule for a layer; None if it has none."""
    return RULES.get(type(layer)) or named_rule(layer)

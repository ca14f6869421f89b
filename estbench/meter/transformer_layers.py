"""Rules of the layers that Hugging Face's transformers brings beside torch's own.

Its classes are known by their names: each family of models has a class of its own for the same
normalisation, and nothing of transformers is imported here. What a class computes may differ from
what its name says; the meter compares its draws with autograd, and then takes the loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from estbench.meter.taps import Part, Tap, at_least_float32

__all__ = ["named_rule"]


def conv1d(layer: Any, inputs: tuple[Any, ...], output: Tensor) -> Tap:
    """GPT-2's linear layer, whose weight is ``[in, out]``."""
    parts = [Part(layer.weight, inputs[0].detach(), transposed=True)]
    if layer.bias is not None:
        parts.append(Part(layer.bias, None))
    return Tap(output, tuple(parts))


def rms_norm(layer: Any, inputs: tuple[Any, ...], output: Tensor) -> Tap:
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


def not_padding(layer: nn.Embedding, tokens: Tensor) -> Tensor | None:
    """Return 0 where a token ``[n, ...]`` is the padding, whose row has no gradient; 1 elsewhere.

    None where the embedding has no padding.
    """
    if layer.padding_idx is None:
        return None
    return (tokens != layer.padding_idx).unsqueeze(-1).to(at_least_float32(layer.weight.dtype))


def named_rule(layer: nn.Module) -> Callable[[Any, tuple[Any, ...], Any], Tap] | None:
    """Return the rule for a layer of transformers, known by its class's name; None if none is."""
    name = type(layer).__name__
    own = {label for label, _ in layer.named_parameters(recurse=False)}
    if name == "Conv1D" and own <= {"weight", "bias"}:
        return conv1d
    if name.endswith("RMSNorm") and own == {"weight"}:
        return rms_norm
    if name.endswith("ScaledWordEmbedding") and own == {"weight"}:
        return scaled_embedding
    return None

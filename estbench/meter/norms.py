"""Rules of normalising layers: the normalised input times the output gradient, entry by entry."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from estbench.meter.taps import Part, Tap

__all__ = ["group_norm", "layer_norm", "rms_norm"]


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

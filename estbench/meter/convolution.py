"""The rule of a one-dimensional convolution, which is a linear layer of unfolded windows."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from estbench.meter.taps import Declined, Tap, affine_parts

__all__ = ["conv1d"]


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

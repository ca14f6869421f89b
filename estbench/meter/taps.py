"""What a layer tells the meter: the tensor whose gradient is asked for, and what goes with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = [
    "Declined",
    "Part",
    "Record",
    "Tap",
    "affine_parts",
    "at_least_float32",
    "require_gradient",
]


class Declined(Exception):  # noqa: N818  (no error: the loop takes over)
    """A layer is used in a way that its rule does not cover; the text says which."""


@dataclass(frozen=True)
class Part:
    """One parameter's share of a tap.

    Attributes:
      parameter: The parameter.
      x: What multiplies the tap's gradient d: ``[rows, ..., a]`` numbers, int64 tokens
        ``[rows, ...]`` that stand for one-hot rows, or None where the gradient is just the sum.
      transposed: The parameter is ``[a, b]`` (sum of x d') rather than ``[b, a]`` (sum of d x').
      classes: Number of one-hot classes a where x holds tokens.
      elementwise: The parameter has the b entries of d, and its gradient is the sum of d * x.
      offset: d belongs to the b entries of the parameter's first dimension from this one on.
    """

    parameter: Tensor
    x: Tensor | None
    transposed: bool = False
    classes: int = 0
    elementwise: bool = False
    offset: int = 0


@dataclass(frozen=True)
class Tap:
    """A tensor of the graph whose gradient the parts need.

    Attributes:
      output: The tensor, rows first and features last, unless ``arrange`` makes it so.
      parts: The parameters that its gradient is for.
      arrange: Turns the gradient into rows first and features last.
    """

    output: Tensor
    parts: tuple[Part, ...]
    arrange: Callable[[Tensor], Tensor] | None = None


Record = Callable[[Tap], None]
"""Where a layer that is unrolled while the meter listens leaves its taps."""


def affine_parts(
    weight: Tensor, bias: Tensor | None, x: Tensor, offset: int = 0
) -> tuple[Part, ...]:
    """Return the parts of x W' + b: outer products for the weight, sums for the bias.

    Args:
      weight: ``[b, a]``.
      bias: ``[b]`` or None.
      x: ``[rows, ..., a]``.
      offset: See ``Part``.
    """
    parts = [Part(weight, x.detach(), offset=offset)]
    if bias is not None:
        parts.append(Part(bias, None, offset=offset))
    return tuple(parts)


def require_gradient(tensor: Tensor, *parameters: Tensor | nn.Parameter | None) -> Tensor:
    """Return the tensor, one with a gradient if one of the parameters needs it for its own."""
    if not tensor.requires_grad and any(p is not None and p.requires_grad for p in parameters):
        tensor.requires_grad_()
    return tensor


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Return the type to compute in: the given one, but float32 for half precision."""
    return torch.promote_types(dtype, torch.float32)

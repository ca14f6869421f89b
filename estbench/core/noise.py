"""Every random number that an estimator or a sampler uses is made here.

Tests replace these functions to feed extremes (an exact 0, the largest number below 1) or fixed
noise. Noise is laid out draw-major, all of a draw's numbers together, so that a draw is the same
when other draws are added after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["exponential", "gumbel", "normal", "uniform", "uniforms"]


def uniform(rng: torch.Generator, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return uniform numbers in [0, 1) of the given shape, on the generator's device."""
    return torch.rand(tuple(shape), generator=rng, dtype=dtype, device=rng.device)


def uniforms(
    rng: torch.Generator, draws: int, shapes: Mapping[str, Sequence[int]], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Return several named blocks of uniforms, drawn together so that the draw is the slow axis.

    Args:
      rng: The stream.
      draws: Number of draws n.
      shapes: For each name, the shape of what one draw needs.
      dtype: float32 or float64.

    Returns:
      For each name a tensor ``[n, *shape]``.
    """
    sizes = {name: int(torch.Size(shape).numel()) for name, shape in shapes.items()}
    flat = uniform(rng, (draws, sum(sizes.values())), dtype)
    blocks = torch.split(flat, list(sizes.values()), dim=1)
    return {
        name: block.reshape(draws, *shape)
        for (name, shape), block in zip(shapes.items(), blocks, strict=True)
    }


def exponential(u: Tensor) -> Tensor:
    """Return Exp(1) numbers from uniforms, finite and strictly positive for every u in [0, 1].

    ``torch.rand`` returns an exact 0 now and then, and some devices an exact 1: both ends are
    moved inside, or one unlucky number would turn every parameter into NaN.
    """
    info = torch.finfo(u.dtype)
    return -torch.log(u.clamp(info.tiny, 1 - info.eps / 2))


def gumbel(u: Tensor) -> Tensor:
    """Return standard Gumbel numbers from uniforms, finite for every u in [0, 1)."""
    return -torch.log(exponential(u))


def normal(u: Tensor) -> Tensor:
    """Return standard normal numbers from uniforms, finite for every u in [0, 1]."""
    info = torch.finfo(u.dtype)
    z: Tensor = torch.special.ndtri(u.clamp(info.eps / 2, 1 - info.eps / 2))
    return z

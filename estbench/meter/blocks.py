"""Blocks of draws against the exact gradient: the size of a bias, its limits, and tests for it.

A U-statistic over pairs of blocks estimates |E g - grad J|^2 without the noise that every squared
mean carries; its null law comes from flipping the signs of whole blocks, which stays valid where
the gradient has thousands of parameters and a covariance of very low rank (chi-square and
Hotelling do not). Beside it stand t tests along directions fixed beforehand: the exact gradient,
and its part in each tensor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize, stats
from torch import Tensor

__all__ = ["BLOCKS", "Blocks", "Look"]

Array = NDArray[np.float64]

BLOCKS = 64
FLIPS = (2_000, 100_000, 2_000_000)  # the smallest p-value must be below what a test may spend
FLIPS_AT_ONCE = 100_000
NOISE_SAMPLES = 8_192
ROUNDING = 1e-3  # a bias below this part of the margin is not told from rounding


@dataclass(frozen=True)
class Look:
    """What the draws said at one look.

    Attributes:
      draws: Draws so far.
      relative_bias: |E g - grad J| / |grad J|, 0 where its square is estimated below 0.
      low: Lower end of a 95 % interval of it.
      high: Upper end.
      upper: One-sided upper limit that the verdict uses: 95 % over all looks together.
      projection: E[g] on grad J, relative to |grad J|: 1 is right.
      noise: tr Cov of one draw / |grad J|^2.
      p_values: Probabilities under no bias, adjusted by Holm over this look's tests: "norm" for
        the U-statistic, "gradient" for the direction of grad J, and the tensors' names.
    """

    draws: int
    relative_bias: float
    low: float
    high: float
    upper: float
    projection: float
    noise: float
    p_values: dict[str, float]


class Blocks:
    """Sums of draws in equal blocks, and what they say about the mean's error.

    Args:
      gradient: The exact gradient, a tensor for each parameter.
      names: The parameters' names.

    Raises:
      ValueError: The exact gradient is 0, so that no bias is small beside it.
    """

    def __init__(self, gradient: Sequence[Tensor], names: Sequence[str]) -> None:
        parts = [g.double().cpu().flatten() for g in gradient]
        self.exact = torch.cat(parts)
        self.norm = float(self.exact.norm())
        if self.norm == 0:
            raise ValueError("the exact gradient is 0: a relative bias has no meaning")
        self.sums = torch.zeros(BLOCKS, len(self.exact), dtype=torch.float64)
        self.draws = 0
        self.directions = {"gradient": slice(0, len(self.exact))}
        if len(parts) > 1:
            start = 0
            for name, part in zip(names, parts, strict=True):
                # A tensor with next to no gradient has no direction but rounding's.
                if float(part.norm()) > 1e-6 * self.norm:
                    self.directions[name] = slice(start, start + len(part))
                start += len(part)

    def add(self, sums: Tensor, draws: int) -> None:
        """Add draws, given as sums ``[blocks, P]`` of equal numbers of them."""
        self.sums += sums.double().cpu()
        self.draws += draws

    def look(self, margin: float, spent: float) -> Look:
        """Return what the blocks say.

        Args:
          margin: Relative bias from which on one is found or excluded; a smaller one may pass.
          spent: Probability with which the upper limit may fail at this look.
        """
        errors = (self.sums * (BLOCKS / self.draws) - self.exact) / self.norm
        gram = (errors @ errors.t()).numpy()
        u = _pair_mean(gram)
        noise = _noise_spectrum(gram)
        law = _Law(noise)
        size = math.sqrt(max(u, 0.0))
        p_values: dict[str, float] = {"norm": _flip_test(gram, u)}
        if size < ROUNDING * margin:
            p_values["norm"] = 1.0
        for name, part in self.directions.items():
            direction = self.exact[part]
            along = (errors[:, part] @ (direction / direction.norm())).numpy()
            p_values[name] = _t_test(along, ROUNDING * margin)
            if name == "gradient":
                projection = 1.0 + float(along.mean())
        return Look(
            draws=self.draws,
            relative_bias=size,
            low=law.limit(u, 0.975),
            # A value below 0 says no more than 0 does.
            high=law.limit(max(u, 0.0), 0.025),
            upper=law.limit(max(u, 0.0), spent),
            projection=projection,
            noise=float(noise.sum()) * self.draws,
            p_values=_holm(p_values),
        )


def _pair_mean(gram: Array) -> float:
    """Return the mean inner product over pairs of different blocks: |bias|^2 without noise."""
    return float((gram.sum() - np.trace(gram)) / (BLOCKS * (BLOCKS - 1)))


def _noise_spectrum(gram: Array) -> Array:
    """Return the eigenvalues of the mean's covariance, largest first, from centred blocks."""
    centred = gram - gram.mean(axis=0) - gram.mean(axis=1, keepdims=True) + gram.mean()
    values: Array = np.linalg.eigvalsh(centred)[::-1] / (BLOCKS * (BLOCKS - 1))
    return values.clip(min=0.0)


@cache
def _signs(part: int, flips: int) -> NDArray[np.float32]:
    rng = np.random.default_rng([20170322, part])
    bits = rng.integers(0, 2, size=(flips, BLOCKS), dtype=np.int8)
    return (2 * bits - 1).astype(np.float32)


def _flip_test(gram: Array, u: float) -> float:
    """Return the share of sign flips of whole blocks that make the U-statistic as large as u."""
    scale = float(np.trace(gram))
    if scale == 0:
        return 1.0
    small = (gram / scale).astype(np.float32)
    threshold = ((u * BLOCKS * (BLOCKS - 1)) / scale + 1.0) * (1 - 1e-6)

    def as_large(part: int, flips: int) -> int:
        # The first parts are kept, for they serve every test; the others are rarely asked for.
        signs = (_signs if part < 2 else _signs.__wrapped__)(part, flips)
        flipped = np.einsum("fb,fb->f", signs @ small, signs)
        return int((flipped >= threshold).sum())

    few, many, most = FLIPS
    p = (1 + as_large(0, few)) / (1 + few)
    if p > 0.01:  # more flips would only say more precisely that nothing was found
        return p
    count = as_large(1, many)
    if count > 10:
        return (1 + count) / (1 + many)
    count += sum(as_large(part, FLIPS_AT_ONCE) for part in range(2, 1 + most // FLIPS_AT_ONCE))
    return (1 + count) / (1 + most)


def _t_test(values: Array, floor: float) -> float:
    """Return the two-sided p-value of mean 0; 1 where the mean is below the floor."""
    mean = float(values.mean())
    if abs(mean) < floor:
        return 1.0
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    if error == 0:
        return 0.0
    return float(2 * stats.t.sf(abs(mean) / error, len(values) - 1))


def _holm(p_values: dict[str, float]) -> dict[str, float]:
    """Return p-values adjusted so that one of them below alpha is an error of alpha at most."""
    adjusted, running = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        running = max(running, (len(p_values) - rank) * p_values[name])
        adjusted[name] = min(1.0, running)
    return {name: adjusted[name] for name in p_values}


class _Law:
    """The law of the U-statistic for a bias of given size.

    The mean's error is taken as normal with variances ``noise`` along its axes, and the bias
    along the axis of most noise, where it hides best: upper limits err on the large side.

    Args:
      noise: Variances, largest first, ``[BLOCKS]``.
    """

    def __init__(self, noise: Array) -> None:
        z = _normals()
        self.first = math.sqrt(noise[0]) * z[:, 0]
        self.rest = _squares() @ noise[1:] - noise.sum()
        self.spread = math.sqrt(float(noise.sum()))

    def limit(self, u: float, probability: float) -> float:
        """Return the size of bias at which a value of at most ``u`` has that probability."""
        rank = min(int(probability * NOISE_SAMPLES), NOISE_SAMPLES - 1)

        def gap(size: float) -> float:
            values = (size + self.first) ** 2 + self.rest
            return float(np.partition(values, rank)[rank]) - u

        if gap(0.0) >= 0:
            return 0.0
        top = math.sqrt(max(u, 0.0)) + 10 * self.spread
        return float(optimize.brentq(gap, 0.0, top, xtol=1e-4 * top)) if self.spread else top


@cache
def _normals() -> Array:
    return np.random.default_rng(20170323).standard_normal((NOISE_SAMPLES, BLOCKS))


@cache
def _squares() -> Array:
    return _normals()[:, 1:] ** 2

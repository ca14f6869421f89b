"""Per-draw gradients that are given whole, some draws at a time, with the algebra of ``Factors``.

An estimator that is no graph of the policy hands over its draws as they are. Held together they
would be [draws, parameters] numbers; everything below goes through them in parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce

import torch
from torch import Tensor

from estbench.estimators.base import Direct
from estbench.meter.factors import Factors

__all__ = ["GivenShapeError", "Streamed"]

NUMBERS = 1 << 24  # held at a time: 64 MB in float32


class GivenShapeError(ValueError):
    """What was given is no gradient of the parameters; the text names the tensor."""


class Streamed(Factors):
    """The gradients of a ``Direct``'s draws.

    Args:
      given: The draws.
      parameters: The policy's.
      names: Their names.

    Raises:
      GivenShapeError: A tensor has another shape than its parameter's gradients.
    """

    def __init__(self, given: Direct, parameters: Sequence[Tensor], names: Sequence[str]) -> None:
        super().__init__([], given.draws)
        self.given = given
        self.shapes = [tuple(p.shape) for p in parameters]
        self.names = names
        self.size = max(1, NUMBERS // max(1, sum(p.numel() for p in parameters)))
        self._held: Factors | None = None  # everything, where it is one part

    def part(self, start: int, stop: int) -> Factors:
        """Return the draws from ``start`` up to ``stop``."""
        if self._held is not None:
            return Factors.direct([f.form(slice(start, stop)) for f in self._held.factors])
        found = list(self.given.gradients(start, stop))
        if len(found) != len(self.shapes):
            raise GivenShapeError(
                f"{len(found)} tensors were given for {len(self.shapes)} parameters"
            )
        for name, shape, tensor in zip(self.names, self.shapes, found, strict=True):
            if tuple(tensor.shape) != (stop - start, *shape):
                raise GivenShapeError(
                    f"{name}: gradients of {stop - start} draws have shape {tuple(tensor.shape)}, "
                    f"not {(stop - start, *shape)}"
                )
        return Factors.direct([tensor.detach() for tensor in found])

    def _parts(self) -> Iterator[Factors]:
        if self._held is None and self.draws <= self.size:
            self._held = self.part(0, self.draws)
        if self._held is not None:
            yield self._held
            return
        for start, stop in self._spans(0, self.draws):
            yield self.part(start, stop)

    def _spans(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield where parts begin and end, of the draws from ``start`` up to ``stop``."""
        for first in range(start, stop, self.size):
            yield first, min(first + self.size, stop)

    def whole(self, picked: Tensor) -> list[Tensor]:
        rows = picked.tolist()
        if rows == list(range(rows[0], rows[0] + len(rows))):
            return self.part(rows[0], rows[0] + len(rows)).whole(torch.arange(len(rows)))
        each = [self.part(i, i + 1).whole(torch.tensor([0])) for i in rows]
        return [torch.cat(parts) for parts in zip(*each, strict=True)]

    def tensor(self, index: int) -> Tensor:
        return torch.cat([part.tensor(index) for part in self._parts()])

    def sums(self) -> list[Tensor]:
        each = [part.sums() for part in self._parts()]
        return [torch.stack(list(parts)).sum(dim=0) for parts in zip(*each, strict=True)]

    def second_moments(self, draws: int) -> tuple[list[Tensor], list[Tensor]]:
        parts = (self.part(start, stop) for start, stop in self._spans(0, draws))
        each = [part.second_moments(part.draws) for part in parts]
        sums, squares = (
            [torch.stack(list(tensors)).sum(dim=0) for tensors in zip(*found, strict=True)]
            for found in zip(*each, strict=True)
        )
        return sums, squares

    def block_sums(self, blocks: int) -> Tensor:
        if self.draws % blocks:
            raise ValueError(f"{self.draws} draws do not fall into {blocks} equal blocks")
        length = self.draws // blocks
        if self.draws <= self.size:
            return next(self._parts()).block_sums(blocks)
        rows = []
        for block in range(blocks):
            spans = self._spans(block * length, (block + 1) * length)
            sums = (self.part(start, stop).block_sums(1) for start, stop in spans)
            rows.append(reduce(torch.add, sums))
        return torch.cat(rows)

    def squared_norms(self) -> Tensor:
        return torch.cat([part.squared_norms() for part in self._parts()])

    def squared_norms_by_tensor(self) -> Tensor:
        return torch.cat([part.squared_norms_by_tensor() for part in self._parts()], dim=1)

    def dots(self, direction: Sequence[Tensor]) -> Tensor:
        return torch.cat([part.dots(direction) for part in self._parts()])

    def inner(self, other: Factors) -> Tensor:
        """See ``Factors.inner``; the other draws are given whole as well."""
        if not isinstance(other, Streamed):
            raise TypeError("draws given whole have inner products with their like alone")
        spans = self._spans(0, self.draws)
        return torch.cat([self.part(i, j).inner(other.part(i, j)) for i, j in spans])

"""What the rows of a conditional policy are given: an image, say, whose code it draws.

A policy that draws b given x has ``contexts``; its reward reads the same ones. An estimator knows
nothing of them: whoever asks it for draws says beforehand what those draws are given.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

__all__ = ["Contexts"]


class Contexts:
    """M contexts for the rows of every call to come, shared by a policy, its reward and its copies.

    Rows are draw-major, and so are contexts: of n rows the first n / M are given context 0, and so
    on. So the same M contexts serve M draws of one sequence, M draws of eight, or 4 M draws, four
    of each context.

    Args:
      values: ``[M, D]``. A single one serves any number of rows.

    Attributes:
      generated: Tokens drawn so far by the policy and by its copies, end tokens included, if the
        policy counts them.
      mixed: Whether an estimator of a whole batch has several contexts in a draw, as trainers of
        language models have prompts; else every draw has one.
    """

    mixed = False

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.generated = 0

    @property
    def count(self) -> int:
        """Number of contexts M."""
        return self.values.shape[0]

    def rows(self, n: int) -> Tensor:
        """Return the context of each of n rows, ``[n, D]``.

        Raises:
          ValueError: n is no multiple of M: the rows cannot be whole draws.
        """
        if n % self.count:
            raise ValueError(
                f"{n} rows for {self.count} contexts: draws must be a multiple of the contexts, "
                "and a call must hold rows of all of them"
            )
        return self.values.repeat_interleave(n // self.count, dim=0)

    @contextmanager
    def given(self, values: Tensor) -> Iterator[None]:
        """Have other contexts inside the block."""
        before = self.values
        self.values = values
        try:
            yield
        finally:
            self.values = before

    def __deepcopy__(self, memo: dict[int, Any]) -> Contexts:
        """A copy of a policy is given what the policy is given."""
        return self

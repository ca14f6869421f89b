"""Coefficients of control variates in closed form, from past draws.

For g = A + sum_k a_k C_k with E[C_k] = 0 the least E|g|^2 is at a = -E[C C']^{-1} E[C.A]. A
constant baseline is the control variate -S; tuned together with eta it is a 2 x 2 solve. (The
scalar case is equation 8 of Tucker et al. 2017 solved rather than descended.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from estbench.estimators.base import Learned

__all__ = ["Coefficients"]


class Coefficients:
    """Solves for the coefficients of some control variates from moving moments.

    Args:
      labels: Names of the control variates, in the order in which they follow the score term.
      decay: Weight that a moment keeps from one batch to the next. The policy and the
        discriminator move, so old moments must fade; 0.8 remembers about five batches.
      ridge: Added to the diagonal, relative to it: a control variate that is almost nothing
        gets a coefficient of almost nothing.
      bounds: Least and greatest coefficient of control variates that may not take any value.
    """

    def __init__(
        self,
        labels: Sequence[str],
        decay: float = 0.8,
        ridge: float = 1e-4,
        bounds: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        self.labels = tuple(labels)
        self.decay = decay
        self.ridge = ridge
        self.bounds = dict(bounds or {})

    def initial_state(self) -> Learned:
        """Return coefficients of 0 and empty moments."""
        k = len(self.labels) + 1
        return {"values": (0.0,) * (k - 1), "moments": torch.zeros(k, k, dtype=torch.float64)}

    def values(self, state: Learned) -> dict[str, float]:
        """Return the coefficients in use, by label."""
        return dict(zip(self.labels, state["values"], strict=True))

    def alone(self, label: str, state: Learned) -> float:
        """Return the coefficient that one control variate would have without the others."""
        if label not in self.labels or not bool(state["moments"].any()):
            return 0.0
        index = torch.tensor([0, 1 + self.labels.index(label)])
        return self._least(state["moments"][index][:, index])[0]

    def adapt(self, gram: Tensor, state: Learned) -> None:
        """Update the moments with inner products ``[n, 1 + k, 1 + k]`` and solve again."""
        state["moments"] = self.faded(state["moments"], gram)
        state["values"] = self.solve(state["moments"])

    def faded(self, moments: Tensor | None, gram: Tensor) -> Tensor:
        """Return moments after one more batch; None stands for no moments yet."""
        batch = gram.detach().double().mean(dim=0).cpu()
        before = torch.zeros_like(batch) if moments is None else moments
        return self.decay * before + (1 - self.decay) * batch

    def solve(self, moments: Tensor) -> tuple[float, ...]:
        """Return the coefficients of least second moment for moments ``[1 + k, 1 + k]``.

        A coefficient that leaves its bounds is set to the nearer one, and the others are solved for
        again beside it (exactly the least there is where one coefficient has bounds).
        """
        free = list(self._least(moments))
        for index, label in enumerate(self.labels):
            low, high = self.bounds.get(label, (-math.inf, math.inf))
            if not low <= free[index] <= high:
                held = min(max(free[index], low), high)
                kept = [i for i in range(len(moments)) if i != 1 + index]
                # The fixed control variate joins the term that all others are subtracted from.
                joined = torch.eye(len(moments), dtype=moments.dtype)[kept]
                joined[0, 1 + index] = held
                others = list(self._least(joined @ moments @ joined.T))
                free = [*others[:index], held, *others[index:]]
        return tuple(free)

    def _least(self, moments: Tensor) -> tuple[float, ...]:
        """Return the coefficients of least second moment, whatever the bounds."""
        matrix, target = moments[1:, 1:], -moments[1:, 0]
        if not len(target):
            return ()
        scale = matrix.diagonal().clamp_min(torch.finfo(matrix.dtype).tiny).sqrt()
        normal = matrix / torch.outer(scale, scale)
        normal = normal + self.ridge * torch.eye(len(scale), dtype=normal.dtype)
        solved = torch.linalg.solve(normal, target / scale) / scale
        if not bool(solved.isfinite().all()):
            return (0.0,) * len(scale)
        return tuple(solved.tolist())

    def second_moment(self, moments: Tensor) -> float:
        """Return the E|g|^2 that the best coefficients would leave for these moments."""
        a = torch.tensor([1.0, *self.solve(moments)], dtype=moments.dtype)
        return float(a @ moments @ a)

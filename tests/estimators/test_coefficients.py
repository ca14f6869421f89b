"""Coefficients of control variates: least second moment, within bounds where there are any."""

from __future__ import annotations

import pytest
import torch
from scipy import optimize
from torch import Tensor

from estbench.estimators.coefficients import Coefficients


def moments(k: int, seed: int) -> Tensor:
    """Return E[x x'] of 1 + k correlated numbers."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(50, 1 + k, generator=generator, dtype=torch.float64)
    mixed = rows @ torch.randn(1 + k, 1 + k, generator=generator, dtype=torch.float64)
    mixed[:, 0] *= 3  # so that coefficients above 1 occur as well
    return mixed.T @ mixed / 50


def second_moment(values: tuple[float, ...], matrix: Tensor) -> float:
    a = torch.tensor([1.0, *values], dtype=torch.float64)
    return float(a @ matrix @ a)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("bounded", [{}, {"factor": (0.0, 1.0)}])
def test_the_coefficients_leave_the_least_second_moment_within_their_bounds(
    seed: int, bounded: dict[str, tuple[float, float]]
) -> None:
    labels = ("constant", "factor", "eta")
    matrix = moments(3, seed)
    limits = [bounded.get(label, (None, None)) for label in labels]
    least = optimize.minimize(
        lambda a: second_moment(tuple(a), matrix),
        x0=[0.5] * 3,
        bounds=limits,
        method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-10},
    )
    method = Coefficients(labels, ridge=0.0, bounds=bounded)
    found = method.solve(matrix)
    assert found == pytest.approx(tuple(least.x), abs=1e-5)
    assert method.second_moment(matrix) == pytest.approx(least.fun, rel=1e-9)


def test_some_of_these_moments_ask_for_more_than_the_bounds_allow() -> None:
    free = [Coefficients(("constant", "factor", "eta")).solve(moments(3, s))[1] for s in range(8)]
    assert any(value > 1 for value in free)
    assert any(value < 0 for value in free)


def test_a_control_variate_that_is_zero_gets_nothing() -> None:
    matrix = moments(2, 0)
    matrix[2] = 0
    matrix[:, 2] = 0
    assert Coefficients(("constant", "factor")).solve(matrix)[1] == 0

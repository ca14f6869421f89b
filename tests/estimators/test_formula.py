"""Declared costs are read as people write them, and nothing else is evaluated."""

from __future__ import annotations

import pytest

from estbench.estimators.formula import evaluate

VALUES = {"T": 3.0, "V": 4.0, "K": 2.0}


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("1", 1),
        ("2T", 6),
        ("T", 3),
        ("1 + 2(T - 1)", 5),
        ("K(1 + T)", 8),
        ("T V", 12),
        ("(T + 1)(V - 1)", 12),
        ("T^2 / 3", 3),
        ("1 + 16(T - 1)", 33),
    ],
)
def test_formulas(formula: str, value: float) -> None:
    assert evaluate(formula, VALUES) == value


@pytest.mark.parametrize(
    "formula", ["", "2X", "T +", "__import__('os')", "T.real", "[T]", "1/0", "9^9^9^9", "'T'"]
)
def test_anything_else_is_refused(formula: str) -> None:
    with pytest.raises(ValueError, match="is no formula in T, V, K"):
        evaluate(formula, VALUES)

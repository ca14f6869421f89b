"""Declared costs: formulas such as "1 + 2(T - 1)" or "2T", as people write them."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping

__all__ = ["evaluate"]

OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}


def evaluate(formula: str, values: Mapping[str, float]) -> float:
    """Return what a formula comes to.

    Args:
      formula: Numbers, names, + - * / ^ and brackets; a product may go without its sign.
      values: What the names stand for.

    Raises:
      ValueError: It is no such formula; the text says so.
    """
    # A sign between what stands side by side: 2T, 2(T - 1), N(T - 1), T V.
    gaps = r"(?<=[\w)])\s*(?=\()|(?<=[\d)])\s*(?=[A-Za-z])|(?<=[A-Za-z])\s+(?=\w)"
    python = re.sub(gaps, "*", formula).replace("^", "**")
    try:
        return _value(ast.parse(python, mode="eval").body, values)
    except (SyntaxError, KeyError, TypeError, ZeroDivisionError, OverflowError):
        names = ", ".join(values)
        raise ValueError(f"{formula!r} is no formula in {names}, such as 1 + 2(T - 1)") from None


def _value(node: ast.expr, values: Mapping[str, float]) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return float(node.value)  # an overflow, where an integer would go on for ever
    if isinstance(node, ast.Name):
        return values[node.id]
    if isinstance(node, ast.BinOp):
        return OPERATORS[type(node.op)](_value(node.left, values), _value(node.right, values))
    raise TypeError

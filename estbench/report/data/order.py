"""The order in which tasks and estimators are listed: by hue, and numbers as numbers."""

from __future__ import annotations

import re
from functools import cache

from estbench.core.registry import catalogue

__all__ = ["HUES", "KNOWN", "estimator_hue", "estimator_order", "task_order"]

Natural = tuple[tuple[int, int | str], ...]

KNOWN: tuple[str, ...] = (
    "reinforce",
    "reinforce-constant",
    "reinforce-ema",
    "reinforce-critic",
    "rloo",
    "seqgan-rollouts",
    "rebar",
    "relax",
)
"""Estimators that precede the others of their hue, and have a look of their own."""

HUES = ("reinforce", "rloo", "seqgan", "rebar", "relax", "arm", "gumbel", "evolution", "biased")
"""Families of colours. A class declares its hue; a name that begins with a hue's always has it."""


@cache
def estimator_hue(estimator: str) -> str:
    """Return an estimator's hue ("rebar-soft": "rebar"), or "" for a name that nobody knows."""
    head = _head(estimator)
    return head if head in HUES else _declared().get(head, "")


def estimator_order(estimator: str) -> tuple[int, int, Natural]:
    """Return the sort key of an estimator: by hue, those of `KNOWN` first."""
    hue = estimator_hue(estimator)
    place = KNOWN.index(estimator) if estimator in KNOWN else len(KNOWN)
    return HUES.index(hue) if hue else len(HUES), place, _natural(estimator)


def task_order(task: str) -> Natural:
    """Return the sort key of a task: expressions-3 precedes expressions-15."""
    return _natural(task)


@cache
def _declared() -> dict[str, str]:
    """Return how names begin -> the hue that the catalogue declares."""
    return {_head(name): look["hue"] for name, look in catalogue()["looks"].items() if look["hue"]}


def _head(name: str) -> str:
    return re.split(r"[-_.@]", name)[0]


def _natural(name: str) -> Natural:
    """Return the key of natural order, in which numbers are compared as numbers."""
    parts = re.findall(r"\d+|\D+", name)
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in parts)

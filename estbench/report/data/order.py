"""The order in which tasks and estimators are listed: by family, and numbers as numbers."""

from __future__ import annotations

import re
from functools import cache

__all__ = ["FAMILIES", "KNOWN", "estimator_family", "estimator_order", "task_order"]

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
"""Estimators that precede the others of their family."""

FAMILIES: tuple[tuple[str, ...], ...] = (
    ("reinforce",),
    ("rloo", "exact", "all", "last", "leave", "muprop", "opo", "token", "single"),
    ("seqgan", "vine", "vineppo", "rollout", "rollouts"),
    ("rebar",),
    ("relax",),
    ("arm", "arsm", "disarm", "carms", "coupled", "unordered", "sum", "set", "without"),
    ("gumbel", "st", "straight", "decoupled", "gapped", "reinmax"),
    ("evolution", "spsa", "rodeo", "double", "stein", "es"),
    ("biased", "grpo", "dr", "dapo", "importance", "ppo", "gspo", "cispo", "v"),
)
"""What the names of each family begin with, up to a hyphen."""


@cache
def estimator_family(name: str) -> int | None:
    """Return the place in `FAMILIES` of an estimator ("rebar-soft": that of "rebar"), or None."""
    head = re.split(r"[-_.@]", name)[0]
    return next((place for place, heads in enumerate(FAMILIES) if head in heads), None)


def estimator_order(estimator: str) -> tuple[int, int, Natural]:
    """Return the sort key of an estimator: by family, those of `KNOWN` first."""
    family = estimator_family(estimator)
    place = KNOWN.index(estimator) if estimator in KNOWN else len(KNOWN)
    return (len(FAMILIES) if family is None else family), place, _natural(estimator)


def task_order(task: str) -> Natural:
    """Return the sort key of a task: expressions-3 precedes expressions-15."""
    return _natural(task)


def _natural(name: str) -> Natural:
    """Return the key of natural order, in which numbers are compared as numbers."""
    parts = re.findall(r"\d+|\D+", name)
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in parts)

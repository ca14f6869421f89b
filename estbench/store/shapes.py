"""Shapes of JSON documents: small checks that are put together, and name the place that is wrong.

A shape is a function of a value and of where it stands. It returns nothing, or raises a
``ValueError`` whose text is a line: "curves.step[3] is no whole number".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from estbench.config.validation import MOST_LETTERS, is_name, shown

__all__ = [
    "LARGEST",
    "LARGEST_WHOLE",
    "Shape",
    "anything",
    "between",
    "column",
    "distinct",
    "each",
    "fields",
    "label",
    "maybe",
    "name",
    "named",
    "number",
    "numbers_only",
    "one_of",
    "text",
    "whole",
]

Shape = Callable[[Any, str], None]

LARGEST = 1e150
"""Magnitude of a number: its square is a number too, which means and variances rely on."""

LARGEST_WHOLE = 2**53
"""Magnitude of a whole number: up to here a float holds each of them."""


def anything(value: Any, where: str) -> None:
    """Take whatever it is, to be shown or written again: any JSON, whose numbers are finite."""
    if isinstance(value, float) and not -LARGEST <= value <= LARGEST:
        raise ValueError(f"{where} is no number")
    if isinstance(value, dict):
        for entry in value.values():
            anything(entry, where)
    elif isinstance(value, list):
        for entry in value:
            anything(entry, where)


def number(value: Any, where: str) -> None:
    """Take a number of a size that can be computed with."""
    if type(value) not in (int, float) or not -LARGEST <= value <= LARGEST:
        raise ValueError(f"{where} is no number")


def between(low: float, high: float) -> Shape:
    """Take a number from ``low`` to ``high``."""

    def shape(value: Any, where: str) -> None:
        number(value, where)
        if not low <= value <= high:
            raise ValueError(f"{where} is no number from {low:g} to {high:g}")

    return shape


def whole(low: int = 0, high: int = LARGEST_WHOLE) -> Shape:
    """Take a whole number from ``low`` to ``high``."""

    def shape(value: Any, where: str) -> None:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{where} is no whole number from {low} to {high}")

    return shape


def text(value: Any, where: str) -> None:
    """Take any text."""
    if not isinstance(value, str):
        raise ValueError(f"{where} is no text")


def name(value: Any, where: str) -> None:
    """Take what can name a task or an estimator, and its folder."""
    if not is_name(value):
        raise ValueError(f"{where} is no name")


def label(value: Any, where: str) -> None:
    """Take a line of text that names something which is no folder, such as a metric."""
    if not (isinstance(value, str) and value.strip() and value.isprintable()):
        raise ValueError(f"{where} is no name")
    if len(value) > MOST_LETTERS:
        raise ValueError(f"{where} is a name of more than {MOST_LETTERS} letters")


def one_of(*choices: Any) -> Shape:
    """Take one of a few texts."""

    def shape(value: Any, where: str) -> None:
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"{where} is none of {', '.join(choices)}")

    return shape


def maybe(inner: Shape) -> Shape:
    """Take null too."""

    def shape(value: Any, where: str) -> None:
        if value is not None:
            inner(value, where)

    return shape


def each(inner: Shape, most: int = 100_000) -> Shape:
    """Take a list of such values."""

    def shape(value: Any, where: str) -> None:
        if not isinstance(value, list) or len(value) > most:
            raise ValueError(f"{where} is no list of at most {most}")
        for index, entry in enumerate(value):
            inner(entry, f"{where}[{index}]")

    return shape


def distinct(inner: Shape, *names: str) -> Shape:
    """Take a list that holds no entry twice; with names, no two tables that have the same there."""

    def shape(value: Any, where: str) -> None:
        inner(value, where)
        seen = set()
        for index, entry in enumerate(value):
            what = [entry.get(name) for name in names] if names else entry
            told = json.dumps(what, sort_keys=True)
            if told in seen:
                raise ValueError(f"{where}[{index}] is there twice")
            seen.add(told)

    return shape


def named(inner: Shape, key: Shape = label, most: int = 10_000) -> Shape:
    """Take a table of such values, by any name."""

    def shape(value: Any, where: str) -> None:
        if not isinstance(value, dict) or len(value) > most:
            raise ValueError(f"{where} is no table of at most {most}")
        for entry, held in value.items():
            key(entry, f"a key of {where}")
            inner(held, f"{where}.{entry}")

    return shape


def fields(needed: Mapping[str, Shape], optional: Mapping[str, Shape] | None = None) -> Shape:
    """Take a table that has the needed keys, and may have the optional and any others."""
    known = {**needed, **(optional or {})}

    def shape(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise ValueError(f"{where or 'it'} is no table")
        inside = f"{where}." if where else ""
        for key in needed:
            if key not in value:
                raise ValueError(f"{inside}{key} is missing")
        for key, entry in value.items():
            if key in known:
                known[key](entry, inside + key)
            else:
                anything(entry, inside + shown(key))

    return shape


_INT, _FLOAT, _NONE = int, float, type(None)


def numbers_only(value: Any, where: str) -> None:
    """Take a list of numbers; fast, for lists are long."""
    if isinstance(value, list) and None in value:
        raise ValueError(f"{where} holds null")
    column(value, where)


def column(value: Any, where: str) -> None:
    """Take a list of numbers, or null where one was not finite."""
    kinds = set(map(type, value)) if isinstance(value, list) else {str}
    if not kinds <= {_INT, _FLOAT, _NONE}:
        raise ValueError(f"{where} is no list of numbers")
    known = [entry for entry in value if entry is not None] if _NONE in kinds else value
    if known and not (min(known) >= -LARGEST and max(known) <= LARGEST):
        raise ValueError(f"{where} holds a number that is too large")

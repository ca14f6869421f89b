"""Checks of what users write: types, ranges and names, each error one line with its remedy."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, Literal

from estbench.core.errors import UserError, unknown_name

__all__ = [
    "AtLeast",
    "MoreThan",
    "allowed",
    "checked",
    "is_name",
    "known",
    "names",
    "parse_seeds",
    "shown",
    "table",
]

MAX_JOBS = 1_000
MAX_SEEDS = 10_000
MAX_SEED = 2**31 - 1
MOST_WHOLE = 2**31 - 1
MOST_NUMBER = 1e9
SHOWN = 60  # letters of a value in an error
MOST_LETTERS = 200  # of a name
MOST_LISTED = 20  # numbers in a setting that is a list of them


@dataclass(frozen=True)
class AtLeast:
    """The lowest value that a setting may have, and the highest where that is no ordinary one."""

    low: int
    high: int = MOST_WHOLE


@dataclass(frozen=True)
class MoreThan:
    """A bound that a setting must exceed."""

    bound: float


def parse_seeds(given: Any, name: str) -> tuple[int, ...]:
    """Return seeds, sorted: ``10`` and ``"10"`` mean 0..9, ``"0-4,7"`` and lists mean themselves.

    Args:
      given: An integer, text, or a list of integers.
      name: What to call it in an error ("--seeds").

    Raises:
      UserError: Malformed, none, or too many.
    """
    remedy = "a count such as 10 (seeds 0 to 9), or seeds such as 0-4,7"
    if isinstance(given, str):
        if re.fullmatch(r"\s*\d{1,9}\s*", given):
            given = int(given)
        else:
            given = _listed(given, name, remedy)
    if isinstance(given, int) and not isinstance(given, bool):
        if not 1 <= given <= MAX_SEEDS:
            raise UserError(
                f"{name} = {shown(given)}: must be from 1 to {MAX_SEEDS}; give {remedy}"
            )
        return tuple(range(given))
    if not isinstance(given, (list, tuple)) or not all(type(seed) is int for seed in given):
        raise UserError(f"{name} = {shown(given)}: give {remedy}")
    if not given or len(given) > MAX_SEEDS or min(given) < 0 or max(given) > MAX_SEED:
        raise UserError(f"{name}: 1 to {MAX_SEEDS} seeds from 0 to {MAX_SEED}; give {remedy}")
    return tuple(sorted(set(given)))


def _listed(given: str, name: str, remedy: str) -> list[int]:
    seeds: list[int] = []
    for part in given.split(","):
        seeds += _range(part, given, name, remedy)
        if len(seeds) > 10 * MAX_SEEDS:  # the same ones over and over are a list that never ends
            raise UserError(f"{name} {shown(given)} lists too many seeds: give {remedy}")
    return seeds


def _range(part: str, whole: str, name: str, remedy: str) -> range:
    match = re.fullmatch(r"\s*(\d{1,10})\s*(?:-\s*(\d{1,10})\s*)?", part)
    first = int(match[1]) if match else 0
    last = int(match[2] or match[1]) if match else 0
    if not match or not 0 <= last - first < MAX_SEEDS:
        raise UserError(f"{name} {shown(whole)} is not a list of seeds: give {remedy}")
    return range(first, last + 1)


@cache
def _types(settings: type) -> dict[str, Any]:
    return typing.get_type_hints(settings, include_extras=True)


def checked(settings: type, key: str, value: Any, section: str) -> Any:
    """Return a value in its field's type: a whole number becomes a float where one is meant.

    Args:
      settings: The dataclass; its fields are ``str``, ``Literal``, numbers, ``Annotated`` numbers
        with a bound, or tuples of the last.
      key: The field.
      value: What was given.
      section: The table of the TOML file that it stands in, for the error.

    Raises:
      UserError: Wrong type or out of range; names section, key, value and what it may be.
    """
    where = f"[{section}] {key} = {shown(value)}"
    known({key: value}, [entry.name for entry in fields(settings)], section)
    declared = _types(settings)[key]
    if typing.get_origin(declared) is Literal:
        if value not in typing.get_args(declared):
            choices = ", ".join(f'"{choice}"' for choice in typing.get_args(declared))
            raise UserError(f"{where}: must be one of {choices}")
        return value
    if declared is str:
        if not isinstance(value, str):
            raise UserError(f"{where}: must be text")
        return value
    if typing.get_origin(declared) is tuple:
        if not isinstance(value, (list, tuple)) or not 0 < len(value) <= MOST_LISTED:
            raise UserError(f"{where}: must be a list of 1 to {MOST_LISTED} numbers")
        return tuple(_bounded(typing.get_args(declared)[0], each, where) for each in value)
    return _bounded(declared, value, where)


def _bounded(declared: Any, value: Any, where: str) -> Any:
    """Return a number in its declared type, if it is within its bound."""
    if declared in (int, float):  # without a bound of its own
        declared = Annotated[declared, AtLeast(-MOST_WHOLE)]
    kind, bound = typing.get_args(declared)
    high = getattr(bound, "high", MOST_WHOLE)
    if kind is float and high == MOST_WHOLE:
        high = MOST_NUMBER
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    enough = number and (value > bound.bound if isinstance(bound, MoreThan) else value >= bound.low)
    if not enough or value > high or (kind is int and not isinstance(value, int)):
        most = f"{high}" if kind is int else f"{high:g}"
        most = f", at most {most}" if number and value > high else ""
        raise UserError(f"{where}: must be a {allowed(declared)}{most}")
    return kind(value)


def allowed(declared: Any) -> str:
    """Return what a number with a bound may be: "whole number, at least 2"."""
    kind, bound = typing.get_args(declared)
    said = "whole number" if kind is int else "number"
    if isinstance(bound, MoreThan):
        return f"{said} greater than {bound.bound:g}"
    return f"{said}, at least {bound.low}"


def shown(value: Any) -> str:
    """Return a value as an error names it, in a few letters whatever its size."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, or deep lists
        return f"a {type(value).__name__} too large to print"
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def known(given: Mapping[str, Any], existing: Iterable[str], section: str) -> None:
    """Raise for the first key that does not exist, with its section and the nearest key."""
    existing = list(existing)
    for key in given:
        if key not in existing:
            raise unknown_name(
                "setting",
                key,
                existing,
                "(see: estbench list presets --json)",
                prefix=f"{section}." if section else "",
            )


def table(key: str, value: Any) -> Mapping[str, Any]:
    """Return a value that has to be a table."""
    if not isinstance(value, Mapping):
        raise UserError(f"{key} = {shown(value)}: must be a table, [{key}]")
    return value


def is_name(value: Any) -> bool:
    """Whether a value can name a thing and its folder: a line that prints, without "/"."""
    return (
        isinstance(value, str)
        and 0 < len(value.strip()) <= len(value) <= MOST_LETTERS
        and value.isprintable()
        and "/" not in value
        and value not in (".", "..")
    )


def names(key: str, value: Any) -> tuple[str, ...]:
    """Return a list of names without repetitions, in its order."""
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        raise UserError(
            f'{key} = {shown(value)}: must be a list of names, such as ["rloo", "relax"]'
        )
    for name in value:
        if not is_name(name):
            raise UserError(
                f"{key}: unknown {shown(name)}: it can name no folder, as names of {key} do"
            )
    return tuple(dict.fromkeys(value))

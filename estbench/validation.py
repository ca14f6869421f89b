"""Checks of what users write: types, ranges and names, each error one line with its remedy."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Literal

from estbench.errors import UserError, unknown_name

__all__ = ["AtLeast", "MoreThan", "checked", "known", "names", "parse_seeds", "table"]

MAX_SEEDS = 10_000
MAX_SEED = 2**31 - 1


@dataclass(frozen=True)
class AtLeast:
    """The lowest value that a setting may have."""

    low: int


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
            given = [s for part in given.split(",") for s in _range(part, given, name, remedy)]
    if isinstance(given, int) and not isinstance(given, bool):
        if not 1 <= given <= MAX_SEEDS:
            raise UserError(f"{name} = {given}: must be from 1 to {MAX_SEEDS}; give {remedy}")
        return tuple(range(given))
    if not isinstance(given, (list, tuple)) or not all(type(seed) is int for seed in given):
        raise UserError(f"{name} = {given!r}: give {remedy}")
    if not given or len(given) > MAX_SEEDS or min(given) < 0 or max(given) > MAX_SEED:
        raise UserError(f"{name}: 1 to {MAX_SEEDS} seeds from 0 to {MAX_SEED}; give {remedy}")
    return tuple(sorted(set(given)))


def _range(part: str, whole: str, name: str, remedy: str) -> range:
    match = re.fullmatch(r"\s*(\d{1,10})\s*(?:-\s*(\d{1,10})\s*)?", part)
    first = int(match[1]) if match else 0
    last = int(match[2] or match[1]) if match else 0
    if not match or not 0 <= last - first < MAX_SEEDS:
        raise UserError(f"{name} {whole!r} is not a list of seeds: give {remedy}")
    return range(first, last + 1)


@cache
def _types(settings: type) -> dict[str, Any]:
    return typing.get_type_hints(settings, include_extras=True)


def checked(settings: type, key: str, value: Any, section: str) -> Any:
    """Return a value in its field's type: a whole number becomes a float where one is meant.

    Args:
      settings: The dataclass; its fields are ``str``, ``Literal`` or ``Annotated`` with a bound.
      key: The field.
      value: What was given.
      section: The table of the TOML file that it stands in, for the error.

    Raises:
      UserError: Wrong type or out of range; names section, key, value and what it may be.
    """
    where = f"[{section}] {key} = {value!r}"
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
    kind, bound = typing.get_args(declared)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(bound, AtLeast) and kind is float:
        if not number or not bound.low <= value < float("inf"):
            raise UserError(f"{where}: must be a number, at least {bound.low}")
    elif isinstance(bound, AtLeast):
        if not number or not isinstance(value, int) or value < bound.low:
            raise UserError(f"{where}: must be a whole number, at least {bound.low}")
    elif not number or not bound.bound < value < float("inf"):
        raise UserError(f"{where}: must be a number greater than {bound.bound:g}")
    return kind(value)


def known(given: Mapping[str, Any], existing: Iterable[str], section: str) -> None:
    """Raise for the first key that does not exist, with its section and the nearest key."""
    existing = list(existing)
    for key in given:
        if key not in existing:
            raise unknown_name(
                "setting",
                f"{section}.{key}".lstrip("."),
                [f"{section}.{name}".lstrip(".") for name in existing],
            )


def table(key: str, value: Any) -> Mapping[str, Any]:
    """Return a value that has to be a table."""
    if not isinstance(value, Mapping):
        raise UserError(f"{key} = {value!r}: must be a table, [{key}]")
    return value


def names(key: str, value: Any) -> tuple[str, ...]:
    """Return a list of names without repetitions, in its order."""
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        raise UserError(f'{key} = {value!r}: must be a list of names, such as ["rloo", "relax"]')
    return tuple(dict.fromkeys(value))

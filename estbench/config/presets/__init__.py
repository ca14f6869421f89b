"""Presets, and experiments read from TOML files."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from estbench.config.experiment import Experiment, check_keys
from estbench.config.validation import shown
from estbench.core.errors import UserError, unknown_name
from estbench.core.reading import read_bytes

__all__ = ["DEFAULT", "names", "preset", "read"]

MOST_BYTES = 1 << 20  # of an experiment in TOML

DEFAULT = "bench"
"""The preset of a bare ``estbench run``."""


def names() -> list[str]:
    """Return the names of all presets, the quickest first."""
    folder = resources.files(__name__)
    found = (path.name for path in folder.iterdir() if path.name.endswith(".toml"))
    order = {name: rank for rank, name in enumerate(("smoke", "bench", "paper"))}
    return sorted(
        (name.removesuffix(".toml") for name in found), key=lambda n: (order.get(n, 99), n)
    )


def preset(name: str, changes: Mapping[str, Any] | None = None) -> Experiment:
    """Return a preset, with changes laid over it.

    Raises:
      UserError: There is no such preset, or a change is wrong.
    """
    return Experiment.from_dict(_overlay(_document(name), changes or {}))


def read(path: Path, changes: Mapping[str, Any] | None = None) -> Experiment:
    """Return the experiment of a TOML file, with changes laid over it.

    The file may name a preset to start from. The experiment has the file's name unless it says
    another.

    Raises:
      UserError: The file cannot be read, is not TOML, or holds a wrong key or value.
    """
    try:
        document = tomllib.loads(read_bytes(path, MOST_BYTES).decode("utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"no such file: {path}; give a TOML file, or one of the presets: "
            + ", ".join(f"--preset {name}" for name in names())
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give a TOML file") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply: give a TOML file of settings") from None
    except ValueError as error:  # not UTF-8, or not TOML; says line and column
        text = " ".join(str(error).split())
        raise UserError(f"{path} is not a TOML file: {text}") from None
    try:
        base = document.pop("preset", None)
        if base is not None and not isinstance(base, str):
            raise UserError(
                f"preset = {shown(base)}: must be the name of one: {', '.join(names())}"
            )
        check_keys(document)
        start = {} if base is None else _document(base)
        named = {"name": path.stem} | document
        return Experiment.from_dict(_overlay(_overlay(start, named), changes or {}))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _document(name: str) -> dict[str, Any]:
    if name not in names():
        raise unknown_name("preset", name, names(), "(see: estbench list presets)")
    text = (resources.files(__name__) / f"{name}.toml").read_text(encoding="utf-8")
    return {"name": name} | tomllib.loads(text)


def _overlay(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``changes``; tables are merged key by key, all else is replaced."""
    merged = dict(base)
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _overlay(merged[key], value)
        else:
            merged[key] = value
    return merged

"""What a report was made from: the command, the settings' key, and hashes of records and tables."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from estbench.store.results import RECORDS

__all__ = ["Digest", "command_text", "digests", "flat", "flat_texts", "settings_key"]

# What a result set may have more or less of under the same settings.
GROWS = ("name", "description", "tasks", "estimators", "also_measured", "seeds")


@dataclass(frozen=True)
class Digest:
    """A hash of one file, or of all records of a kind.

    Attributes:
      what: The path in the result set; a folder ends in a slash.
      files: How many files there are.
      sha256: Hexadecimal. Of a folder: of the lines "HASH  PATH" of its files, sorted by path, as
        ``sha256sum`` prints them.
    """

    what: str
    files: int
    sha256: str


def digests(directory: Path, tables: Iterable[Path]) -> list[Digest]:
    """Return the hashes of the records that are there, by kind, then of each table."""
    found = []
    for kind in RECORDS:
        paths = {
            path.relative_to(directory).as_posix(): path
            for path in (directory / kind).rglob("*.json")
        }
        if paths:
            lines = [f"{_sha256(path)}  {name}\n" for name, path in sorted(paths.items())]
            whole = hashlib.sha256("".join(lines).encode()).hexdigest()
            found.append(Digest(f"{kind}/", len(paths), whole))
    found += [Digest(f"tables/{path.name}", 1, _sha256(path)) for path in tables]
    return found


def settings_key(experiment: Mapping[str, Any]) -> str:
    """Return a hash of the settings: result sets that share it may be merged or compared."""
    settings = {name: value for name, value in experiment.items() if name not in GROWS}
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()


def command_text(manifest: Mapping[str, Any]) -> str:
    """Return the command as it was typed, whichever way the manifest keeps it."""
    command = manifest.get("command") or ""
    if isinstance(command, list):
        return shlex.join(str(part) for part in command)
    return str(command)


def flat(value: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Return nested tables as one, by dotted name."""
    found: dict[str, Any] = {}
    for name, inner in value.items():
        dotted = f"{path}{name}"
        if isinstance(inner, Mapping):
            found |= flat(inner, f"{dotted}.")
        else:
            found[dotted] = list(inner) if isinstance(inner, tuple) else inner
    return found


def flat_texts(value: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return nested settings as (dotted name, text)."""
    return [(name, _text(inner)) for name, inner in flat(value).items()]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:  # a table may have half a gigabyte
        return hashlib.file_digest(file, "sha256").hexdigest()

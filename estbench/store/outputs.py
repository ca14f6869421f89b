"""Folders that a verb writes a few files to, which may hold a person's own files as well."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from estbench.core.errors import UserError
from estbench.core.reading import read_document
from estbench.store.atomic import temporary_path

__all__ = ["check_output", "probe"]


def check_output(folder: Path, names: Sequence[str], keys: Collection[str]) -> None:
    """Check that a verb may write its files to a folder, and make the folder.

    Files of these names that are there already have to be the verb's own: no other is replaced.

    Args:
      folder: The folder.
      names: The files; the first is JSON, and shows whether estbench wrote them.
      keys: What that JSON file holds, or each entry of it if it is a list.

    Raises:
      UserError: It cannot be written, or a file of that name is somebody else's.
    """
    there = [folder / name for name in names if os.path.lexists(folder / name)]
    if there and not _ours(folder / names[0], keys):
        raise UserError(f"{there[0]} was not written by estbench: give --out another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe(folder)
    except OSError as error:
        reason = "it is a file" if folder.is_file() else error.strerror
        raise UserError(
            f"cannot write to {folder} ({reason}): give --out a folder you may write to"
        ) from None


def probe(folder: Path) -> None:
    """Write a file to a folder and remove it.

    Raises:
      OSError: The folder cannot be written to.
    """
    path = temporary_path(folder / "writable")
    path.touch(exist_ok=False)
    path.unlink()


def _ours(path: Path, keys: Collection[str]) -> bool:
    try:
        document: Any = read_document(path)
    except (OSError, ValueError):
        return False
    tables = document if isinstance(document, list) else [document]
    return bool(tables) and all(isinstance(t, dict) and set(keys) <= t.keys() for t in tables)

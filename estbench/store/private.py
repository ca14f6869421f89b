"""Folders and files of the user alone, under ``$XDG_CACHE_HOME`` or ``~/.cache``.

Files there are trusted, so files of other users, or files that others may write to, are not used.
New files are readable by the user alone.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

from estbench.core.reading import read_document
from estbench.store.atomic import StorageError, encode, write_bytes

__all__ = ["cache", "check_private", "distrusted", "private_folder", "read_own", "write_own"]

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def cache() -> Path:
    """Return estbench's folder in the user's cache; nothing is made.

    Raises:
      OSError: The user has no home.
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:
        # A relative path would depend on the working directory, and could be inside a result set.
        base = Path(given) if os.path.isabs(given) else Path.home() / ".cache"
    except RuntimeError as error:
        raise OSError(errno.ENOENT, f"no home: {error}") from None
    return base / "estbench"


def check_private(path: Path) -> None:
    """Check that a place in the cache, and each folder above it, is the user's alone.

    Raises:
      OSError: It is not there, belongs to somebody else, or others may write to it.
    """
    for place in _levels(path):
        status = place.stat()
        if {status.st_uid, place.lstat().st_uid} != {os.geteuid()}:
            raise OSError(errno.EPERM, "it belongs to somebody else", str(place))
        if status.st_mode & OTHERS_WRITE:
            raise OSError(errno.EPERM, "others may write to it", str(place))


def private_folder(path: Path) -> Path:
    """Make a folder in the cache (0700), and those above it; return it.

    Raises:
      StorageError: The disk refused it, or it is not the user's alone.
    """
    try:
        cache().parent.mkdir(parents=True, exist_ok=True)
        for place in _levels(path):
            place.mkdir(mode=0o700, exist_ok=True)
        check_private(path)
    except OSError as error:
        raise StorageError(f"cannot use {error.filename or path}: {error.strerror}") from None
    return path


def read_own(path: Path) -> Any:
    """Return the JSON document in a file of the cache.

    Raises:
      OSError: As ``check_private``, or it cannot be read.
      ValueError: It is not JSON.
    """
    check_private(path)
    return read_document(path)


def write_own(path: Path, document: Any) -> None:
    """Write a JSON file of the cache whole, for the user alone (0600).

    Raises:
      StorageError: The disk refused it, or its folder is not the user's alone.
    """
    write_bytes(private_folder(path.parent) / path.name, encode(document), mode=0o600)


def distrusted() -> str:
    """Return why the cache is not used, in a line with the remedy; "" where it can be."""
    try:
        root = cache()
        for place in (root, *sorted(root.glob("*/"))):
            check_private(place)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return (
            f"the cache is not used: {error.filename or 'its folder'}: {error.strerror}; run chmod "
            "-R go-w on it if it is yours, or set XDG_CACHE_HOME to a folder of your own"
        )
    return ""


def _levels(path: Path) -> list[Path]:
    """Return the folders from the cache's own down to ``path``."""
    root = cache()
    below = path.relative_to(root).parts
    return [root.joinpath(*below[:depth]) for depth in range(len(below) + 1)]

"""Writing whole files or none: a temporary file in the same folder, flushed, then renamed."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from estbench.core.errors import MACHINE

__all__ = [
    "StorageError",
    "encode",
    "is_temporary",
    "remove_leftovers",
    "replacing",
    "storing",
    "temporary_path",
    "write_bytes",
    "write_json",
]

TEMPORARY = ".estbench.tmp"
_NAME = re.compile(rf"\.(?P<of>.+)\.[0-9a-f]{{12}}{re.escape(TEMPORARY)}", re.DOTALL)


class StorageError(Exception):
    """The disk refused a file (full, read-only, gone): one line; nothing half-written stays.

    Unlike a failed run it ends the whole command, for the next file would fare no better.
    """


def encode(document: Any) -> bytes:
    """Return JSON, compact and in the order given; refuses numbers that are not finite."""
    return json.dumps(document, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def write_json(path: Path, document: Any) -> None:
    """Write a JSON file whole.

    Raises:
      StorageError: The disk refused it.
    """
    write_bytes(path, encode(document))


def write_bytes(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a file whole; its folder is made where missing.

    Args:
      path: The file.
      data: What it is to hold.
      mode: Who may read and write it, less what the umask takes away.

    Raises:
      StorageError: The disk refused it.
    """
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            made = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            with open(made, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from None


@contextmanager
def storing(folder: Path) -> Iterator[None]:
    """Turn what the machine says, when files are written to ``folder`` inside, into one error.

    For files that others write, such as pandas and matplotlib.

    Raises:
      StorageError: The disk refused a file, or the folder has gone.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (*MACHINE, errno.ENOENT):
            where = error.filename or folder
            raise StorageError(f"cannot write {where}: {error.strerror}") from None
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; the file there replaces ``path`` at the end.

    For files that others write and that can be made again: nothing is flushed to the disk.
    """
    temporary = temporary_path(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def temporary_path(path: Path) -> Path:
    """Return a path beside ``path`` that nobody else has, under a name of estbench's own."""
    # The random part keeps writers apart, of several machines too; the dot keeps readers away.
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}{TEMPORARY}")


def is_temporary(name: str) -> bool:
    """Return whether a file of this name is one of ``temporary_path``."""
    return _NAME.fullmatch(name) is not None


def remove_leftovers(folder: Path, of: str | None = None) -> None:
    """Remove temporary files of writers that were killed; only for folders of estbench's own.

    Args:
      folder: The folder, and all below it.
      of: Name of the file that was being written; any if None.
    """
    for path in folder.rglob(f".*{TEMPORARY}"):
        match = _NAME.fullmatch(path.name)
        if match and of in (None, match["of"]):
            path.unlink(missing_ok=True)

"""Writing whole files or none: a temporary file in the same folder, flushed, then renamed."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = [
    "StorageError",
    "encode",
    "remove_leftovers",
    "replacing",
    "write_bytes",
    "write_json",
]


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


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole; its folder is made where missing.

    Raises:
      StorageError: The disk refused it.
    """
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
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
def replacing(path: Path) -> Iterator[Path]:
    """Give a path beside ``path``; what is written there takes its place whole, at the end.

    For files that others write and that can be made again: nothing is flushed to the disk.
    """
    temporary = _temporary(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _temporary(path: Path) -> Path:
    # The random part keeps writers apart, of several machines too; the dot keeps readers away.
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of writers that were killed."""
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)

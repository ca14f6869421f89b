"""Reading files that may come from elsewhere: regular files of a bounded size, and strict JSON.

A file may be a pipe that never ends, a device, or far too large. JSON may be nested until the stack
overflows, or hold NaN. In every such case an ``OSError`` or a ``ValueError`` gives the reason in
one line.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["MOST_BYTES", "MOST_NESTED", "document", "read_bytes", "read_document"]

MOST_BYTES = 1 << 27
"""Of a JSON file: a training run of a million batches has about as many."""

MOST_NESTED = 64
"""Levels of a JSON document; a record has six."""


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """Return what a regular file holds.

    Args:
      path: The file; a symbolic link is followed.
      most: Bytes that it may have.

    Raises:
      OSError: It does not exist, is not a regular file, or is too large.
    """
    try:
        # Without O_NONBLOCK a pipe that nobody writes to is waited for.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # a NUL in the name
        raise OSError(errno.EINVAL, str(error)) from None
    with open(handle, "rb") as file:
        status = os.fstat(handle)
        if stat.S_ISDIR(status.st_mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        # No more is asked for than there is: room for all that is asked for is made at once.
        content = file.read(status.st_size + 1) if status.st_size <= most else b""
        if len(content) > most or status.st_size > most:
            raise OSError(errno.EFBIG, f"more than {most / 1e6:,.0f} MB")
    return content


def document(content: bytes) -> Any:
    """Return a JSON document; half of a surrogate pair, which no file can hold, becomes "?".

    Raises:
      ValueError: It is not JSON, is nested too deeply, or holds NaN, Infinity or a number of
        thousands of digits.
    """
    try:
        parsed = json.loads(content, parse_constant=_not_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except json.JSONDecodeError:
        raise
    except ValueError as error:
        # Python's own words for a long number advise to raise a limit.
        reason = "it holds a number of thousands of digits" if "digits" in str(error) else error
        raise ValueError(reason) from None
    if _depth_exceeds(parsed, MOST_NESTED):
        raise ValueError("nested too deeply")
    if b"\\ud" in content.lower():
        text = json.dumps(parsed, ensure_ascii=False)
        parsed = json.loads(text.encode("utf-8", "replace"))
    return parsed


def read_document(path: Path) -> Any:
    """Return the JSON document in a file.

    Raises:
      OSError: As ``read_bytes``.
      ValueError: As ``document``.
    """
    return document(read_bytes(path))


def _not_finite(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _depth_exceeds(value: Any, most: int) -> bool:
    """Return whether lists and tables are nested more than ``most`` levels deep."""
    level = [value]
    for _ in range(most + 1):
        # Level by level: recursion would overflow on a deep document.
        level = [
            entry
            for outer in level
            if isinstance(outer, (dict, list))
            for entry in (outer.values() if isinstance(outer, dict) else outer)
            if type(entry) is dict or type(entry) is list
        ]
        if not level:
            return False
    return True

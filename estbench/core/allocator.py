"""What becomes of memory that a tensor has left.

By its own default glibc gives a large block back to the system at once, and asks for it again,
filled with zeros, for the next tensor of that size. Workers allocate the same sizes over and over:
where two of them do so at the same time, a third of their seconds goes into this. A worker that
keeps its memory needs no more than before at its peak, but holds it until it ends.
"""

from __future__ import annotations

import sys
from contextlib import suppress

__all__ = ["keep_freed", "return_freed"]

# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
TRIM_THRESHOLD, MMAP_MAX = 128 * 1024, 65_536  # its defaults


def keep_freed() -> None:
    """Let this process keep memory that was freed, for its next tensors. Needs glibc."""
    _call("mallopt", (M_TRIM_THRESHOLD, 2**31 - 1), (M_MMAP_MAX, 0))


def return_freed() -> None:
    """Let this process return memory that was freed, as glibc does by default."""
    _call("mallopt", (M_TRIM_THRESHOLD, TRIM_THRESHOLD), (M_MMAP_MAX, MMAP_MAX))
    _call("malloc_trim", (0,))


def _call(function: str, *every: tuple[int, ...]) -> None:
    if not sys.platform.startswith("linux"):
        return
    import ctypes  # 60 ms, and only workers need it

    with suppress(AttributeError):  # another C library
        for arguments in every:
            getattr(ctypes.CDLL(None), function)(*arguments)

"""The one error class of the package: what a user did wrong, in a line, with the remedy."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable

__all__ = ["MACHINE", "UserError", "nearest", "printable", "unknown_name"]

LONGEST = 100  # letters of a name that an error repeats
NEAR = 0.66  # similarity from which a name may have been meant; 1 is equal
FEW = 12  # names that an error lists

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
MACHINE = (*DISK, errno.EIO, errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE)
"""What an OSError says where the machine has no more of something, or fails."""

_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ud800-\udfff"
    "\ufeff\ufff9-\ufffb\U000e0001\U000e0020-\U000e007f]"
)


class UserError(Exception):
    """Bad input. Its text is one line that names the mistake and what to type instead.

    The command line prints it without a traceback and exits with code 2.
    """


def printable(text: str) -> str:
    """Return text as a terminal may show it: what could steer one is written out, as ``\\x1b``.

    That is control characters but tabs and line breaks (escape sequences begin with one), marks
    that turn the direction of writing, which make a line read as another, characters that are never
    seen, and half surrogates, which no stream can encode.
    """
    return _STEERING.sub(lambda found: ascii(found[0])[1:-1], text)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the name that somebody who typed ``name`` may have meant; None where none is near.

    The dashes before an option are no likeness.
    """
    bare = {each.lstrip("-"): each for each in sorted(known)}
    close = difflib.get_close_matches(name.lstrip("-"), bare, n=1, cutoff=NEAR)
    return bare[close[0]] if close else None


def unknown_name(
    kind: str, name: str, known: Iterable[str], hint: str = "", prefix: str = ""
) -> UserError:
    """Return the error for a name that does not exist: it suggests the nearest one that does.

    Where none is near it lists them all, or, where they are many, says where to find them.

    Args:
      kind: What the name was meant to be ("estimator", "task", "preset", "setting").
      name: What was typed.
      known: The names that exist.
      hint: What to run to see them all, in parentheses.
      prefix: What stands before all of these names, such as a section; it is shown, not compared.
    """
    names = sorted(known)
    name = name if len(name) <= LONGEST else f"{name[: LONGEST - 3]}..."
    close = nearest(name, names)
    remedy = ""
    if close:
        remedy = f": did you mean {prefix + close!r}?"
    elif len(names) <= FEW or not hint:
        remedy = ": one of: " + ", ".join(names)
    return UserError(f"unknown {kind} {prefix + name!r}{remedy} {hint}".rstrip())

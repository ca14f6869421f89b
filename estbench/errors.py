"""The one error class of the package: what a user did wrong, in a line, with the remedy."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

__all__ = ["UserError", "printable", "unknown_name"]

LONGEST = 100  # letters of a name that an error repeats

_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


class UserError(Exception):
    """Bad input. Its text is one line that names the mistake and what to type instead.

    The command line prints it without a traceback and exits with code 2.
    """


def printable(text: str) -> str:
    """Return text as a terminal may show it: what could steer one becomes U+FFFD.

    That is control characters (escape sequences begin with one), half surrogates, which no stream
    can encode, and the marks that turn the direction of writing, which make a line read as another.
    """
    return _STEERING.sub("\N{REPLACEMENT CHARACTER}", text)


def unknown_name(kind: str, name: str, known: Iterable[str], hint: str = "") -> UserError:
    """Return the error for a name that does not exist, with the nearest one that does.

    Args:
      kind: What the name was meant to be ("estimator", "task", "preset", "setting").
      name: What was typed.
      known: The names that exist.
      hint: What to run to see them all; appended as it is.
    """
    names = sorted(known)
    name = name if len(name) <= LONGEST else f"{name[: LONGEST - 3]}..."
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    remedy = f"did you mean {close[0]!r}?" if close else "one of: " + ", ".join(names)
    return UserError(f"unknown {kind} {name!r}: {remedy}{' ' + hint if hint else ''}")

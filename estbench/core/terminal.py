"""All that estbench prints. Nothing of a stranger's steers the terminal that it is printed on.

A result set, a plugin or a folder's name may hold escape sequences, which clear a screen or write
into a clipboard, and marks that turn the direction of writing. Everything that a verb prints goes
through here, where such characters become text: an escape becomes ``\\x1b``.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

from estbench.core.errors import printable

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["console", "encode_anything", "plain", "say", "show", "show_json"]

UNBOUND = 100_000  # characters in a line
PLAINER = {
    "×": "x",
    "…": "...",
    "−": "-",
    "±": "+-",
    "≤": "<=",
    "≥": ">=",
    "†": "+",
    "‡": "++",
    "·": ".",
    "–": "-",
    "—": "-",
    "“": '"',
    "”": '"',
    "’": "'",
    "█": "#",
    "•": "*",
}
"""What stands for a character that a terminal's encoding lacks; "?" would be a mark of its own."""


def encode_anything() -> None:
    """Let stdout and stderr take every text, whatever their encoding: cp1252, ASCII."""
    codecs.register_error("plainer", _plainer)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="plainer")


def _plainer(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    escaped = (c.encode("ascii", "backslashreplace").decode() for c in lacking)
    plainer = (PLAINER.get(c, e) for c, e in zip(lacking, escaped, strict=True))
    return "".join(plainer), error.end


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a line for people, on stderr unless another stream is given."""
    _write(_line(text), sys.stderr if stream is None else stream)


def show(text: str) -> None:
    """Print a line of what a verb was asked for, on stdout."""
    _write(_line(text), sys.stdout)


def show_json(document: Any) -> None:
    """Print a JSON document on stdout.

    Raises:
      ValueError: It holds a number that is not finite.
    """
    text = json.dumps(document, indent=2, allow_nan=False)
    _write(text.replace("\x7f", "\\u007f"), sys.stdout)  # JSON escapes all others itself


def console(stream: TextIO | None = None) -> Console:
    """Return where tables and bars are printed: stdout unless another stream is given."""
    from estbench.core.console import SafeConsole

    if stream is not None:
        return SafeConsole(file=stream)
    # A file or a pipe has no width of its own: unless COLUMNS says one, nothing is folded or cut.
    unbound = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return SafeConsole(width=UNBOUND if unbound else None)


def plain(text: str) -> str:
    """Return a text for a console: one line, in which nothing is markup."""
    from rich.markup import escape

    return escape(printable(_line(text)))


def _line(text: str) -> str:
    """Return text as one line: a break in it, as a file's name may have, is shown as ``\\n``."""
    return text.replace("\n", "\\n")


def _write(text: str, stream: TextIO) -> None:
    print(printable(text), file=stream, flush=True)

"""Says at once that the meter differentiates draw by draw, where, why, and what avoids it.

The meter tells whoever listens: ``estbench.measure`` and ``estbench.check`` from Python turn it
into a warning, the command line into a line on its display.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path

import estbench

__all__ = [
    "EstbenchWarning",
    "Slow",
    "announce",
    "duration",
    "listening",
    "relayed",
    "sending",
    "warn",
]

PACKAGE = str(Path(estbench.__file__).parent)


def duration(seconds: float) -> str:
    """Return a rough duration, as one would say it: "45 s", "3 min", "1 h 20 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


class EstbenchWarning(UserWarning):
    """Something works, but not as well as it could; the text says what to change."""


@dataclass(frozen=True)
class Slow:
    """Why draws are differentiated one by one.

    Attributes:
      where: The layer's name and type, such as "positions (Embedding)".
      reason: What the meter's fast way cannot take there.
      remedy: The change that avoids it.
      seconds: How long one draw takes.
    """

    where: str
    reason: str
    remedy: str
    seconds: float

    def per_thousand(self) -> str:
        """Return the time that a thousand draws take, as text."""
        return f"about {duration(1000 * self.seconds)} for 1000 draws"

    def line(self, time: str) -> str:
        """Return the notice as a line; ``time`` says how long it will take."""
        return (
            f"slow: {self.where}: {self.reason}, so each draw is differentiated by itself, {time}. "
            f"Faster: {self.remedy}"
        )


@dataclass
class _Listener:
    tell: Callable[[Slow], None]
    told: set[tuple[str, str]]


_LISTENER: ContextVar[_Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(tell: Callable[[Slow], None]) -> Iterator[None]:
    """Tell of every slow loop inside the block, once for each layer and reason."""
    token = _LISTENER.set(_Listener(tell, set()))
    try:
        yield
    finally:
        _LISTENER.reset(token)


def announce(where: str, reason: str, remedy: str, seconds: Callable[[], float]) -> None:
    """Tell the listener, if there is one and it does not know; ``seconds`` times one draw."""
    listener = _LISTENER.get()
    if listener is None or (where, reason) in listener.told:
        return
    listener.told.add((where, reason))
    listener.tell(Slow(where, reason, remedy, seconds()))


@contextmanager
def relayed(tell: Callable[[str, Slow], None]) -> Iterator[str]:
    """Tell of what worker processes send inside the block, at once; each notice of a source once.

    Yields:
      The address for ``sending``: a file that workers append to and a thread here reads.
    """
    with tempfile.TemporaryDirectory(prefix="estbench-") as folder:
        path = Path(folder) / "notices"
        path.touch()
        ended = threading.Event()

        def read() -> None:
            told = set()
            with path.open(encoding="utf-8") as lines:
                last = False
                while not last:
                    last = ended.wait(0.2)
                    for line in lines:
                        source, fields = json.loads(line)
                        slow = Slow(**fields)
                        if (source, slow.where, slow.reason) not in told:
                            told.add((source, slow.where, slow.reason))
                            tell(source, slow)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            yield str(path)
        finally:
            ended.set()
            reader.join()


@contextmanager
def sending(address: str, source: str) -> Iterator[None]:
    """Send every notice inside the block to a ``relayed`` block of another process."""

    def send(slow: Slow) -> None:
        with Path(address).open("a", encoding="utf-8") as file:
            file.write(json.dumps([source, asdict(slow)]) + "\n")

    with listening(send):
        yield


def warn(text: str) -> None:
    """Issue a warning that points at the line outside the package that led to it."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame, level = frame.f_back, level + 1
    # Without this, Python shows a text once per line and process: not when a cell is run again.
    with warnings.catch_warnings():
        warnings.warn(text, EstbenchWarning, stacklevel=level)

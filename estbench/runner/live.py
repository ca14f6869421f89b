"""The report while a grid is worked through: made anew now and then, by a process of its own.

The grid must not notice. The process has low priority and one thread, takes a small share of the
time, and dies with this one, however this one dies: it holds the end of a pipe that then closes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from estbench.core import plugins
from estbench.runner.worker import THREAD_VARIABLES

__all__ = ["LEAST_S", "SHARE", "Progress", "Refresher", "refreshed"]

LEAST_S = 15.0
"""Seconds between two reports, at least."""
SHARE = 20.0
"""Seconds of waiting for each second of work that the last report took."""
RELOAD_S = (15, 300)  # bounds of the seconds after which an open page loads itself again
POLL_S = 0.5

MODULE = "estbench.report.live"


@dataclass
class Progress:
    """How far a grid is.

    Attributes:
      done: By phase ("training" or "snapshots"), how much of it has ended.
      total: By phase, how much there is.
      failed: How much of what has ended failed.
    """

    done: dict[str, int] = field(default_factory=dict)
    total: dict[str, int] = field(default_factory=dict)
    failed: int = 0

    def ended(self, phase: str, failed: bool) -> None:
        """Count something that has ended."""
        self.done[phase] += 1
        self.failed += failed


class Refresher:
    """Makes a report anew when there is something new, at most as often as it may.

    Args:
      directory: The result set.
      note: Told, in a line, the first time that a report could not be made.
      least_s: Seconds between two reports, at least.
      share: Seconds of waiting for each second of processor time that the last report took.
    """

    def __init__(
        self,
        directory: Path,
        note: Callable[[str], None],
        least_s: float,
        share: float = SHARE,
    ) -> None:
        self.directory = directory
        self.note = note
        self.least_s = least_s
        self.share = share
        self.built = 0
        self._news: dict[str, Any] | None = None
        self._process: subprocess.Popen[str] | None = None
        self._errors: IO[str] | None = None
        self._began = 0.0
        self._wait = least_s
        self._next = time.monotonic() + least_s
        self._said = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="live report", daemon=True)
        self._thread.start()

    def tell(self, progress: Progress) -> None:
        """Say that something new is on disk."""
        self._news = asdict(progress)

    def stop(self) -> None:
        """End it; a report that is being made is given up. Returns when nothing runs any more."""
        self._stopping.set()
        self._thread.join()
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._close()

    def _work(self) -> None:
        while not self._stopping.wait(min(POLL_S, self.least_s)):
            try:
                if self._process is not None:
                    if self._process.poll() is not None:
                        self._ended()
                elif self._news is not None and time.monotonic() >= self._next:
                    self._begin()
            except Exception as error:  # whatever it is, the grid goes on
                self._complain(f"{type(error).__name__}: {error}")
                self._later(self.least_s)

    def _begin(self) -> None:
        news, self._news = self._news, None
        reload_s = round(min(max(self._wait, RELOAD_S[0]), RELOAD_S[1]))
        order = {"progress": news, "reload_s": reload_s, "plugins": plugins.loaded()}
        self._began = time.monotonic()
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", MODULE, str(self.directory.absolute())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ | dict.fromkeys(THREAD_VARIABLES, "1"),
            process_group=0,  # Ctrl-C is for the driver, which ends this process itself
        )
        assert self._process.stdin is not None
        # It stays open: when it closes, the other side knows that nobody waits any more.
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def _ended(self) -> None:
        assert self._process is not None
        code = self._process.returncode
        out, _ = self._process.communicate()
        lines = self._close()
        spent = time.monotonic() - self._began
        if code == 0:
            self.built += 1
            spent = float(out)
        else:
            self._complain(lines[-1] if lines else f"exit code {code}")
        self._later(max(self.least_s, self.share * spent))

    def _close(self) -> list[str]:
        """Let go of a process that has ended; return what it said."""
        lines = []
        if self._errors is not None:
            self._errors.seek(0)
            lines = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
            self._errors.close()
        self._process = self._errors = None
        return lines

    def _later(self, seconds: float) -> None:
        self._wait = seconds
        self._next = time.monotonic() + seconds

    def _complain(self, reason: str) -> None:
        if not self._said:
            self.note(f"the report could not be made while the grid runs: {reason[:200]}")
        self._said = True


@contextmanager
def refreshed(
    directory: Path, note: Callable[[str], None], live: bool
) -> Iterator[Callable[[Progress], None]]:
    """Keep a report up to date meanwhile; gives what is to be told of progress.

    Args:
      directory: The result set.
      note: See ``Refresher``.
      live: False does nothing at all.
    """
    if not live:
        yield lambda progress: None
        return
    refresher = Refresher(directory, note, LEAST_S)
    try:
        yield refresher.tell
    finally:
        refresher.stop()

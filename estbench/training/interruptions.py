"""How a run outlives its process: now and then it writes down where it is, and goes on from there.

A run is made of phases, and a phase of steps; phases may stand within a step. ``steps`` counts
them. Between two steps, if the last checkpoint is old enough, everything that changes is written
down: what the phases that are under way have named as theirs. A run that finds a checkpoint passes
over the phases that had ended, restores those that were under way, and counts on.

Where nobody asked for checkpoints ``steps`` is ``range``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from estbench.store import StorageError
from estbench.store.checkpoints import (
    UnusableCheckpointError,
    read_checkpoint,
    remove_checkpoint,
    write_checkpoint,
)
from estbench.training.live import UnknownObjectError, capture
from estbench.training.restore import MismatchError, restore

__all__ = ["EVERY_S", "Checkpoint", "Live", "Stopwatch", "continued", "returning", "steps"]

EVERY_S = 60.0
SHARE = 50  # a checkpoint that takes a second is not written more often than every 50 s
FAULTS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)

Result = TypeVar("Result")


@dataclass(frozen=True)
class Live:
    """What a phase changes.

    Attributes:
      parts: All of it, by name: see ``estbench.training.live``.
      complete: Makes what only the first step makes, in any way: called where counterparts of what
        was kept are missing. What it changes is restored afterwards.
      restored: Called when all is as it was.
    """

    parts: Mapping[str, Any]
    complete: Callable[[], None] | None = None
    restored: Callable[[], None] | None = None


@dataclass
class _Level:
    phase: str
    done: int
    live: Live


@dataclass
class Checkpoint:
    """Where a run keeps its checkpoint, and what was found there.

    Attributes:
      path: The file.
      head: Which run it is and what computes it.
      device: Where the run computes.
      every: Seconds between checkpoints, at least; 0 for one after every step.
      notes: What went wrong, in lines; no run fails for its checkpoint.
      wall_s: Seconds that earlier processes worked on what was found.
      cpu_s: The same in seconds of the processor.
      written: Checkpoints written by this process.
      size: Bytes of the last one.
      check_there: Called before one is written; raises SetGoneError, which ends the run.
    """

    path: Path
    head: Mapping[str, str]
    device: str = "cpu"
    every: float = EVERY_S
    notes: list[str] = field(default_factory=list)
    wall_s: float = 0.0
    cpu_s: float = 0.0
    written: int = 0
    size: int = 0
    check_there: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self._levels: list[_Level] = []
        self._pending: list[dict[str, Any]] = []
        self._begun = self._saved = time.perf_counter()
        self._begun_cpu = time.process_time()
        self._interval = self.every
        try:
            found = read_checkpoint(self.path, self.head)
        except UnusableCheckpointError as error:
            self.discard(error)
            return
        if found is not None:
            self._pending = found["levels"]
            self.wall_s, self.cpu_s = found["wall_s"], found["cpu_s"]

    @property
    def pending(self) -> bool:
        """Whether there are phases to be taken up again that the run has not come to yet."""
        return bool(self._pending)

    def discard(self, error: Exception) -> None:
        """Begin anew, for what was found is of no use."""
        self.notes.append(f"a checkpoint was of no use, the run began anew: {error}")
        remove_checkpoint(self.path)
        self._levels, self._pending = [], []
        self.wall_s = self.cpu_s = 0.0

    def steps(self, phase: str, count: int, live: Live) -> Iterator[int]:
        """See ``steps``."""
        level = _Level(phase, 0, live)
        if self._pending:
            kept = self._pending[0]
            if kept["phase"] != phase:
                return  # it was over
            self._pending = self._pending[1:]
            level.done = kept["done"]
            self._restore(kept, live)
        self._levels.append(level)
        try:
            for step in range(level.done, count):
                yield step
                if self._pending:
                    raise UnusableCheckpointError(f"there is no {self._pending[0]['phase']}")
                level.done = step + 1
                self._reached()
        finally:
            if level in self._levels:
                self._levels.remove(level)

    def _restore(self, kept: Mapping[str, Any], live: Live) -> None:
        try:
            try:
                restore(kept["state"], live.parts, self.device)
            except MismatchError:
                if live.complete is None:
                    raise
                live.complete()
                restore(kept["state"], live.parts, self.device)
        except (MismatchError, *FAULTS) as error:
            raise UnusableCheckpointError(" ".join(str(error).split())[:200]) from error
        if live.restored:
            live.restored()

    def _reached(self) -> None:
        """Write a checkpoint if it is time; whatever stands in the way is noted once."""
        now = time.perf_counter()
        if now - self._saved < self._interval:
            return
        self.check_there()
        try:
            levels = [
                {"phase": level.phase, "done": level.done, "state": capture(level.live.parts)}
                for level in self._levels
            ]
            state = {
                "levels": levels,
                "wall_s": self.wall_s + now - self._begun,
                "cpu_s": self.cpu_s + time.process_time() - self._begun_cpu,
            }
            self.size = write_checkpoint(self.path, self.head, state)
            self.written += 1
        except UnknownObjectError as error:
            self._note(f"no checkpoints, a kill would lose the run: {error}")
            self._interval = math.inf
            return
        except (StorageError, MemoryError, RuntimeError) as error:
            self._note(f"a checkpoint was not written: {' '.join(str(error).split())[:200]}")
        self._saved = time.perf_counter()
        if self.every:
            self._interval = max(self.every, SHARE * (self._saved - now))

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


class Stopwatch:
    """Seconds since it was made; may be set."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self._since

    @seconds.setter
    def seconds(self, value: float) -> None:
        self._since = time.perf_counter() - value


_current: ContextVar[Checkpoint | None] = ContextVar("checkpoint", default=None)


def steps(phase: str, count: int, live: Live) -> Iterator[int]:
    """Yield the numbers of a phase's steps that are still to be done: all, in a run from the start.

    Args:
      phase: Its name, unlike that of any other phase of the same step, or of the run.
      count: Steps in all.
      live: What the phase changes, apart from what phases around it have named.

    Raises:
      UnusableCheckpointError: What was kept does not fit what is here: see ``continued``.
    """
    checkpoint = _current.get()
    if checkpoint is None:
        yield from range(count)
    else:
        yield from checkpoint.steps(phase, count, live)


def returning() -> bool:
    """Return whether the run is on its way back into a phase within the present step.

    What comes before that phase in the step has been done, and is not to be done again.
    """
    checkpoint = _current.get()
    return checkpoint is not None and checkpoint.pending


def continued(checkpoint: Checkpoint, compute: Callable[[], Result]) -> Result:
    """Return what ``compute`` returns, from its checkpoint on where there is one that fits.

    Args:
      checkpoint: Where it is kept.
      compute: Sets everything up anew whenever it is called.
    """
    while True:
        try:
            with _kept(checkpoint):
                return compute()
        except UnusableCheckpointError as error:
            checkpoint.discard(error)


@contextmanager
def _kept(checkpoint: Checkpoint) -> Iterator[None]:
    token = _current.set(checkpoint)
    try:
        yield
        if checkpoint.pending:
            raise UnusableCheckpointError("the run ended without what was kept")
    finally:
        _current.reset(token)

"""How a run outlives its process: now and then its state is saved, and it goes on from there.

A run is made of phases, and a phase of steps; a step may have phases within it. ``Phases`` counts
the steps that are done. ``Checkpoint`` also saves the counts and the run's ``state_dict`` between
two steps, if the last save is old enough. Up to their first batch all runs of a task and seed are
the same run: the first to be pre-trained leaves that state to the others.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from estbench.store import StorageError
from estbench.store.checkpoints import (
    UnusableCheckpointError,
    read_checkpoint,
    remove_checkpoint,
    write_checkpoint,
)
from estbench.training.state_dict import MismatchError, UnknownObjectError

__all__ = ["EVERY_S", "Checkpoint", "Phases"]

EVERY_S = 60.0
SHARE = 50  # a checkpoint that takes a second is not written more often than every 50 s
WORTH_S = 0.25  # pre-training that takes less is done again rather than written and read
FAULTS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class Saved(Protocol):
    """What has a state."""

    def state_dict(self) -> Any:
        """Return what changes during the run."""

    def load_state_dict(self, kept: Any) -> None:
        """Take it back."""


class Resumable(Saved, Protocol):
    """A run as ``Checkpoint`` meets it."""

    @property
    def session(self) -> Saved:
        """All that pre-training changes."""

    def complete(self) -> None:
        """Make the objects that only the first step makes."""


Run = TypeVar("Run", bound=Resumable)


class Phases:
    """Counts the steps of a run's phases; saves nothing.

    Attributes:
      done: Steps that are done, by phase, in the order in which the phases began. When a step ends,
        the phases within it are forgotten.
    """

    def __init__(self) -> None:
        self.done: dict[str, int] = {}

    def restored(self, make: Callable[[], Run]) -> Run:
        """Return the run that ``make`` sets up, with the state that was saved, if any."""
        return make()

    def steps(self, phase: str, count: int) -> Iterator[int]:
        """Yield the numbers of a phase's steps that are still to be done: from 0 in a new run.

        Args:
          phase: Its name, unlike that of any other phase.
          count: Steps in all.
        """
        for step in range(self.done.setdefault(phase, 0), count):
            yield step
            names = list(self.done)
            self.done = {name: self.done[name] for name in names[: names.index(phase) + 1]}
            self.done[phase] = step + 1
            self.after_step()

    def within(self, phase: str) -> bool:
        """Return whether the run was saved within the present step of a phase."""
        return next(reversed(self.done)) != phase

    def after_step(self) -> None:
        """Called after each step."""

    def leave(self, session: Saved) -> None:
        """Called with a session that has been pre-trained, and no more."""


@dataclass
class Checkpoint(Phases):
    """Phases of a run that is saved to a file.

    Attributes:
      path: The file.
      head: Which run it is and what computes it.
      device: Where the run computes.
      every: Seconds between checkpoints, at least; 0 for one after every step.
      notes: What went wrong, in lines; no run fails for its checkpoint.
      wall_s: Seconds that earlier processes worked on what was saved.
      cpu_s: The same in seconds of the processor.
      shared_s: Seconds of ``wall_s`` that another run has spent, on pre-training.
      written: Checkpoints written by this process.
      size: Bytes of the last one.
      check_there: Called before one is written; raises SetGoneError, which ends the run.
      start: The file that pre-training is left in, for all runs of the task and seed; None where
        there is no other run.
      start_head: Which task and seed that is, and what computes it.
    """

    path: Path
    head: Mapping[str, str]
    device: str = "cpu"
    every: float = EVERY_S
    notes: list[str] = field(default_factory=list)
    wall_s: float = 0.0
    cpu_s: float = 0.0
    shared_s: float = 0.0
    written: int = 0
    size: int = 0
    check_there: Callable[[], None] = lambda: None
    start: Path | None = None
    start_head: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()
        self._run: Resumable | None = None
        self._begun = self._saved = time.perf_counter()
        self._begun_cpu = time.process_time()
        self._interval = self.every

    def restored(self, make: Callable[[], Run]) -> Run:
        """Return the run that ``make`` sets up, with the state that was saved, if any.

        Without a checkpoint of its own it begins with the pre-training that another run has left.
        A file that cannot be used is removed, with a note, and the run starts over.
        """
        run = make()
        for path, head in ((self.path, self.head), (self.start, self.start_head)):
            if path is None:
                continue
            try:
                if self._load(run, path, head):
                    break
            except (UnusableCheckpointError, MismatchError, *FAULTS) as error:
                why = " ".join(str(error).split())[:200]
                self.notes.append(f"a checkpoint was of no use, the run began anew: {why}")
                remove_checkpoint(path)
                run = make()
        self._run = run
        return run

    def _load(self, run: Resumable, path: Path, head: Mapping[str, str]) -> bool:
        """Put what a file holds into a new run; return whether there is such a file."""
        saved = read_checkpoint(path, head, self.device)
        if saved is None:
            return False
        if "session" in saved:
            run.session.load_state_dict(saved["session"])
            self.shared_s = saved["wall_s"]
        else:
            try:
                run.load_state_dict(saved["run"])
            except MismatchError:
                run.complete()  # this may have changed what was loaded
                saved = read_checkpoint(path, head, self.device)
                run.load_state_dict(saved["run"])
        self.done = saved["done"]
        self.wall_s, self.cpu_s = saved["wall_s"], saved["cpu_s"]
        return True

    def leave(self, session: Saved) -> None:
        """Leave the session to the other runs of its task and seed, if that saves them time."""
        spent = self.wall_s + time.perf_counter() - self._begun
        worth = min(self.every, WORTH_S) <= spent and not math.isinf(self.every)
        if worth and self.start is not None and not self.start.exists():
            self._save(self.start, self.start_head, "session", session)

    def after_step(self) -> None:
        """Save the run if it is time; a failure is noted once."""
        now = time.perf_counter()
        if self._run is None or now - self._saved < self._interval:
            return
        self._interval = self.every
        self._save(self.path, self.head, "run", self._run)
        self._saved = time.perf_counter()
        if self.every:
            self._interval = max(self._interval, SHARE * (self._saved - now))

    def _save(self, path: Path, head: Mapping[str, str], name: str, part: Saved) -> None:
        self.check_there()
        try:
            saved = {
                name: part.state_dict(),
                "done": self.done,
                "wall_s": self.wall_s + time.perf_counter() - self._begun,
                "cpu_s": self.cpu_s + time.process_time() - self._begun_cpu,
            }
            self.size = write_checkpoint(path, head, saved)
            self.written += 1
        except UnknownObjectError as error:
            self._note(f"no checkpoints, a kill would lose the run: {error}")
            self._interval = math.inf
        except (StorageError, MemoryError, RuntimeError) as error:
            self._note(f"a checkpoint was not written: {' '.join(str(error).split())[:200]}")

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

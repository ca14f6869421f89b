"""A small experiment on fake jobs."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from estbench.config.experiment import (
    Experiment,
    SnapshotSettings,
    TimingSettings,
    TrainingSettings,
)
from estbench.core.processes import stop_workers
from estbench.runner import Summary, jobs, run_experiment
from estbench.store import ResultSet, numbers

from . import fakes


@dataclass
class Screen:
    """A display that remembers."""

    notes: list[str] = field(default_factory=list)
    phases: dict[str, int] = field(default_factory=dict)
    lefts: list[float | None] = field(default_factory=list)

    def phase(self, name: str, total: int) -> None:
        self.phases[name] = total

    def ended(self, label: str, error: str, seconds: float, left: float | None) -> None:
        self.lefts.append(left)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def close(self) -> None:
        pass


@dataclass
class Grid:
    """An experiment and where it goes."""

    experiment: Experiment
    directory: Path
    screen: Screen = field(default_factory=Screen)

    @property
    def results(self) -> ResultSet:
        return ResultSet(self.directory)

    def run(
        self,
        workers: int = 2,
        *,
        retry_failed: bool = False,
        renew: bool = False,
        live: bool = False,
        tensorboard: bool = False,
        **changes: Any,
    ) -> Summary:
        """Run it, with changes."""
        return run_experiment(
            replace(self.experiment, **changes),
            self.directory,
            workers=workers,
            command="estbench run",
            display=self.screen,
            retry_failed=retry_failed,
            renew=renew,
            live=live,
            tensorboard=tensorboard,
        )

    def numbers(self) -> dict[str, Any]:
        """All that must be the same whenever and however it is run, by path."""
        found = {}
        for path in sorted(self.directory.rglob("seed-*.json")):
            record = self.results.read(path)
            found[str(path.relative_to(self.directory))] = numbers(record)
        return found


SMALL = Experiment(
    name="small",
    tasks=("expressions-3", "oracle-small"),
    estimators=("reinforce", "rloo"),
    also_measured=("reinforce-ema",),
    seeds=(0, 1),
    training=TrainingSettings(batches=8, batch_size=8),
    snapshots=SnapshotSettings(sequences=16),
    timing=TimingSettings(rounds=2),
)


def without_processes(patch: pytest.MonkeyPatch) -> None:
    """Have all work done in this process: the same records, without waiting for workers."""

    def here(calls: Any, sent: list[int], width: int, threads: int) -> Iterator[tuple[int, Any]]:
        before = signal.getsignal(signal.SIGINT)
        try:
            for index, call in calls:
                sent.append(index)
                yield index, call()
        finally:
            signal.signal(signal.SIGINT, before)

    patch.setattr("estbench.core.processes._sweep", here)
    for user in ("runner.backends.local", "runner.timing", "cli.commands", "cli.checks"):
        patch.setattr(f"estbench.{user}.stop_workers", lambda: None)


@pytest.fixture
def grid(pool: Grid, monkeypatch: pytest.MonkeyPatch) -> Grid:
    """The small experiment, whose jobs run in this process."""
    without_processes(monkeypatch)
    return pool


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Grid:
    """The small experiment, whose jobs run in worker processes."""
    stop_workers()  # those that another test left would not know this one's environment
    mischief = tmp_path / "mischief"
    mischief.mkdir()
    monkeypatch.setenv(fakes.FOLDER, str(mischief))
    for name in ("train", "reference", "measure", "time_step", "warm_up"):
        monkeypatch.setattr(jobs, name, getattr(fakes, name))
    return Grid(SMALL, tmp_path / "set")

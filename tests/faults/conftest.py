"""Whole processes of the command line, on fake jobs, to be killed, starved and interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from runner import fakes
from runner.processes import CLI, group

from estbench.store import ResultSet, numbers
from estbench.store.digest import digest

# 2 references, 4 runs, 8 measurements, no rounds: whoever is killed has something left to do.
WORDS = [
    *("run", "--preset", "smoke", "--tasks", "expressions-3", "--seeds", "2", "--jobs", "2"),
    *("--estimators", "rloo,relax,reinforce-ema", "--no-gate", "--no-live"),
]
RECORDS = 2 + 6 + 6


class Machine:
    """Starts drivers that write to one result set."""

    def __init__(self, folder: Path) -> None:
        self.out = folder / "set"
        self.started: list[subprocess.Popen[str]] = []
        path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
        self.environment = os.environ | {"PYTHONPATH": path}

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        """Start a driver in a group of its own, as a shell does."""
        process = subprocess.Popen(
            [sys.executable, "-c", CLI, *WORDS, *words, "--out", str(self.out)],
            env=self.environment | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def run(self, *words: str, code: int = 0, **environment: str) -> str:
        """Start a driver and wait for its end; returns what it said."""
        process = self.start(*words, **environment)
        _, said = process.communicate(timeout=300)
        assert process.returncode == code, said
        assert "Traceback" not in said, said
        return said

    @property
    def results(self) -> ResultSet:
        return ResultSet(self.out)

    def numbers(self) -> dict[str, Any]:
        """All that must be the same however it came about, by path."""
        return {
            str(path.relative_to(self.out)): numbers(self.results.read(path))
            for path in sorted(self.out.rglob("seed-*.json"))
            if "stale" not in path.parts
        }

    def hash(self) -> str:
        """The line that ``estbench env --hash`` prints."""
        found = digest(self.out).sha256
        assert found is not None
        return found


def wait_for(condition: Callable[[], object], seconds: float = 240.0) -> None:
    """Wait until something is so."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def mischief(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the fakes read what they are to do."""
    folder = tmp_path / "mischief"
    folder.mkdir()
    monkeypatch.setenv(fakes.FOLDER, str(folder))


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine, on which nothing is left running afterwards."""
    found = Machine(tmp_path)
    yield found
    for process in found.started:
        for member in group(process.pid):
            os.kill(member, signal.SIGKILL)
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """The same grid, made by nobody who was disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "mischief").mkdir()
    found = Machine(folder)
    found.run(**{fakes.FOLDER: str(folder / "mischief")})
    assert len(found.numbers()) == RECORDS
    return found

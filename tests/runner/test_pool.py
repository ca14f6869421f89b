"""The pool: what happens when workers die, fail or are interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from estbench.core.processes import surviving
from estbench.runner.backends.local import LocalBackend
from estbench.runner.manifest import manifest
from estbench.store import StorageError

from . import fakes
from .conftest import Grid, without_processes
from .processes import CLI, group


@pytest.mark.slow
def test_numbers_depend_on_neither_jobs_nor_order_nor_interruption(
    pool: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.run(workers=2)
    other = Grid(pool.experiment, tmp_path / "other")
    with monkeypatch.context() as patch:
        without_processes(patch)
        other.run(seeds=(1,), estimators=("rloo",))
        other.run(seeds=(0,), tasks=("oracle-small",))
    other.results.run_path("oracle-small", "reinforce", 0).unlink()
    other.run(workers=1)
    assert len(pool.numbers()) == 24
    assert pool.numbers() == other.numbers()
    for record in (*pool.results.records("runs"), *other.results.records("runs")):
        assert record["info"] == {"threads": 1, "omp": "1"}, "a worker has one thread"


@pytest.mark.slow
def test_a_full_disk_in_a_worker_ends_the_run_too(pool: Grid) -> None:
    blocked = pool.directory / "runs" / "expressions-15"
    blocked.parent.mkdir(parents=True)
    wanted = replace(pool.experiment, tasks=("expressions-15",))
    pool.results.write_manifest(manifest(wanted, "estbench run"))
    blocked.write_text("a file where a folder has to be made; it stops root as well")
    with pytest.raises(StorageError, match=r"cannot write .*expressions-15"):
        pool.run(tasks=("expressions-15",))


def test_a_run_that_fails_is_a_record_and_the_rest_goes_on(grid: Grid) -> None:
    fakes.plan_mischief("raise", "expressions-3 reinforce seed 1")
    fakes.plan_mischief("nan", "oracle-small reinforce seed 0")
    summary = grid.run()
    assert summary.made == 22
    failed = {failure.label: failure.error for failure in summary.failures}
    assert failed == {
        "expressions-3 reinforce seed 1": "FloatingPointError: loss is nan at batch 17",
        "oracle-small reinforce seed 0": "NotFinite: final goodness is not a number",
    }
    record = grid.results.read(grid.results.run_path("expressions-3", "reinforce", 1))
    assert record is not None
    assert record["status"] == "failed"
    assert "Traceback" in record["error"]["traceback"]
    assert "fakes.py" in record["error"]["traceback"]

    fakes.forget()
    again = grid.run()
    assert fakes.calls() == [], "what failed is not tried again by itself"
    assert len(again.failures) == 2

    assert grid.run(retry_failed=True).failures == []
    assert fakes.calls() == ["expressions-3 reinforce seed 1", "oracle-small reinforce seed 0"]


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("exit", "SystemExit: 0"),
        ("interrupt", "KeyboardInterrupt:"),
        ("close", "GeneratorExit:"),
        ("own", "OwnError: (its message cannot be shown: SystemExit)"),
    ],
)
def test_whatever_a_run_raises_is_a_record_and_the_rest_goes_on(
    grid: Grid, kind: str, error: str
) -> None:
    fakes.plan_mischief(kind, "expressions-3 reinforce seed 1")
    fakes.plan_mischief(kind, "measure expressions-3 reinforce seed 0")
    summary = grid.run()
    assert summary.made == 22
    assert {failure.error for failure in summary.failures} == {error}
    assert len(summary.failures) == 2
    record = grid.results.read(grid.results.run_path("expressions-3", "reinforce", 1))
    assert record is not None
    assert "fakes.py" in record["error"]["traceback"]


def timed(grid: Grid) -> list[set[str]]:
    """The estimators that each round has seconds of, and a ! before those that failed."""
    return [
        {"!" * ("status" in row) + row["estimator"] for row in record["rows"]}
        for record in grid.results.records("timing")
    ]


def test_what_fails_in_a_timing_round_costs_its_own_row(grid: Grid) -> None:
    fakes.plan_mischief("exit", "timing expressions-3 reinforce")
    summary = grid.run(tasks=("expressions-3",), seeds=(0,))
    said = [(failure.label, failure.error) for failure in summary.failures]
    assert said == [("expressions-3 reinforce in timing round 0", "SystemExit: 0")]
    assert timed(grid) == [{"!reinforce", "rloo", "reinforce-ema"}, {"rloo", "reinforce-ema"}]

    fakes.forget()
    again = grid.run(tasks=("expressions-3",), seeds=(0,))
    assert fakes.calls() == [], "what failed is not tried again by itself"
    assert len(again.failures) == 1

    assert not grid.run(tasks=("expressions-3",), seeds=(0,), retry_failed=True).failures
    assert timed(grid) == [{"reinforce", "rloo", "reinforce-ema"}] * 2


def test_what_failed_in_training_is_not_timed(grid: Grid) -> None:
    words = {"tasks": ("expressions-3",), "seeds": (0,)}
    fakes.plan_mischief("raise", "expressions-3 reinforce seed 0")
    grid.run(**words)
    assert timed(grid) == [{"rloo", "reinforce-ema"}] * 2
    grid.run(**words, retry_failed=True)
    assert timed(grid) == [{"reinforce", "rloo", "reinforce-ema"}] * 2


def test_no_more_workers_start_than_there_is_work(monkeypatch: pytest.MonkeyPatch) -> None:
    widths = []

    def sweep(calls: Any, sent: list[int], width: int, threads: int) -> Iterator[tuple[int, Any]]:
        widths.append(width)
        yield from ((index, call()) for index, call in calls)

    monkeypatch.setattr("estbench.core.processes._sweep", sweep)
    found = surviving("abc", lambda letter: letter.upper, 24, label=str, note=print)
    assert list(found) == [("a", "A"), ("b", "B"), ("c", "C")]
    assert widths == [3]


def test_a_backend_is_asked_for_no_more_workers_than_there_are_runs(
    grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def make(settings: object, workers: int, *others: Any) -> LocalBackend:
        asked.append(workers)
        return LocalBackend(workers, *others)

    monkeypatch.setattr("estbench.runner.grid.make_backend", make)
    grid.run(24, tasks=("expressions-3",), seeds=(0,))
    grid.run(24, tasks=("expressions-3",))
    assert asked == [3, 3]


def test_measurements_without_a_reference_fail_with_its_reason(grid: Grid) -> None:
    fakes.plan_mischief("raise", "expressions-3 reference (rloo) seed 0")
    summary = grid.run(seeds=(0,))
    errors = [failure.error for failure in summary.failures]
    assert len(errors) == 1 + 3
    assert all("loss is nan" in error for error in errors)
    assert {record["estimator"] for record in grid.results.records("snapshots")} == {
        "reinforce",
        "reinforce-ema",
        "rloo",
    }
    run = grid.results.read(grid.results.run_path("expressions-3", "rloo", 0))
    assert run is not None
    assert run["status"] == "failed", "the reference is rloo's run"
    assert [record["tasks"] for record in grid.results.records("timing")] == [["oracle-small"]] * 2

    assert grid.run(seeds=(0,), retry_failed=True).failures == []
    timed = [record["tasks"] for record in grid.results.records("timing")]
    assert timed == [["expressions-3", "oracle-small"]] * 2


@pytest.mark.slow
def test_a_worker_killed_once_costs_nothing_and_one_killed_again_costs_one_run(pool: Grid) -> None:
    fakes.plan_mischief("kill", "expressions-3 reinforce seed 1")
    fakes.plan_mischief("kill", "oracle-small reinforce seed 0", times=99)
    summary = pool.run()
    assert [failure.label for failure in summary.failures] == ["oracle-small reinforce seed 0"]
    assert "WorkerKilled: its worker process died" in summary.failures[0].error
    assert fakes.calls().count("oracle-small reinforce seed 0") in (2, 3)
    assert any("a worker process died" in note for note in pool.screen.notes)
    assert summary.made == 22
    good = [record for record in pool.results.records("runs") if record["status"] == "ok"]
    assert len(good) == 7


@pytest.mark.parametrize(("workers", "kills"), [(1, 2), (4, 3)])
def test_a_run_that_kills_its_worker_alone_is_given_up(
    pool: Grid, monkeypatch: pytest.MonkeyPatch, workers: int, kills: int
) -> None:
    poison = "oracle-small reinforce seed 0"

    def sweep(calls: Any, sent: list[int], width: int, threads: int) -> Iterator[tuple[int, Any]]:
        """``width`` jobs are out at a time; the poisonous one takes those beside it along."""
        todo = list(calls)
        for start in range(0, len(todo), width):
            beside = todo[start : start + width]
            sent += [index for index, _ in beside]
            labels = [getattr(call.args[0], "label", "a timing round") for _, call in beside]
            fakes.log(*labels)
            if poison in labels:
                raise BrokenProcessPool("SIGKILL(-9)")
            for index, call in beside:
                yield index, call()

    without_processes(monkeypatch)
    monkeypatch.setattr("estbench.core.processes._sweep", sweep)
    summary = pool.run(workers)
    assert [failure.label for failure in summary.failures] == [poison]
    assert fakes.calls().count(poison) == kills
    assert summary.made == 22


WORDS = ["run", "--preset", "smoke", "--tasks", "expressions-3", "--estimators", "rloo,relax"]
WORDS += ["--no-gate"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_stops_in_seconds_and_goes_on_later(
    pool: Grid, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    asleep = "expressions-3 relax seed 0"
    fakes.plan_mischief("sleep", asleep)
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    command = [sys.executable, "-c", CLI, *WORDS, "--jobs", "2", "--out", str(tmp_path / "out")]
    process = subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": path},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    out = Grid(pool.experiment, tmp_path / "out").results
    finished = [out.reference_path("expressions-3", seed) for seed in (0, 1)]
    deadline = time.monotonic() + 60
    while not all(path.exists() for path in finished) and time.monotonic() < deadline:
        time.sleep(0.05)
    while asleep not in fakes.calls() and time.monotonic() < deadline:
        time.sleep(0.05)
    started = time.monotonic()
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # a terminal's Ctrl-C reaches the whole group
    else:
        process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - started < 8
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert "go on with:" in errors.splitlines()[-1]
    while group(process.pid) and time.monotonic() < started + 8:
        time.sleep(0.05)  # the process that watches over shared memory leaves last
    assert not group(process.pid), "workers are gone"
    assert all(path.exists() for path in finished)
    assert not list(out.path.rglob("*.tmp"))

    if number == signal.SIGTERM:
        return
    fakes.forget()
    again = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, check=False)
    assert again.returncode == 0
    assert not [call for call in fakes.calls() if call.startswith("expressions-3 reference")]
    assert asleep in fakes.calls()

"""Whoever is killed, wherever: nothing finished is lost, and the same numbers come out."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from runner import fakes
from runner.processes import LISTEN, group

from .conftest import RECORDS, Machine, wait_for

BACKENDS = pytest.mark.parametrize("backend", ["local", "dask"])
LOCAL_IS_QUICK = pytest.mark.parametrize(
    "backend", [pytest.param("local", marks=pytest.mark.sentinel), "dask"]
)
LABEL = "expressions-3 relax seed 1"


def written(machine: Machine) -> list[Path]:
    return list(machine.out.rglob("seed-*.json"))


@LOCAL_IS_QUICK
def test_a_worker_that_is_killed_once_costs_no_run(
    machine: Machine, undisturbed: Machine, backend: str
) -> None:
    fakes.plan_mischief("kill", LABEL)
    machine.run("--backend", backend)
    assert fakes.calls().count(LABEL) == 2
    assert machine.numbers() == undisturbed.numbers()


@BACKENDS
def test_a_run_that_kills_its_workers_is_a_row_and_is_not_tried_for_ever(
    machine: Machine, undisturbed: Machine, backend: str
) -> None:
    fakes.plan_mischief("kill", LABEL, times=2 if backend == "dask" else 3)
    said = machine.run("--backend", backend, code=1)
    assert "WorkerKilled: its worker process died, twice" in said
    assert fakes.calls().count(LABEL) in (2, 3)
    record = machine.results.read(machine.results.run_path("expressions-3", "relax", 1))
    assert record is not None
    assert record["error"]["type"] == "WorkerKilled"
    assert len(machine.numbers()) == RECORDS, "all others are there"

    for path in Path(os.environ[fakes.FOLDER]).glob("kill@*"):
        path.unlink()
    machine.run("--retry-failed")
    assert machine.hash() == undisturbed.hash()


@BACKENDS
def test_a_worker_that_is_killed_while_it_writes_leaves_no_half_file(
    machine: Machine, undisturbed: Machine, backend: str
) -> None:
    fakes.plan_mischief("halfway", LABEL)
    machine.run("--backend", backend)
    assert fakes.calls().count(LABEL) == 2
    assert machine.numbers() == undisturbed.numbers()
    machine.run()  # whoever writes next clears away what is left of the dead
    assert not list(machine.out.rglob("*.tmp"))


@LOCAL_IS_QUICK
def test_a_driver_that_is_killed_takes_its_workers_along_and_the_next_goes_on(
    machine: Machine, undisturbed: Machine, backend: str
) -> None:
    process = machine.start("--backend", backend, **{fakes.PACE: "0.3"})
    wait_for(lambda: len(written(machine)) > 3)
    process.kill()
    process.wait()
    wait_for(lambda: not group(process.pid), 60)
    finished = {path: path.read_bytes() for path in written(machine)}
    assert 3 < len(finished) < RECORDS
    fakes.forget()
    machine.run("--backend", backend)
    assert {path: path.read_bytes() for path in finished} == finished, "not done again"
    made = [call for call in fakes.calls() if not call.startswith("measure")]
    assert len(made) + sum("snapshots" not in path.parts for path in finished) >= 6
    assert machine.numbers() == undisturbed.numbers()
    assert machine.hash() == undisturbed.hash()


def test_a_driver_that_is_killed_again_and_again_gets_there(
    machine: Machine, undisturbed: Machine
) -> None:
    chance = random.Random(0)
    for _ in range(4):
        before = len(written(machine))
        process = machine.start(**{fakes.PACE: "0.2"})
        more = chance.randint(1, 3)
        wait_for(lambda: len(written(machine)) >= min(before + more, RECORDS))  # noqa: B023
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    machine.run()
    assert machine.numbers() == undisturbed.numbers()


@pytest.mark.parametrize("presses", [1, 2])
@BACKENDS
def test_control_c_once_or_twice_stops_at_once_and_says_how_to_go_on(
    machine: Machine, undisturbed: Machine, backend: str, presses: int
) -> None:
    fakes.plan_mischief("sleep", LABEL)
    process = machine.start("--backend", backend)
    wait_for(lambda: LABEL in fakes.calls())
    for _ in range(presses):
        os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it, to the whole group
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said, said
    assert "go on with:" in said.splitlines()[-1]
    wait_for(lambda: not group(process.pid), 60)
    assert not list(machine.out.rglob("*.tmp"))
    machine.run("--backend", backend)
    assert machine.numbers() == undisturbed.numbers()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_check_that_is_stopped_leaves_no_worker_behind(
    machine: Machine, number: signal.Signals
) -> None:
    words = ["check", "relax", "rebar", "--jobs", "2", "--out", str(machine.out)]
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"{LISTEN}; from estbench.__main__ import main; main()",
            *words,
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    machine.started.append(process)
    wait_for(lambda: len(group(process.pid)) >= 4)  # it, two workers, and who tracks their memory
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number), said
    assert "Traceback" not in said, said
    wait_for(lambda: not group(process.pid), 60)
    assert not list(machine.out.glob("check.*"))

"""Clusters: a running dask scheduler, workers that come late or see no common folder, and Slurm."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from runner import fakes
from runner.processes import group

from estbench.runner.limits import Stopped, interruptible, stop_all

from .conftest import RECORDS, Machine, wait_for

LABEL = "expressions-3 relax seed 1"


class Dask:
    """A scheduler and its workers, each a process."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        self.environment = machine.environment
        self.file = folder / "scheduler.json"
        self.processes: list[subprocess.Popen[bytes]] = []
        file = ["--scheduler-file", str(self.file)]
        self.scheduler = self._start("scheduler", "--port", "0", "--no-dashboard", *file)
        wait_for(lambda: self.file.exists() and self.file.read_text().endswith("}"))
        self.address: str = json.loads(self.file.read_text())["address"]

    def worker(self, *before: str) -> None:
        """Start a worker."""
        self._start("worker", self.address, "--nthreads", "1", "--no-dashboard", before=before)

    def _start(self, *words: str, before: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [*before, sys.executable, "-m", "dask", *words],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.file.parent,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def stop(self) -> None:
        """Stop all of it."""
        for process in self.processes:
            for member in group(process.pid):
                os.kill(member, signal.SIGKILL)
            process.wait()


@pytest.fixture
def dask(machine: Machine, tmp_path: Path) -> Iterator[Dask]:
    """A dask cluster without workers."""
    found = Dask(machine, tmp_path)
    yield found
    found.stop()


def test_workers_may_come_late_and_a_cluster_goes_on_without_its_driver(
    machine: Machine, undisturbed: Machine, dask: Dask
) -> None:
    words = ["--backend", "dask", "--scheduler", dask.address]
    process = machine.start(*words)
    wait_for(machine.results.manifest_path.exists)
    dask.worker()
    dask.worker()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert machine.numbers() == undisturbed.numbers()
    assert not list(machine.out.rglob(".shared*"))


def test_an_interrupted_driver_frees_the_workers_of_a_cluster(
    machine: Machine, undisturbed: Machine, dask: Dask
) -> None:
    fakes.plan_mischief("loop", LABEL)
    words = ["--backend", "dask", "--scheduler", dask.address]
    dask.worker()
    process = machine.start(*words)
    wait_for(lambda: LABEL in fakes.calls())
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    machine.run(*words)  # not after the minute that the run would have taken
    assert fakes.calls().count(LABEL) == 2
    assert machine.numbers() == undisturbed.numbers()


def test_a_driver_that_stops_leaves_the_runs_of_another_on_the_same_worker() -> None:
    ended = []
    go_on = threading.Event()

    def work(driver: str) -> None:
        with suppress(Stopped), interruptible(driver):
            while not go_on.wait(0.005):
                pass
        ended.append(driver)

    threads = {name: threading.Thread(target=work, args=(name,)) for name in ("mine", "another's")}
    for thread in threads.values():
        thread.start()
    assert stop_all("mine") == 1
    threads["mine"].join(10)
    assert ended == ["mine"]
    go_on.set()
    threads["another's"].join(10)


def test_without_a_common_folder_results_come_back_over_the_network(
    machine: Machine, undisturbed: Machine, dask: Dask
) -> None:
    machine.out.mkdir()
    elsewhere = ["unshare", "--mount", "sh", "-c"]
    hide = f"mount -t tmpfs none {machine.out}"
    tried = subprocess.run([*elsewhere, hide], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no folder can be hidden here: {tried.stderr}")
    for _ in range(2):
        dask.worker(*elsewhere, f'{hide} && exec "$@"', "sh")
    fakes.plan_mischief("kill", LABEL)
    fakes.plan_mischief("raise", "expressions-3 relax seed 0")
    said = machine.run("--backend", "dask", "--scheduler", dask.address, code=1)
    assert "results come back over the network" in said
    assert "FloatingPointError" in said
    machine.run("--retry-failed", "--backend", "dask", "--scheduler", dask.address)
    assert machine.numbers() == undisturbed.numbers()
    assert fakes.calls().count(LABEL) == 2


def test_a_scheduler_that_dies_ends_the_run_and_another_backend_goes_on(
    machine: Machine, undisturbed: Machine, dask: Dask
) -> None:
    dask.worker()
    process = machine.start("--backend", "dask", "--scheduler", dask.address, **{fakes.PACE: "0.3"})
    wait_for(lambda: list(machine.out.rglob("seed-*.json")))
    dask.stop()
    _, said = process.communicate(timeout=90)
    assert process.returncode == 3, said
    assert "Traceback" not in said, said
    assert "the dask scheduler is gone" in said
    machine.run()
    assert machine.numbers() == undisturbed.numbers()


def test_a_scheduler_that_is_not_there_is_said_before_anything_is_done(machine: Machine) -> None:
    said = machine.run("--backend", "dask", "--scheduler", "tcp://127.0.0.1:9", code=2)
    assert "no dask scheduler answers at tcp://127.0.0.1:9" in said
    assert "dask worker" in said
    said = machine.run("--scheduler", "tcp://127.0.0.1:9", code=2)
    assert "add --backend dask" in said
    assert not machine.out.exists()


@pytest.fixture
def slurm() -> Callable[[], list[str]]:
    """Asks a real Slurm what it works on."""
    if shutil.which("sbatch") is None or subprocess.run(["sinfo"], check=False).returncode:
        pytest.skip("there is no Slurm here")

    def queue() -> list[str]:
        told = subprocess.run(["squeue", "-h"], capture_output=True, text=True, check=True)
        return told.stdout.split()

    return queue


SLURM = ("--backend", "slurm", "--slurm", "time=5")


def test_slurm_makes_the_same_numbers_and_hands_out_again_what_died(
    machine: Machine, undisturbed: Machine, slurm: Callable[[], list[str]]
) -> None:
    fakes.plan_mischief("kill", LABEL)
    fakes.plan_mischief("kill", "expressions-3 relax seed 0", times=2)
    said = machine.run(*SLURM, code=1)
    assert fakes.calls().count(LABEL) == 2
    assert "WorkerKilled: its worker process died, twice" in said
    assert len(machine.numbers()) == RECORDS
    machine.run(*SLURM, "--retry-failed")
    assert machine.numbers() == undisturbed.numbers()
    assert slurm() == []


def test_slurm_forgets_the_jobs_of_a_driver_that_was_killed(
    machine: Machine, undisturbed: Machine, slurm: Callable[[], list[str]]
) -> None:
    process = machine.start(*SLURM, **{fakes.PACE: "5"})
    wait_for(lambda: list(machine.out.rglob("seed-*.json")))
    process.kill()
    process.wait()
    finished = {path: path.read_bytes() for path in machine.out.rglob("seed-*.json")}
    assert slurm()
    said = machine.run(*SLURM)
    assert "cancelled what an earlier driver left" in said
    assert {path: path.read_bytes() for path in finished} == finished
    assert machine.numbers() == undisturbed.numbers()
    assert slurm() == []


def test_slurm_says_what_sbatch_refuses(machine: Machine, slurm: Callable[[], list[str]]) -> None:
    said = machine.run("--backend", "slurm", "--slurm", "partition=nowhere", code=2)
    assert "sbatch refuses such a job" in said
    assert "partition" in said
    said = machine.run("--backend", "slurm", "--slurm", "partitoin=cpu", code=2)
    assert "did you mean 'partition'?" in said
    assert not machine.out.exists()

"""Slurm with a set that a stranger made: no pickle of it is read, no job of another's cancelled."""

from __future__ import annotations

import os
import pickle
import stat
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hostile.planted import Evil

from estbench.cli import main
from estbench.config.experiment import ExecutionSettings, TimingSettings
from estbench.core.errors import UserError
from estbench.runner.backends import slurm
from estbench.runner.backends.slurm import SlurmBackend
from estbench.runner.manifest import manifest

from . import slurm as cluster
from .conftest import Grid
from .processes import until

pytest.importorskip("submitit")

SETTINGS = ExecutionSettings(backend="slurm", jobs=1)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The programs of a Slurm of this machine, and a cache of one's own."""
    folder = cluster.install(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(slurm, "POLL_S", 0.1)
    return folder


@pytest.fixture
def others(programs: Path) -> Iterator[Callable[[int, str], subprocess.Popen[bytes]]]:
    """Puts a job of the user's into the queue that no driver submitted."""
    started = []

    def start(number: int, name: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(["sleep", "60"], start_new_session=True)
        (programs / "jobs" / str(number)).write_text(f"{process.pid} {name}")
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def cancelled(programs: Path) -> list[str]:
    log = programs / "cancelled.log"
    return log.read_text().split() if log.exists() else []


def driver(directory: Path, notes: list[str] | None = None) -> SlurmBackend:
    told = [] if notes is None else notes
    return SlurmBackend(SETTINGS, 1, directory, told.append)


def folders(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "estbench" / "slurm").glob("*"))


def test_a_pickle_in_a_result_set_never_runs_though_it_has_the_number_of_the_next_job(
    pool: Grid, programs: Path, tmp_path: Path
) -> None:
    mark = tmp_path / "it-ran"
    few = {"estimators": ("reinforce",), "also_measured": (), "seeds": (0,)}
    few |= {"tasks": ("expressions-3",), "timing": TimingSettings(rounds=0)}
    theirs = manifest(replace(pool.experiment, **few), "estbench run")  # type: ignore[arg-type]
    pool.results.write_manifest(theirs)
    for number in range(cluster.FIRST, cluster.FIRST + 4):
        for element in (str(number), f"{number}_0", f"{number}_1"):
            planted = pool.directory / "slurm" / element / f"{element}_0_result.pkl"
            planted.parent.mkdir(parents=True)
            planted.write_bytes(pickle.dumps(("success", Evil(mark))))
    pool.run(execution=SETTINGS, **few)
    assert not mark.exists()
    assert len(pool.numbers()) == 3
    assert folders(tmp_path) == []
    assert until(lambda: not cluster.queue(programs)), "what was cancelled takes a while to end"


def test_no_job_is_cancelled_because_a_result_set_names_it(
    programs: Path, others: Callable[[int, str], subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    ledger = tmp_path / "set" / "slurm" / "submitted.json"
    ledger.parent.mkdir(parents=True)
    ledger.write_text("[77, 78]")
    precious = [others(77, "precious"), others(78, "estbench")]
    driver(tmp_path / "set").close()
    assert cancelled(programs) == []
    assert [process.poll() for process in precious] == [None, None]


def test_what_a_killed_driver_left_on_this_set_is_cancelled_and_on_another_is_not(
    programs: Path, others: Callable[[int, str], subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    killed, elsewhere = driver(tmp_path / "set"), driver(tmp_path / "another")
    left, kept = others(77, killed._name), others(78, elsewhere._name)
    notes: list[str] = []
    driver(tmp_path / "set", notes)
    assert cancelled(programs) == [f"--name={killed._name}"]
    assert left.wait(5) < 0
    assert kept.poll() is None
    assert notes == [
        f"cancelled what an earlier driver left in Slurm's queue: jobs named {killed._name}"
    ]
    assert not killed._folder.exists()
    assert elsewhere._folder.exists()


def test_jobs_go_through_a_folder_that_is_new_random_and_the_users_alone(
    programs: Path, tmp_path: Path
) -> None:
    before = os.umask(0o002)
    try:
        one, other = driver(tmp_path / "set"), driver(tmp_path / "another")
    finally:
        os.umask(before)
    assert folders(tmp_path) == sorted([one._folder, other._folder])
    for folder in (one._folder, *one._folder.parents[:2]):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len(one._name) == len("estbench-") + 32
    assert not (tmp_path / "set").exists()
    one.close()
    assert folders(tmp_path) == [other._folder]


def test_jobs_go_through_no_folder_that_others_may_write_to(programs: Path, tmp_path: Path) -> None:
    open_to_all = tmp_path / "cache" / "estbench" / "slurm"
    open_to_all.mkdir(parents=True)
    open_to_all.chmod(0o777)
    with pytest.raises(UserError, match=r"others may write to it.*set XDG_CACHE_HOME"):
        driver(tmp_path / "set")


@pytest.mark.parametrize("program", slurm.PROGRAMS)
def test_a_program_of_slurms_that_is_missing_is_a_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    program: str,
) -> None:
    folder = cluster.install(tmp_path / "slurm", leave_out=program)
    monkeypatch.setenv("PATH", str(folder))
    words = ["run", "--preset", "smoke", "--backend", "slurm", "--out", str(tmp_path / "set")]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert f"--backend slurm: no {program} here" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "set").exists()

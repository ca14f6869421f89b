"""Disks that are full or read-only, two drivers at once, records of another version."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from runner import fakes

from estbench.cli import main

from .conftest import RECORDS, Machine, wait_for

Mount = Callable[..., Path]
MADE = ("tables", "figures", "report.html")  # by a report, from the records


def fill(disk: Path, free: int) -> None:
    """Leave so many bytes on a disk."""
    found = os.statvfs(disk)
    (disk / "ballast").write_bytes(bytes(max(found.f_bavail * found.f_frsize - free, 0)))


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a small file system of its own; skips where that is not allowed."""
    place = tmp_path / "disk"

    def make(options: str) -> Path:
        place.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(place)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no file system can be mounted here: {error}")
        return place

    yield make
    if place.is_mount():
        subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_ends_the_run_keeps_what_is_whole_and_goes_on_when_there_is_room(
    machine: Machine, undisturbed: Machine, mount: Mount
) -> None:
    disk = mount("size=40k")  # the manifest and some of the records
    machine.out = disk / "set"
    said = machine.run(code=3)
    assert "No space left on device; make room" in said, said
    kept = {path: path.read_bytes() for path in machine.out.rglob("seed-*.json")}
    assert 0 < len(kept) < RECORDS
    assert machine.numbers(), "no half file"
    assert not list(machine.out.rglob("*.tmp"))

    subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
    machine.run()
    assert {path: path.read_bytes() for path in kept} == kept, "not done again"
    assert machine.numbers() == undisturbed.numbers()


@pytest.mark.parametrize("words", [(), ("--tensorboard",), ("--latex",)], ids=" ".join)
@pytest.mark.parametrize("free", [0, 60_000, 200_000])
def test_a_report_on_a_full_disk_is_one_line(
    undisturbed: Machine,
    mount: Mount,
    words: tuple[str, ...],
    free: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    disk = mount("size=1m")
    shutil.copytree(undisturbed.out, disk / "set", ignore=shutil.ignore_patterns(*MADE))
    fill(disk, free)
    assert main(["report", str(disk / "set"), *words]) == 3
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith("estbench: cannot write ")
    assert "No space left on device" in said
    assert "Traceback" not in said
    assert not list(disk.rglob("*.tmp"))


def test_a_read_only_folder_is_refused_before_anything_is_done(
    machine: Machine, mount: Mount
) -> None:
    disk = mount("ro,size=1m")
    machine.out = disk / "set"
    said = machine.run(code=2)
    assert "Read-only file system" in said, said
    assert "give --out a folder you may write to" in said
    assert fakes.calls() == []


def test_of_a_folder_that_is_deleted_while_it_is_written_nothing_comes_back(
    machine: Machine,
) -> None:
    process = machine.start(**{fakes.PACE: "0.5"})
    wait_for(lambda: list(machine.out.rglob("seed-*.json")))
    while machine.out.exists():  # like rm -r, which a file that is written meanwhile stops
        shutil.rmtree(machine.out, ignore_errors=True)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 3, said
    assert said.splitlines()[-1].startswith(f"estbench: {machine.out} was deleted, moved")
    assert "Traceback" not in said, said
    assert len(fakes.calls()) < RECORDS
    assert not machine.out.exists()


def test_of_two_drivers_on_one_folder_the_second_is_refused(
    machine: Machine, undisturbed: Machine
) -> None:
    first = machine.start(**{fakes.PACE: "0.5"})
    wait_for(lambda: list(machine.out.rglob("seed-*.json")))
    said = machine.run(code=2)
    assert "another run is writing to" in said, said
    _, said = first.communicate(timeout=120)
    assert first.returncode == 0, said
    calls = fakes.calls()
    assert len(calls) == len(set(calls)), "nothing was done twice"
    assert machine.numbers() == undisturbed.numbers()


def test_what_another_version_made_is_refused_or_made_again_and_never_lost(
    machine: Machine, undisturbed: Machine
) -> None:
    shutil.copytree(undisturbed.out, machine.out)
    half = sorted(machine.out.rglob("seed-*.json"))[::2]
    for path in half:
        record = json.loads(path.read_bytes())
        record["key"] = "0" * 64  # what another version's settings hash to
        path.write_text(json.dumps(record))
    old = {path.relative_to(machine.out): path.read_bytes() for path in half}
    said = machine.run(code=2)
    assert "another version" in said, said
    assert "--renew" in said, said
    assert fakes.calls() == []

    machine.run("--renew")
    assert machine.numbers() == undisturbed.numbers()
    stale = machine.out / "stale"
    assert {path: (stale / path).read_bytes() for path in old} == old
    fakes.forget()
    machine.run()
    assert fakes.calls() == []

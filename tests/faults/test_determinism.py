"""The same grid of real runs has the same numbers however it is made: one hash says so."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

GRID = """
preset = "smoke"
tasks = ["expressions-3"]
estimators = ["rloo", "relax-rebar"]
also_measured = ["reinforce-critic"]
seeds = 2

[training]
data_size = 512
discriminator_updates = 2

[timing]
rounds = 0
"""


def words(grid: Path, out: Path, *more: str) -> list[str]:
    command = [sys.executable, "-m", "estbench", "run", str(grid), "--out", str(out)]
    return [*command, "--no-gate", "--no-live", *more]


def hash_of(out: Path) -> str:
    told = subprocess.run(
        [sys.executable, "-m", "estbench", "env", "--hash", str(out)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(told.stdout.split()[0]) == 64
    return told.stdout


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("grid") / "grid.toml"
    path.write_text(GRID)
    return path


@pytest.fixture(scope="module")
def expected(grid: Path) -> str:
    out = grid.parent / "one"
    subprocess.run(words(grid, out, "--jobs", "1"), capture_output=True, check=True)
    return hash_of(out)


@pytest.mark.parametrize("how", [["--jobs", "2"], ["--backend", "dask", "--jobs", "2"]])
def test_jobs_and_backend_change_no_number(
    grid: Path, expected: str, tmp_path: Path, how: list[str]
) -> None:
    subprocess.run(words(grid, tmp_path / "set", *how), capture_output=True, check=True)
    assert hash_of(tmp_path / "set") == expected


def test_kills_at_random_and_going_on_from_checkpoints_change_no_number(
    grid: Path, expected: str, tmp_path: Path
) -> None:
    out, chance = tmp_path / "set", random.Random(1)
    everywhere = os.environ | {"ESTBENCH_CHECKPOINT_S": "0"}
    seen = 0
    for _ in range(3):
        process = subprocess.Popen(
            words(grid, out, "--jobs", "2"),
            env=everywhere,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        until = time.monotonic() + 240
        while not list(out.rglob("*.pt")) and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(chance.uniform(0.0, 1.5))
        seen += len(list(out.glob("checkpoints/**/*.pt")))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert seen, "none was killed within a run"
    subprocess.run(words(grid, out), env=everywhere, capture_output=True, check=True)
    assert hash_of(out) == expected
    assert not list(out.glob("checkpoints/**/*.pt"))

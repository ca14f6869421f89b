"""A pickle may run any code. One in a result set, a cache or a working folder never does."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from runner import fakes
from runner.conftest import SMALL, Grid, Screen, without_processes

from estbench.cli import main
from estbench.core.errors import UserError
from estbench.proof import gate
from estbench.proof.memory import Memory
from estbench.runner import jobs
from estbench.store import ResultSet

from .planted import Evil

NAMES = (
    *("seed-000.json", "seed-000.pt", "seed-000.json.pkl", "000.json", "results.pickle", ".lock"),
    *("4100_0_0_result.pkl", "4100_submitted.pkl", "x.joblib", "x.npy", "runs.parquet", "x.tmp"),
)
FOLDERS = ("slurm/4100_0", "checkpoints/runs/expressions-3/rloo", "tables", "figures", "stale", ".")


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """The file that would be there if a pickle had run."""
    return tmp_path / "it-ran"


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def plant(root: Path, mark: Path) -> None:
    """Put pickles into every folder, beside the files that are there, under all sorts of names."""
    for folder in [p for p in root.rglob("*") if p.is_dir()] + [root / name for name in FOLDERS]:
        folder.mkdir(parents=True, exist_ok=True)
        for name in NAMES:
            if not (folder / name).exists():
                content = saved(Evil(mark)) if name.endswith(".pt") else pickle.dumps(Evil(mark))
                (folder / name).write_bytes(content)


def one_at_a_time(root: Path, mark: Path) -> Iterator[Path]:
    """Put a pickle in the place of each file in turn."""
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        before = path.read_bytes()
        path.write_bytes(pickle.dumps(Evil(mark)))
        yield path
        path.write_bytes(before)


def test_a_pickle_that_is_read_leaves_its_mark(mark: Path) -> None:
    pickle.loads(pickle.dumps(Evil(mark)))
    assert mark.exists()


def test_no_verb_runs_a_pickle_of_a_result_set(
    original: Path, tmp_path: Path, mark: Path, capsys: Any
) -> None:
    copied = Path(shutil.copytree(original, tmp_path / "set"))
    (copied / "runs").rename(copied / "kept")  # the tables are read in their place
    verbs = (
        ["report", str(copied)],
        ["compare", str(original), str(copied)],
        ["env", "--hash", str(copied)],
        ["run", "--preset", "smoke", "--out", str(copied)],
    )
    plant(copied, mark)
    for verb in verbs:
        assert main(verb) == 2, verb
    shutil.rmtree(copied)
    shutil.copytree(original, copied)
    for path in one_at_a_time(copied, mark):
        assert main(["env", "--hash", str(copied)]) in (0, 2)
        with suppress(UserError):
            ResultSet(copied).manifest()
        assert not mark.exists(), path
    capsys.readouterr()


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Grid:
    """A result set of jobs that compute nothing."""
    (tmp_path / "mischief").mkdir()
    monkeypatch.setenv(fakes.FOLDER, str(tmp_path / "mischief"))
    for name in ("train", "reference", "measure", "time_step", "warm_up"):
        monkeypatch.setattr(jobs, name, getattr(fakes, name))
    without_processes(monkeypatch)
    grid = Grid(SMALL, tmp_path / "set", Screen())
    grid.run(tasks=("expressions-3",))
    return grid


def test_a_run_that_goes_on_runs_no_pickle_though_its_hash_is_right(made: Grid, mark: Path) -> None:
    plant(made.directory, mark)
    for seed in SMALL.seeds:
        evil = saved(Evil(mark))
        made.results.state_path("expressions-3", seed).write_bytes(evil)
        path = made.results.reference_path("expressions-3", seed)
        record = json.loads(path.read_bytes()) | {"state_sha256": hashlib.sha256(evil).hexdigest()}
        path.write_text(json.dumps(record))
        made.results.snapshots_path("expressions-3", "rloo", seed).unlink()
    summary = made.run(tasks=("expressions-3",))
    assert not mark.exists()
    assert {failure.label for failure in summary.failures} == {
        f"expressions-3 rloo seed {seed} at the snapshots" for seed in SMALL.seeds
    }
    assert all("is not readable" in failure.error for failure in summary.failures)


def test_a_pickle_in_the_cache_is_no_verdict(
    tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    given = gate.Configuration("rloo", "p", 0, 0)
    for path in (gate._path(given), Memory("rloo", 0.02)._path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.write_bytes(pickle.dumps(Evil(mark)))
    plant(tmp_path / "cache", mark)
    assert gate.remembered(given) is None
    assert not Memory("rloo", 0.02).findings
    assert not mark.exists()


def test_workers_import_nothing_from_the_folder_in_which_the_command_is_typed(
    tmp_path: Path, mark: Path
) -> None:
    """A result set may hold an ``argparse.py``, and somebody may type ``estbench run --out .``."""
    (tmp_path / "set").mkdir()
    for name in ("argparse", "json", "pickle", "signal"):
        (tmp_path / "set" / f"{name}.py").write_text(f"open({str(mark)!r}, 'w')")
    script = tmp_path / "estbench-command"  # as it is installed: its own folder can be imported
    script.write_text(
        "import subprocess, sys\n"
        "from estbench.cli import main\n"
        "main()\n"
        "worker = 'joblib.externals.loky.backend.popen_loky_posix'\n"
        "subprocess.run([sys.executable, '-m', worker], stderr=subprocess.DEVNULL)\n"
    )
    path = {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(script), "--version"]
    subprocess.run(command, cwd=tmp_path / "set", env=os.environ | path, check=True)
    assert not mark.exists()

"""``run`` on a result set from elsewhere: it makes what is damaged again, and says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from runner import fakes
from runner.conftest import SMALL, Grid, Screen, without_processes

from estbench.core.errors import UserError
from estbench.runner import jobs
from estbench.store import ResultSet

from .conftest import replaced
from .mutations import documents
from .rule import answer, inputs

FILES = (
    "runs/expressions-3/reinforce/seed-000.json",
    "reference/expressions-3/seed-001.json",
    "snapshots/expressions-3/rloo/seed-000.json",
    "timing/000.json",
    "manifest.json",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A result set of jobs that compute nothing, and what makes more of it."""
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("made")
    (folder / "mischief").mkdir()
    patch.setenv(fakes.FOLDER, str(folder / "mischief"))
    for name in ("train", "reference", "measure", "time_step", "warm_up"):
        patch.setattr(jobs, name, getattr(fakes, name))
    without_processes(patch)
    grid = Grid(SMALL, folder / "set")
    grid.run()
    yield grid
    patch.undo()


@pytest.mark.parametrize("name", FILES)
def test_what_is_damaged_is_made_again_or_refused(made: Grid, tmp_path: Path, name: str) -> None:
    before = made.numbers()
    valid = json.loads((made.directory / name).read_bytes())
    copy = tmp_path / "set"

    @inputs(12)
    @given(content=documents(valid))
    def run(content: bytes) -> None:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(made.directory, copy)
        grid = Grid(SMALL, copy, Screen())
        with replaced(copy / name, content):
            found = answer("resumed", grid.run)
            if isinstance(found, UserError):
                assert str(copy) in str(found)
                return
            after = grid.numbers()
        assert after.keys() >= before.keys()
        same = [path for path in before if path != name]
        assert [after[path] for path in same] == [before[path] for path in same]

    run()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02cos\nsystem\n(S'x'\ntR."])
def test_states_that_were_exchanged_are_made_again(
    made: Grid, tmp_path: Path, content: bytes
) -> None:
    copy = Path(shutil.copytree(made.directory, tmp_path / "set"))
    results = ResultSet(copy)
    results.state_path("expressions-3", 0).write_bytes(content)
    results.snapshots_path("expressions-3", "rloo", 0).unlink()
    grid = Grid(SMALL, copy, Screen())
    grid.run()
    assert any("missing or damaged" in note for note in grid.screen.notes)
    assert grid.numbers() == made.numbers()

"""The hash of a grid's numbers depends on neither jobs nor order nor interruptions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from estbench.store.digest import digest

from . import fakes
from .conftest import Grid


def test_a_grid_has_one_hash_however_it_was_made(grid: Grid) -> None:
    grid.run()
    whole = digest(grid.directory)
    other = replace(grid, directory=grid.directory.with_name("piecemeal"))
    other.run(seeds=(1,), tasks=("oracle-small",), estimators=("rloo",), also_measured=())
    other.run(seeds=(1, 0), tasks=("expressions-3",))
    assert digest(other.directory) != whole
    other.run(workers=1)
    assert digest(other.directory) == whole
    assert whole.sha256 is not None


@pytest.mark.slow
def test_a_grid_in_worker_processes_has_the_same_hash(
    pool: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = set()
    for workers in (1, 2):
        own = replace(pool, directory=pool.directory.with_name(f"jobs-{workers}"))
        fakes.forget()
        own.run(workers=workers)
        hashes.add(digest(own.directory).sha256)
    assert len(hashes) == 1

"""Reading a result set of 200 runs: what a report, a hash and a run that finds all done begin with.

Whole reports of up to 10,000 runs are timed by ``python benchmarks/many_runs.py``.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from many_runs import donor, grid, simulate
from pytest_benchmark.fixture import BenchmarkFixture

from estbench.config.experiment import Experiment
from estbench.report.out.long import write_curves
from estbench.report.records import load
from estbench.runner.plan import Again, make_plan
from estbench.store import ResultSet
from estbench.store.digest import digest

TASKS = ("expressions-3", "bernoullis")

Set = tuple[Path, Experiment]


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Set:
    """A simulated set of 2 tasks, 10 estimators and 10 seeds."""
    folder, experiment = tmp_path_factory.mktemp("many"), grid(TASKS, 10, 10)
    donor(folder / "donor", TASKS)
    assert simulate(experiment, folder / "donor", folder / "set") == 200
    return folder / "set", experiment


def test_load(benchmark: BenchmarkFixture, held: Set) -> None:
    results = benchmark(load, held[0])
    assert len(results.runs) == 200


def test_write_curves(benchmark: BenchmarkFixture, held: Set, tmp_path: Path) -> None:
    results = load(held[0])
    paths = benchmark(write_curves, results, tmp_path)
    assert all(path.stat().st_size for path in paths)


def test_digest(benchmark: BenchmarkFixture, held: Set) -> None:
    assert benchmark(digest, held[0]).records == {"run": 200, "reference": 20, "snapshots": 200}


def test_plan_of_a_finished_grid(benchmark: BenchmarkFixture, held: Set) -> None:
    plan = benchmark(make_plan, held[1], ResultSet(held[0]), Again())
    assert plan.empty
    assert len(plan.ended) == 400

"""Result sets that the tests of the report share; written once a session."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from estbench import report

from .synthetic import write_result_set

FAILED = {("expressions-15", "relax", 3): "loss is nan at batch 17"}
MISSING = (("oracle-small", "rebar", 9), ("oracle-small", "rebar", 8))


@pytest.fixture(scope="session")
def bench_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bench-sized result set with one failed and two missing runs."""
    directory = tmp_path_factory.mktemp("bench")
    return write_result_set(directory, failed=FAILED, missing=MISSING)


@pytest.fixture(scope="session")
def bench_report(bench_set: Path) -> Path:
    """The same with its report, made without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", module="matplotlib")  # of its own dependencies
        report.build(bench_set)
    return bench_set


@pytest.fixture(scope="session")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds, one task, three batches: quick to report on."""
    directory = tmp_path_factory.mktemp("small")
    return write_result_set(
        directory,
        tasks=("expressions-3",),
        seeds=2,
        batches=3,
        rounds=2,
        also_measured=("reinforce-ema",),
    )

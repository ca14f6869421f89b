"""A result set without its records, as sets are published: the tables hold what they held."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from estbench.core.errors import UserError
from estbench.report import build
from estbench.report.records import TABLES, load


@pytest.fixture
def published(small_set: Path, tmp_path: Path) -> Path:
    """A set with a report, its records gone."""
    copy = tmp_path / "published"
    shutil.copytree(small_set, copy)
    build(copy)
    for kind in TABLES:
        shutil.rmtree(copy / kind)
    return copy


@pytest.mark.slow
def test_its_report_is_made_from_the_tables(published: Path) -> None:
    before = {path.name: path.read_bytes() for path in (published / "tables").glob("*.csv")}
    assert "sources.csv" in before
    shutil.rmtree(published / "figures")
    build(published)
    assert {name: (published / "tables" / name).read_bytes() for name in before} == before
    assert (published / "figures/sources.svg").exists()


def test_what_is_missing_there_stays_missing(small_set: Path, tmp_path: Path) -> None:
    published = Path(shutil.copytree(small_set, tmp_path / "published"))
    shutil.rmtree(published / "runs")
    assert set(load(published).runs["status"]) == {"missing"}
    build(published)
    # Tables of a set that had no runs are no source of them.
    assert set(load(published).runs["status"]) == {"missing"}


def test_a_damaged_table_is_named(published: Path) -> None:
    (published / "tables" / "curves.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match="damaged"):
        load(published)

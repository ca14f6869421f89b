"""A result set without its run files, as sets are published: the tables hold what they held."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from estbench.core.errors import UserError
from estbench.report import build
from estbench.report.records import load


@pytest.fixture
def published(small_set: Path, tmp_path: Path) -> Path:
    """A set with a report, its run files gone."""
    copy = tmp_path / "published"
    shutil.copytree(small_set, copy)
    build(copy)
    shutil.rmtree(copy / "runs")
    return copy


@pytest.mark.slow
def test_its_report_is_made_from_the_tables(published: Path) -> None:
    names = ("runs", "curves", "variance", "timing")
    before = {name: pd.read_parquet(published / "tables" / f"{name}.parquet") for name in names}
    summary = (published / "tables" / "summary.csv").read_bytes()
    build(published)
    for name, frame in before.items():
        again = pd.read_parquet(published / "tables" / f"{name}.parquet")
        pd.testing.assert_frame_equal(again, frame)
    assert (published / "tables" / "summary.csv").read_bytes() == summary


def test_what_is_missing_there_stays_missing(published: Path) -> None:
    shutil.rmtree(published / "tables")
    assert set(load(published).runs["status"]) == {"missing"}
    build(published)
    # Tables of a set that had no runs are no source of them.
    assert set(load(published).runs["status"]) == {"missing"}


def test_a_damaged_table_is_named(published: Path) -> None:
    (published / "tables" / "curves.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match="damaged"):
        load(published)

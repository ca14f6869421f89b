"""A report is made anew where anything that it is made of or by is newer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from estbench.report.freshness import is_current

RECORD = Path("runs", "expressions-3", "rloo", "seed-000.json")


@pytest.fixture
def reported(tmp_path: Path) -> Path:
    for name in ("report.html", "tables/summary.csv", "manifest.json", str(RECORD)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    later(tmp_path / "report.html", 1)
    return tmp_path


def later(path: Path, seconds: int) -> None:
    now = path.stat().st_mtime
    os.utime(path, (now + seconds, now + seconds))


def test_a_report_after_all_records_is_current(reported: Path) -> None:
    assert is_current(reported)


@pytest.mark.parametrize("name", ["manifest.json", str(RECORD)])
def test_what_changed_since_makes_it_old(reported: Path, name: str) -> None:
    later(reported / name, 2)
    assert not is_current(reported)


def test_a_newer_record_of_any_kind_makes_it_old(reported: Path) -> None:
    path = reported / "timing" / "000.json"
    path.parent.mkdir()
    path.write_text("")
    later(path, 2)
    assert not is_current(reported)


def test_another_version_of_the_report_makes_it_old(reported: Path) -> None:
    os.utime(reported / "report.html", (1e9, 1e9))
    for path in (reported / "manifest.json", reported / RECORD):
        os.utime(path, (9e8, 9e8))
    assert not is_current(reported), "this package's files are of after 2001"


def test_the_report_of_a_grid_that_went_on_is_not_its_last(reported: Path) -> None:
    (reported / "report.html").write_text('<meta http-equiv="refresh" content="15">')
    later(reported / "report.html", 1)
    assert not is_current(reported)


@pytest.mark.parametrize("name", ["report.html", "tables/summary.csv"])
def test_a_report_that_is_not_whole_is_not_current(reported: Path, name: str) -> None:
    (reported / name).unlink()
    assert not is_current(reported)

"""What is packed, and what is installed with it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_source_archive_holds_what_builds_and_tests_in_less_than_a_megabyte(
    tmp_path: Path,
) -> None:
    reason = "hatchling, which builds the archive, is not installed"
    sdist = pytest.importorskip("hatchling.builders.sdist", reason=reason)
    builder = sdist.SdistBuilder(str(ROOT))
    tops = {Path(file.distribution_path).parts[0] for file in builder.recurse_included_files()}
    assert {"estbench", "tests", "benchmarks", "docs", "examples", "constraints.txt"} <= tops
    assert not tops & {"results", ".venv", ".ci"}
    (archive,) = builder.build(directory=str(tmp_path))
    assert Path(archive).stat().st_size < 1_000_000


def test_development_refers_to_the_extras_and_repeats_none_of_their_packages() -> None:
    extras = dict(PROJECT["optional-dependencies"])
    first, *own = extras.pop("dev")
    assert first == f"estbench[{','.join(extras)}]"

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[<>=\[]", requirement)[0] for requirement in requirements}

    assert not names(own) & names([package for extra in extras.values() for package in extra])

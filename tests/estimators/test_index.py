"""The pages on estimators name what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from estbench import estimators
from estbench.index import FILES, index

PAGES = Path(__file__).parents[2] / "docs" / "estimators"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_is_generated_is_up_to_date(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == FILES[path](), "type: python -m estbench.index"


def test_every_estimator_stands_in_the_table_once() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|", index(), flags=re.MULTILINE)
    own = [
        name
        for name in estimators.names()
        if type(estimators.make(name)).__module__.startswith("estbench.estimators.")
    ]
    assert sorted(rows) == sorted(own)


def test_every_relaxed_and_control_estimator_is_described() -> None:
    for page, modules in (("relaxed.md", ["relaxed"]), ("controls.md", ["perturbation", "exact"])):
        text = (PAGES / page).read_text()
        for name in estimators.names():
            if type(estimators.make(name)).__module__.rpartition(".")[2] in modules:
                assert f"`{name}`" in text, f"{page} lacks {name}"

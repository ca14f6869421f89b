"""docs/trainer-losses.md: every loss on the page has the verdict that its row gives."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from estbench.estimators.recipes import ARGUMENTS
from estbench.meter.bias import Plan

ROOT = Path(__file__).parents[2]


def _script() -> Any:
    name, file = "trainer_losses", ROOT / "benchmarks" / "trainer_losses.py"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where its dataclass looks for its own names
    spec.loader.exec_module(module)
    return module


page = _script()
CASES = list(page.cases())
ROWS = re.findall(r"^\| `\w+` \| \d.*$", page.PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def most_biased(index: int) -> str:
    """Return the problem on which the page gives a row its largest bias."""
    cells = ROWS[index].split("|")[3:-2]
    sizes = [0.0 if "<" in cell else float(cell.partition("%")[0]) for cell in cells]
    problems: tuple[str, ...] = CASES[index].problems
    return problems[sizes.index(max(sizes))]


@pytest.mark.sentinel
@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda i: CASES[i].name)
def test_a_loss_on_the_page_has_the_verdict_of_its_row(index: int) -> None:
    case = CASES[index]
    if case.verdict == "biased":
        name, wanted, margin = most_biased(index), "biased", 0.02
    else:  # where sequences differ in length, most losses are wrong
        name, wanted, margin = case.problems[len(case.problems) // 2], "unbiased", 0.05
    found = page.measured(case, name, Plan(first=24_576, margin=margin))
    assert found.verdict == wanted, str(found)


@pytest.mark.sentinel
def test_every_loss_on_the_page_has_a_row() -> None:
    defined = {
        name
        for name, value in page.losses().items()
        if getattr(value, "__code__", None) and value.__code__.co_varnames[:4] == ARGUMENTS
    }
    assert defined == {case.name for case in CASES}

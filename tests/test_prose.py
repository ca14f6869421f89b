"""Numbers in README.md, docs/ and examples/ are those of the code.

`71 estimators <!-- count: estimators -->` holds the last number before the mark, in digits or as a
word, to `COUNTS["estimators"]`. A page does not show the mark. Another kind of number gets another
word before the colon, and a dictionary of its own in `KINDS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from estbench import estimators, presets
from estbench.proof.problems import PROBLEMS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "examples/README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WORDS = {
    word: number
    for number, word in enumerate(
        ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"], 1
    )
}
NUMBER = re.compile(rf"\b(?:\d[\d,]*|{'|'.join(WORDS)})\b", re.IGNORECASE)
# How many lines an example has or how many estimators the catalogue has, said without a mark.
UNMARKED = re.compile(
    r"own_\w+\.py[^.]{0,60}?\b\w+ lines\b(?!\s*<!--)"
    r"|catalogue, \w+ estimators\b(?!\s*<!--)"
)


def _estimators() -> int:
    # Without those that a plugin of another test registered.
    made = (estimators.make(name) for name in estimators.names())
    return sum(type(one).__module__.startswith("estbench.") for one in made)


def _lines(path: str) -> Callable[[], int]:
    return lambda: len((ROOT / path).read_text(encoding="utf-8").splitlines())


COUNTS: Mapping[str, Callable[[], int]] = {
    "estimators": _estimators,
    "problems of the check": lambda: len(PROBLEMS),
    "tasks of the preset catalogue": lambda: len(presets.preset("catalogue").tasks),
    "seeds of the preset catalogue": lambda: len(presets.preset("catalogue").seeds),
    "seeds of the preset paper": lambda: len(presets.preset("paper").seeds),
    "lines of examples/own_estimator.py": _lines("examples/own_estimator.py"),
}
KINDS = {"count": COUNTS}
MARK = re.compile(rf"<!-- ({'|'.join(KINDS)}): ([^>]*?) -->")


def number_before(text: str) -> int:
    """Return the last number of a text."""
    found = NUMBER.findall(text)
    assert found, f"no number before the mark: ...{text!r}"
    last = found[-1].lower()
    return WORDS[last] if last in WORDS else int(last.replace(",", ""))


def wrong(text: str) -> list[str]:
    """Return what a page's marks find wrong, a line each."""
    said = []
    for mark in MARK.finditer(text):
        kind, name = mark.groups()
        if name not in KINDS[kind]:
            said.append(f"{mark[0]}: no such number")
            continue
        number = number_before(text[max(0, mark.start() - 80) : mark.start()])
        if number != (right := KINDS[kind][name]()):
            said.append(f"{mark[0]}: the page says {number}, the code {right}")
    return said


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_marked_numbers_are_those_of_the_code(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert wrong(text) == []
    assert [claim[0] for claim in UNMARKED.finditer(text)] == []


def test_every_count_is_said_somewhere() -> None:
    said = {m.groups() for path in PAGES for m in MARK.finditer(path.read_text(encoding="utf-8"))}
    assert {("count", name) for name in COUNTS} == said


def test_a_wrong_number_and_an_unknown_mark_are_found() -> None:
    count = COUNTS["problems of the check"]()
    assert wrong(f"all {count} problems <!-- count: problems of the check -->") == []
    assert "the code" in wrong("9,999 problems <!-- count: problems of the check -->")[0]
    assert "the page says 3" in wrong("Three problems <!-- count: problems of the check -->")[0]
    assert "no such number" in wrong("3 <!-- count: nothing -->")[0]

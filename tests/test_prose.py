"""Numbers in README.md, docs/ and examples/ are those of the code.

`71 estimators <!-- count: estimators -->` compares the last number before the mark, in digits or as
a word, with `COUNTS["estimators"]`.

`0.40 [0.38, 0.43] <!-- cell: SET TABLE estimator=relax ... scope=trajectory: estimate low high -->`
compares the last numbers before the mark with columns of the one row of
results/reference/SET/tables/TABLE.parquet that the filter leaves, at the printed digits. Some words
are no columns of the table:

* `span`: two numbers, the smallest and the largest ratio at an informative snapshot (`ratios`).
* `noise`: two numbers, the smallest and the largest part of a step that is noise, in per cent, over
  the informative snapshots (`variance`).
* `survives`, `fragile`: no number; the verdict does, or does not, survive leaving out any snapshot.
* `nothing`: no number; heavy tails on both sides leave no statement.

A page does not show the marks.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from estbench import estimators
from estbench.config import presets
from estbench.core.registry import TASKS
from estbench.proof.problems import PROBLEMS
from estbench.report.out.spreadsheet import csv_text

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "examples/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
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


def _cases(module: str, name: str) -> Callable[[], int]:
    """Return how to count the cases of a table that tests are made of."""
    return lambda: len(getattr(import_module(module), name))


COUNTS: Mapping[str, Callable[[], int]] = {
    "estimators": _estimators,
    "problems of the check": lambda: len(PROBLEMS),
    "tasks of the set catalogue": lambda: len(
        {row["task"] for row in table("catalogue/tables/ratios.parquet")}
    ),
    "seeds of the preset catalogue": lambda: len(presets.preset("catalogue").seeds),
    "seeds of the preset paper": lambda: len(presets.preset("paper").seeds),
    "lines of examples/own_estimator.py": _lines("examples/own_estimator.py"),
    "phases that are stopped": _cases("faults.test_stops", "PHASES"),
    "cases of exit codes": _cases("test_cli", "CODES"),
}
MARK = re.compile(r"<!-- (count|cell): ([^>]*?) -->")
RESULTS = ROOT / "results/reference"
Row = Mapping[str, str]
# On these pages every interval and every bound is held to its table.
RATIO_PAGES = [
    ROOT / "README.md",
    *(
        ROOT / f"docs/{name}.md"
        for name in ("paper", "tutorial", "which-estimator", "defaults", "language-models")
    ),
]
LOOSE = re.compile(
    r"(?:\d \[-?\d[\d.]*, \d[\d.]*\]|at (?:least|most) \d+\.\d+)(?![^|<\[\n]{0,60}<!-- cell)"
)
DECIMAL = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?")


def wrong_count(name: str, text: str) -> str:
    """Return what is wrong with the number at the end of a text, "" if nothing is."""
    if name not in COUNTS:
        return "no such number"
    found = NUMBER.findall(text[-80:])
    assert found, f"no number before the mark: ...{text[-80:]!r}"
    last = found[-1].lower()
    number = WORDS[last] if last in WORDS else int(last.replace(",", ""))
    right = COUNTS[name]()
    return "" if number == right else f"the page says {number}, the code {right}"


@cache
def table(name: str) -> list[Row]:
    """Return the rows of a table, with the texts that its CSV has."""
    return list(csv.DictReader(io.StringIO(csv_text(pd.read_parquet(RESULTS / name)))))


def wrong_cell(name: str, text: str) -> str:
    """Return what is wrong with the numbers at the end of a text, "" if nothing is."""
    where, columns = name.split(": ")
    folder, stem, *conditions = where.split()
    wanted = dict(condition.split("=") for condition in conditions)
    rows = [
        row
        for row in table(f"{folder}/tables/{stem}.parquet")
        if all(row[key] == value for key, value in wanted.items() if key != "scope")
    ]
    right: list[float] = []
    for column in columns.split():
        if column in ("span", "noise"):
            right += RANGES[column](rows)
            continue
        own = [row for row in rows if row.get("scope") == wanted.get("scope")]
        if len(own) != 1:
            return f"{len(own)} rows"
        (row,) = own
        bound = row.get("bound", "")
        if column in ("survives", "fragile"):
            if row["survives"] != str(column == "survives"):
                return f"survives is {row['survives']}"
        elif column == "nothing":
            if bound != "none":
                return f"the bound is {bound!r}"
        elif column in ("estimate", "low", "high") and column not in PRINTED[bound]:
            return f"a {bound} bound has no {column}"
        else:
            right.append(float(row[column]))
    said = DECIMAL.findall(MARK.sub("", text[-400:]))[-len(right) :] if right else []
    if len(said) == len(right) and all(map(rounds_to, right, said)):
        return ""
    return f"the page says {' '.join(said)}, the table {' '.join(f'{x:.4g}' for x in right)}"


def rounds_to(value: float, printed: str) -> bool:
    """Whether a value, rounded to the digits of a printed number, is that number."""
    digits, _, exponent = printed.replace(",", "").partition("e")
    unit = 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2]))
    return abs(value - float(printed.replace(",", ""))) <= 0.5001 * unit


def span(rows: list[Row]) -> list[float]:
    at = [
        float(row["estimate"])
        for row in rows
        if row["scope"] != "trajectory" and row["informative"] == "True"
    ]
    return [min(at), max(at)]


def noise(rows: list[Row]) -> list[float]:
    """As the report: geometric means over seeds of the noise scale, snapshot by snapshot."""
    scales: dict[str, list[float]] = {}
    for row in rows:
        if row["informative"] == "True":
            # 1 / useful share is 1 + noise scale / batch.
            relative = 1.0 / float(row["useful_share"]) - 1.0
            scales.setdefault(row["snapshot"], []).append(math.log(relative))
    means = [math.exp(sum(logs) / len(logs)) for logs in scales.values()]
    parts = [100.0 * mean / (1.0 + mean) for mean in means]
    return [min(parts), max(parts)]


RANGES = {"span": span, "noise": noise}
# What a report prints of a ratio under each bound by heavy tails.
PRINTED = {"": ("estimate", "low", "high"), "lower": ("low",), "upper": ("high",), "none": ()}
KINDS: Mapping[str, Callable[[str, str], str]] = {"count": wrong_count, "cell": wrong_cell}


def wrong(text: str) -> list[str]:
    """Return what a page's marks find wrong, a line each."""
    said = []
    for mark in MARK.finditer(text):
        kind, name = mark.groups()
        try:
            found = KINDS[kind](" ".join(name.split()), text[: mark.start()])
        except (KeyError, OSError) as error:
            found = f"no such table or column, {error}"
        if found:
            said.append(f"{mark[0]}: {found}")
    return said


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_marked_numbers_are_those_of_the_code(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert wrong(text) == []
    assert [claim[0] for claim in UNMARKED.finditer(text)] == []


@pytest.mark.parametrize(
    "path", sorted(RESULTS.glob("*/manifest.json")), ids=lambda p: p.parent.name
)
def test_a_committed_set_says_the_command_that_the_docs_give(path: Path) -> None:
    words = json.loads(path.read_text(encoding="utf-8"))["command"].split()
    name = path.parent.name
    assert words[words.index("--preset") + 1] == name
    assert words[words.index("--out") + 1] == f"results/reference/{name}"


def test_every_count_is_said_somewhere() -> None:
    marks = {m.groups() for path in PAGES for m in MARK.finditer(path.read_text(encoding="utf-8"))}
    assert {name for kind, name in marks if kind == "count"} == set(COUNTS)


@pytest.mark.parametrize("path", RATIO_PAGES, ids=lambda path: path.name)
def test_every_interval_and_bound_is_held_to_a_table(path: Path) -> None:
    assert LOOSE.findall(path.read_text(encoding="utf-8")) == []


def test_a_wrong_number_and_an_unknown_mark_are_found() -> None:
    count = COUNTS["problems of the check"]()
    assert wrong(f"all {count} problems <!-- count: problems of the check -->") == []
    assert "the code" in wrong("9,999 problems <!-- count: problems of the check -->")[0]
    assert "the page says 3" in wrong("Three problems <!-- count: problems of the check -->")[0]
    assert "no such number" in wrong("3 <!-- count: nothing -->")[0]


RATIOS = """estimator,scope,informative,estimate,low,high,survives,bound
relax,trajectory,True,0.404,0.377,0.434,True,
relax,0,False,7.1e6,5e6,9e6,,
relax,29,True,0.768,0.7,0.8,,
relax,58,True,0.204,0.2,0.3,,
rebar,trajectory,True,2.13,0.33,13.7,False,lower
"""


def test_cells_are_compared_at_the_printed_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "set/tables").mkdir(parents=True)
    frame = pd.read_csv(io.StringIO(RATIOS), dtype={"bound": str})
    frame.to_parquet(tmp_path / "set/tables/ratios.parquet", index=False)
    monkeypatch.setitem(globals(), "RESULTS", tmp_path)
    table.cache_clear()

    def said(text: str, estimator: str, columns: str, scope: str = "trajectory") -> str:
        mark = f"<!-- cell: set ratios estimator={estimator} scope={scope}: {columns} -->"
        return "".join(wrong(f"T = 3: {text} {mark}")).removeprefix(f"{mark}: ")

    plain = "estimate low high span survives"
    assert said("0.40 [0.38, 0.43], 0.2 to 0.77", "relax", plain) == ""
    assert said("0.41 [0.38, 0.43], 0.2 to 0.77", "relax", plain).startswith("the page says 0.41")
    assert said("7.1e6", "relax", "estimate", scope="0") == ""
    assert said("7,100,000", "relax", "estimate", scope="0") == ""
    assert said("at least 0.33", "rebar", "low fragile") == ""
    assert said("2.1", "rebar", "estimate") == "a lower bound has no estimate"
    assert said("", "rebar", "survives") == "survives is False"
    assert said("", "rebar", "nothing") == "the bound is 'lower'"
    assert said("0.40", "relax", "speed").startswith("no such table or column")
    assert said("0.40", "arm", "estimate") == "0 rows"
    assert said("0.40", "relax", "estimate", scope="117") == "0 rows"
    table.cache_clear()


def test_a_loose_interval_or_bound_is_found() -> None:
    for text in ("`relax` has 0.40 [0.38, 0.43] of it", "at least 0.89 of it"):
        assert LOOSE.search(text)
        assert not LOOSE.search(text.replace(" of it", " <!-- cell: x -->"))


def test_every_column_of_a_table_is_explained() -> None:
    page = (ROOT / "docs/result-files.md").read_text(encoding="utf-8")
    common, *sections = page.split("\n## ")

    def named(text: str) -> set[str]:
        return set(
            re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)))
        )

    said = {
        name: named(common) | named(section)
        for section in sections
        for name in section.partition("\n")[0].split(", ")
    }
    tasks = [TASKS.info(TASKS.entries[name]) for name in TASKS.own_names()]
    metrics = {metric for task in tasks for metric in task.metrics}
    for path in sorted(RESULTS.glob("*/tables/*.parquet")):
        columns = pq.read_schema(path).names
        if path.stem == "runs":  # then follow final metrics, of the task and of what is learned
            columns = columns[: columns.index("peak_mb") + 1] + [c for c in columns if c in metrics]
        assert set(columns) - said[path.stem] - metrics == set(), path

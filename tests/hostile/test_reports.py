"""Whole reports of records from elsewhere: text is text on the page, in figures, CSV and LaTeX."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from estbench.cli import main
from estbench.store.schema import check_record

from .mutations import NAMES, odd_numbers
from .rule import in_time, inputs, tally

RECORDS = (
    "runs/oracle-small/reinforce/seed-000.json",
    "snapshots/oracle-small/rloo/seed-001.json",
    "timing/001.json",
)
EVIL = [
    "<script>alert(1)<",
    '"><img src=x onerror=alert(1)>',
    "--><svg onload=alert(1)>",
    '=HYPERLINK("http:x")',
    "@SUM(A1)",
    "$\\frac{1}{$",
    "{{ 7*7 }}",
    "[bold red]markup[",
    "%\\input{x}",
]
TEXTS = [*NAMES, *EVIL, "</pre><script>alert(2)</script>", "\x1b[2J\x1b]0;x\x07"]


class Elements(HTMLParser):
    """Counts what could run or load something."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts = 0
        self.bad: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        if tag in ("img", "iframe", "object", "embed", "base", "form"):
            self.bad.append(tag)
        for name, value in attrs:
            wild = name.startswith("on") or "javascript:" in (value or "").lower()
            if wild or (name == "src" and value):
                self.bad.append(f"{tag} {name}={value}")


def renamed(directory: Path, target: Path, old: str, new: str) -> Path:
    """A copy in which an estimator has another name, as a folder too."""
    shutil.copytree(directory, target)
    for path in target.rglob("*.json"):
        path.write_text(path.read_text().replace(json.dumps(old), json.dumps(new)))
    for folder in target.glob(f"*/*/{old}"):
        folder.rename(folder.with_name(new))
    return target


def contents(root: Path, leave_out: Path) -> dict[str, str]:
    """The hash of every file beside the result set."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and not path.is_relative_to(leave_out)
    }


def report(directory: Path, capsys: Any, *more: str) -> str:
    """Report on a set, check every file that comes of it, and return what was printed."""
    beside = contents(directory.parent, directory)
    tally["whole reports"] += 1
    with in_time(), warnings.catch_warnings():
        warnings.simplefilter("error")
        code = main(["report", str(directory), *more])
    said = capsys.readouterr()
    text = said.out + said.err
    assert code in (0, 2), text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", text), ascii(text)
    assert contents(directory.parent, directory) == beside
    if code == 2:
        tally["whole reports refused"] += 1
        assert len(said.err.splitlines()) == 1, said.err
        return text
    check_page(directory / "report.html")
    check_files(directory)
    return text


def check_page(path: Path) -> None:
    found = Elements()
    page = path.read_text(encoding="utf-8")
    found.feed(page)
    assert found.scripts == 1, "the page's own"
    assert found.bad == []


def check_files(directory: Path) -> None:
    for path in directory.rglob("*.svg"):
        names = {element.tag.rpartition("}")[2] for element in ElementTree.parse(path).iter()}
        assert not names & {"script", "image", "foreignObject", "a"}, path
    for cell in cells(directory):
        assert not cell.startswith(("=", "+", "@", "-", "\t")) or is_number(cell), cell
    for path in directory.rglob("*.tex"):
        text = path.read_text(encoding="ascii")
        commands = set(re.findall(r"\\([A-Za-z]+)", text.split("\n", 2)[2]))
        assert not commands & {"input", "write", "def", "include", "frac"}, path


def cells(directory: Path) -> Iterator[str]:
    for path in directory.rglob("*.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.reader(file):
                yield from row


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("name", EVIL[::3])
def test_a_name_is_text_wherever_it_is_shown(
    original: Path, tmp_path: Path, capsys: Any, name: str
) -> None:
    directory = renamed(original, tmp_path / "set", "rloo", name)
    said = report(directory, capsys, "--latex")
    assert (directory / "report.html").exists(), said
    assert name[:10] in said


def test_numbers_stay_numbers_in_csv(original: Path, tmp_path: Path, capsys: Any) -> None:
    directory = shutil.copytree(original, tmp_path / "set")
    path = directory / RECORDS[0]
    record = json.loads(path.read_bytes())
    record["final"]["=metric"] = -0.25
    path.write_text(json.dumps(record))
    report(directory, capsys)
    with (directory / "tables" / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert "-0.25" in {row["'=metric"] for row in rows}


def test_a_report_of_odd_numbers_is_made(original: Path, tmp_path: Path, capsys: Any) -> None:
    directory = shutil.copytree(original, tmp_path / "set")

    @inputs(3)
    @given(data=st.data(), name=st.sampled_from(RECORDS))
    def run(data: st.DataObject, name: str) -> None:
        path = directory / name
        before = path.read_bytes()
        record = data.draw(odd_numbers(json.loads(before)))
        if record["status"] == "ok" and data.draw(st.booleans()):
            record |= failure(data)
        path.write_text(json.dumps(record))
        said = report(directory, capsys)
        path.write_bytes(before)
        if "estbench: " in said:
            with pytest.raises(ValueError, match=r"."):
                check_record(record)

    run()


def failure(data: st.DataObject) -> dict[str, Any]:
    """What makes a record a failed one, in anybody's words."""
    words = st.sampled_from(TEXTS)
    error = {name: data.draw(words) for name in ("type", "message", "traceback")}
    return {"status": "failed", "error": error}

"""``compare``, and ``report --tensorboard``, of a set in which a file came from elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from estbench.cli import main

from .conftest import replaced
from .mutations import documents, odd_numbers
from .rule import check_line, in_time, inputs, tally

FILES = (
    "runs/oracle-small/reinforce/seed-000.json",
    "snapshots/oracle-small/rloo/seed-001.json",
    "timing/001.json",
    "manifest.json",
)


def said(kind: str, words: list[str], capsys: Any) -> str:
    """What a verb printed on the standard output; an error is one line."""
    tally[kind] += 1
    with in_time():
        code = main(words)
    printed = capsys.readouterr()
    assert code in (0, 1, 2)
    if code == 2:
        tally[f"{kind} refused"] += 1
        assert len(printed.err.splitlines()) == 1, printed.err
        check_line(printed.err)
    return str(printed.out)


@pytest.mark.parametrize("name", FILES)
def test_a_comparison_is_made_or_refused(
    original: Path, tmp_path: Path, capsys: Any, name: str
) -> None:
    other = Path(shutil.copytree(original, tmp_path / "other"))

    @inputs(6)
    @given(content=documents(json.loads((original / name).read_bytes())))
    def run(content: bytes) -> None:
        with replaced(other / name, content):
            text = said("compared", ["compare", str(original), str(other), "--json"], capsys)
        if text:
            json.loads(text)

    run()


@pytest.mark.parametrize("name", [FILES[0], FILES[3]])
def test_event_files_are_written_inside_or_not_at_all(
    original: Path, tmp_path: Path, capsys: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.setattr("estbench.commands._report", lambda directory, latex: None)
    other = Path(shutil.copytree(original, tmp_path / "other"))

    valid = json.loads((original / name).read_bytes())
    odd = odd_numbers(valid).map(lambda document: json.dumps(document).encode())

    @inputs(12)
    @given(content=documents(valid) | odd)
    def run(content: bytes) -> None:
        with replaced(other / name, content):
            said("event files", ["report", str(other), "--tensorboard"], capsys)
        assert [path.name for path in tmp_path.iterdir()] == ["other"]

    run()

"""``compare``, and ``report --tensorboard``, of a set in which a file came from elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from estbench.cli import main
from estbench.store import SCHEMA

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


READERS = {
    "report": lambda set_, other: ["report", set_],
    "hash": lambda set_, other: ["env", "--hash", set_],
    "compare A": lambda set_, other: ["compare", set_, other],
    "compare B": lambda set_, other: ["compare", other, set_],
    "run": lambda set_, other: ["run", "--preset", "smoke", "--out", set_],
}
READ = {"hash": (FILES[0], FILES[1], FILES[3]), "run": FILES[3:]}
"""What a verb reads of ``FILES``: a hash holds no times, a run with other settings ends early."""


@pytest.mark.parametrize(
    ("verb", "name"), [(verb, name) for verb in READERS for name in READ.get(verb, FILES)]
)
def test_what_a_newer_version_made_is_refused_with_one_plain_line_by_every_verb(
    original: Path, tmp_path: Path, capsys: Any, verb: str, name: str
) -> None:
    other = Path(shutil.copytree(original, tmp_path / "other"))
    document = json.loads((other / name).read_bytes())
    newer = {"schema": SCHEMA + 1, "laid out": "in another way"}
    if name != "manifest.json":
        newer |= {key: document[key] for key in ("kind", "task", "estimator", "seed")}
    (other / name).write_text(json.dumps(newer))
    assert main(READERS[verb](str(other), str(original))) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{other / name} was made by a newer version (schema {SCHEMA + 1};" in said
    assert said.endswith(f"reads up to {SCHEMA}): update estbench\n")


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
    monkeypatch.setattr("estbench.cli.commands._report", lambda directory, latex: None)
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

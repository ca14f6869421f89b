"""The list of estimators, on terminals of every width and as JSON."""

from __future__ import annotations

import dataclasses
import json

import pytest
from rich.console import Console

from estbench import estimators, listing
from estbench.cli import main
from estbench.estimators.base import EstimatorInfo


@pytest.mark.parametrize("width", [60, 80, 120, 160, 220])
def test_names_and_properties_are_readable_at_any_width(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(listing, "console", lambda: Console(width=width))
    assert listing.listing("estimators", as_json=False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines) <= width
    shown = [line.split()[0] for line in lines if line[:1].strip()]
    assert set(estimators.names()) <= set(shown)
    text = " ".join(" ".join(line.split()) for line in lines)
    assert "2T relaxed" in text
    assert ("Jang et al. 2017" in text) == (width >= 150), "the paper has a column where it fits"


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("what", ["tasks", "presets"])
def test_no_name_is_broken(
    what: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(listing, "console", lambda: Console(width=width))
    assert listing.listing(what, as_json=False) == 0
    words = {word.strip(",;") for word in capsys.readouterr().out.split()}
    assert {"expressions-3", "expressions-15", "oracle-small"} <= words


def test_evaluations_are_said_in_words() -> None:
    info = EstimatorInfo("x", "", "")
    for hard, relaxed, said in (
        ("1", "0", "1"),
        ("0", "1", "1 relaxed"),
        ("1", "2T", "1 + 2T relaxed"),
        ("V^T / n", "0", "V^T / n"),
    ):
        found = dataclasses.replace(info, hard_evals=hard, relaxed_evals=relaxed)
        assert listing.evaluations(found) == said


def test_json_has_all_that_is_declared(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "estimators", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == estimators.names()
    fields = {field.name for field in dataclasses.fields(EstimatorInfo)}
    assert all(set(row) == fields for row in rows)

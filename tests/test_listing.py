"""The list of estimators, on terminals of every width and as JSON."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import subprocess
import sys

import pytest
from rich.console import Console

from estbench import estimators
from estbench.cli import listing, main
from estbench.core import registry
from estbench.core.registry import Registry
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


@pytest.mark.parametrize("width", [60, 80])
def test_a_family_is_listed_once_with_how_other_sizes_are_called(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(listing, "console", lambda: Console(width=width))
    assert listing.listing("estimators", as_json=False) == 0
    text = " ".join(capsys.readouterr().out.split())
    families = [name for name in estimators.names() if estimators.info(name).any_group]
    assert {"rloo", "grpo", "reinforce-standardised", "rodeo", "opo", "ppo-clip"} <= set(families)
    for name in families:
        assert f"(any K: {name}-K" in text
    assert text.count("any K:") == len(families)


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
    for hard, relaxed, said in (
        ("1", "0", "1"),
        ("0", "1", "1 relaxed"),
        ("1", "2T", "1 + 2T relaxed"),
        ("V^T / n", "0", "V^T / n"),
    ):
        assert listing.evaluations(hard, relaxed) == said


def test_json_has_all_that_is_declared(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "estimators", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == estimators.names()
    fields = {field.name for field in dataclasses.fields(EstimatorInfo)}
    assert all(set(row) == fields for row in rows)


def test_all_three_are_listed_if_none_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["estimators", "tasks", "presets"]
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    for kind, rows in found.items():
        assert main(["list", kind, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == rows
        assert all(row["name"] in text for row in rows)


HEAVY = {"torch", "numpy", "pandas", "scipy", "matplotlib", "seaborn", "joblib"}


@pytest.mark.parametrize("words", [["list"], ["list", "--json"], ["--help"], ["run", "--help"]])
def test_what_computes_nothing_imports_nothing_heavy(words: list[str]) -> None:
    code = f"import sys; from estbench.cli import main; main({words}); print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(out.stdout.splitlines()[-1].split())


def test_without_the_registry_the_list_is_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", "estimators", "--json"]) == 0
    by_the_registry = capsys.readouterr().out
    monkeypatch.setattr(Registry, "loaded", False)
    monkeypatch.setattr(Registry, "load", None)
    assert main(["list", "estimators", "--json"]) == 0
    assert capsys.readouterr().out == by_the_registry


def test_estimators_of_an_installed_package_are_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The generated catalogue knows nothing of them, so that the registry has to be asked."""
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: ["one"])
    monkeypatch.setattr(Registry, "loaded", False)
    monkeypatch.setattr(registry, "catalogue", None)
    assert main(["list", "estimators", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == estimators.names()

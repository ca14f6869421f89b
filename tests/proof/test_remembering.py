"""A check that is stopped keeps and shows what it found out; the next goes on from there."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from runner.conftest import without_processes

from estbench.cli import main
from estbench.meter.bias import BiasResult
from estbench.meter.blocks import Look
from estbench.proof import gate, running
from estbench.proof.checking import Finding, Make, Unit
from estbench.proof.findings import written
from estbench.proof.judging import BiasFinding
from estbench.proof.memory import Memory, _digest
from estbench.proof.rules import RULES, ConductFinding
from estbench.proof.variance import VarianceFinding

LOOK = Look(128, 0.004, 0.0, 0.011, 0.012, 1.003, math.inf, {"norm": 0.1 + 0.2, "gradient": 0.5})
FIRST = replace(LOOK, draws=64, high=0.03, upper=0.04)
RESULT = BiasResult("unbiased", "", (FIRST, LOOK), 0.02, 1e-4)
BIAS = BiasFinding("kl", "fresh", RESULT, 3.25)
VARIANCE = VarianceFinding("autoregressive", 1.0, 0.9, math.inf, 1.0, True)
RULE = next(iter(RULES))
WHERE = "kl, fresh"  # what BIAS was found on
ON = "variance on autoregressive"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache" / "estbench" / "checks"


class Tried:
    """Stands in for what is tried on an estimator: a bias and a rule each; remembers both."""

    def __init__(self) -> None:
        self.units: list[str] = []
        self.before: dict[str, Callable[[], object]] = {}

    def of(self, name: str, make: Make, margin: float, *, seed: int) -> list[Unit]:
        findings = {"bias": BIAS, "rule": ConductFinding(RULE, True)}
        labels = {"bias": WHERE, "rule": RULE}
        failed = partial(ConductFinding, RULE, False)
        return [
            Unit(name, labels[what], partial(self.find, name, what, finding), failed)
            for what, finding in findings.items()
        ]

    def find(self, name: str, what: str, finding: Finding) -> Finding:
        self.units.append(f"{name} {what}")
        self.before.pop(self.units[-1], lambda: None)()
        return finding


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> Tried:
    found = Tried()
    monkeypatch.setattr(running, "units", found.of)
    without_processes(monkeypatch)
    return found


CHECK = ["check", "rloo", "relax", "rebar", "--jobs", "1", "--out", "out"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_was_finished_is_shown_and_written_and_not_tried_again(
    tried: Tried, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    tried.before["relax rule"] = lambda: os.kill(os.getpid(), number)
    assert main(CHECK) == 128 + number
    said = capsys.readouterr()
    assert "1 of 3 are checked; check.csv, check.json and bias.svg in out hold those" in said.err
    assert "; go on with: " in said.err
    assert said.err.count("\n") == 1
    assert "rloo" in said.out
    assert "relax" not in said.out
    assert set(pd.read_csv("out/check.csv")["estimator"]) == {"rloo"}

    tried.units.clear()
    assert main(CHECK) == 0
    assert tried.units == ["relax rule", "rebar bias", "rebar rule"]
    assert "3 checked" in capsys.readouterr().err
    assert [row["estimator"] for row in json.loads(Path("out/check.json").read_text())] == CHECK[
        1:4
    ]


def test_a_seed_of_the_random_problem_repeats_its_findings_and_another_replaces_them() -> None:
    memory = Memory("rloo", 0.02)
    result = replace(RESULT, looks=(LOOK,), margin=0.05)
    for seed in (3, 4):
        found = replace(BIAS, problem=f"drawn-{seed}", result=result)
        memory.add(f"drawn-{seed}, fresh", found, 1.0)
        memory.add(WHERE, BIAS, 1.0)
        kept = Memory("rloo", 0.02).findings
        assert set(kept) == {f"drawn-{seed}, fresh", WHERE}
        assert kept[f"drawn-{seed}, fresh"] == (found, 1.0)


def test_json_holds_what_was_finished(tried: Tried, capsys: pytest.CaptureFixture[str]) -> None:
    tried.before["relax bias"] = lambda: os.kill(os.getpid(), signal.SIGTERM)
    assert main([*CHECK, "--json"]) == 143
    assert [row["estimator"] for row in json.loads(capsys.readouterr().out)] == ["rloo"]


def test_nothing_is_written_where_nothing_was_finished(tried: Tried) -> None:
    tried.before["rloo bias"] = lambda: os.kill(os.getpid(), signal.SIGTERM)
    assert main(CHECK) == 143
    assert not list(Path("out").iterdir())


@pytest.mark.parametrize(
    ("label", "finding"),
    [(WHERE, BIAS), (ON, VARIANCE), (RULE, ConductFinding(RULE, None, "none")), (ON, None)],
)
def test_a_finding_comes_back_as_it_was(label: str, finding: Finding) -> None:
    Memory("rloo", 0.02).add(label, finding, 1.5)
    assert Memory("rloo", 0.02).findings == {label: (finding, 1.5)}
    assert not Memory("relax", 0.02).findings
    assert not Memory("rloo", 0.01).findings


@pytest.mark.parametrize(
    "finding",
    [
        BiasFinding("kl", "fresh", None, 1.0, error="MemoryError"),
        ConductFinding(RULE, False, "MemoryError"),
        VarianceFinding("autoregressive", error="MemoryError"),
    ],
)
def test_what_went_wrong_is_tried_again(finding: Finding) -> None:
    Memory("rloo", 0.02).add("this", finding, 1.5)
    assert not Memory("rloo", 0.02).findings


def test_findings_are_forgotten_when_the_code_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    Memory("rloo", 0.02).add(WHERE, BIAS, 1.5)
    with monkeypatch.context() as patch:
        patch.setattr("estbench.core.plugins.source_hash", lambda name: "another plugin")
        assert not Memory("rloo", 0.02).findings
    monkeypatch.setattr(gate, "_code", lambda: "another estbench")
    assert not Memory("rloo", 0.02).findings


@pytest.mark.parametrize("change", [("unbiased", "biased"), ("{", "["), ("1.5", "2.5")])
def test_a_damaged_memory_is_none(own_cache: Path, change: tuple[str, str]) -> None:
    Memory("rloo", 0.02).add(WHERE, BIAS, 1.5)
    assert Memory("rloo", 0.02).findings
    (path,) = own_cache.iterdir()
    path.write_text(path.read_text().replace(*change))
    assert not Memory("rloo", 0.02).findings


def planted(own_cache: Path, label: str, finding: Finding) -> Memory:
    """A memory of one finding, right in all but what it says."""
    document = {label: written(finding) | {"cpu_s": 1.5}}
    memory = Memory("rloo", 0.02)
    memory.add(RULE, ConductFinding(RULE, True), 1.5)
    (path,) = own_cache.iterdir()
    whole = json.loads(path.read_bytes()) | {"findings": document, "digest": _digest(document)}
    path.write_text(json.dumps(whole))
    return Memory("rloo", 0.02)


OFF = replace(LOOK, relative_bias=2.0, low=1.9, high=2.1, projection=3.0, upper=2.2)


def unbiased(**figures: Any) -> BiasFinding:
    """A verdict that is not that of its figures."""
    result = BiasResult("unbiased", "", (replace(OFF, **figures),), 0.02, 1e-4)
    return BiasFinding("kl", "fresh", result, 1.0)


@pytest.mark.parametrize(
    ("label", "finding"),
    [
        (WHERE, unbiased()),
        (WHERE, unbiased(upper=0.01)),
        (WHERE, unbiased(upper=0.01, relative_bias=0.0, low=0.0)),
        (WHERE, replace(BIAS, result=replace(RESULT, margin=0.5))),
        (WHERE, replace(BIAS, result=replace(RESULT, alpha=0.5))),
        ("autoregressive, fresh", BIAS),
        ("autoregressive, fresh", ConductFinding(RULE, True)),
        (RULE, ConductFinding("another rule", True)),
        (RULE, BIAS),
        (WHERE, None),
        (ON, replace(VARIANCE, measured=3.0, low=2.9, high=3.1)),
        ("variance on expressions-3-float32", VARIANCE),
    ],
)
def test_a_planted_finding_is_not_believed(own_cache: Path, label: str, finding: Finding) -> None:
    assert planted(own_cache, WHERE, BIAS).findings, "what is honest is taken"
    assert not planted(own_cache, label, finding).findings


def test_seconds_are_of_the_processor_and_waiting_is_none_of_them(tried: Tried) -> None:
    tried.before["rloo bias"] = lambda: time.sleep(0.5)
    assert main(CHECK) == 0
    (first, *_) = json.loads(Path("out/check.json").read_text())
    assert first["cpu_s"] < 0.3
    assert first["bias"][0]["cpu_s"] == BIAS.cpu_s
    assert "seconds" not in first
    assert "cpu_s" in pd.read_csv("out/check.csv")


def test_names_are_whole_at_80_columns(
    tried: Tried, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    names = ["seqgan-rollouts", "reinforce-step-constants", "without-replacement-8-none"]
    main(["check", *names, "--jobs", "1", "--out", "out"])
    lines = capsys.readouterr().out.splitlines()
    for name in names:
        assert sum(line.startswith(f"{name} ") for line in lines) == 1
    assert max(map(len, lines)) <= 80
    assert WHERE in " ".join(" ".join(lines).split())

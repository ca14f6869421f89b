"""Estimators that end their process, one way or another: each ends its own work and no other."""

from __future__ import annotations

import json
import subprocess

import pytest
from runner import fakes

from estbench.proof import checking
from estbench.proof.checking import Make, Unit

from .conftest import RECORDS, Machine
from .test_stops import CHECK, RUN, start

STRANGERS = """
import os
import signal
import sys
from pathlib import Path

import estbench
from estbench.estimators.score_function import Reinforce

def stranger(name, act):
    class Stranger(Reinforce):
        def __init__(self):
            super().__init__(name, "none")

        def surrogate(self, *given):
            act()
            return super().surrogate(*given)

    Stranger.__qualname__ = name
    estbench.register(Stranger)

def interrupt():
    raise KeyboardInterrupt

def die_once():
    if Path("once").exists():
        Path("once").unlink()
        os.kill(os.getpid(), signal.SIGKILL)

stranger("exits", lambda: sys.exit(0))
stranger("interrupts", interrupt)
stranger("leaves", lambda: os._exit(0))
stranger("dies-once", die_once)

class Refuses(Reinforce):
    def __init__(self):
        super().__init__("refuses", "none")

    def refusal(self, vocabulary, length):
        sys.exit(0)

estbench.register(Refuses)
"""
ONE_RULE = CHECK.replace("test_stops import two_each", "test_strangers import one_rule").replace(
    "two_each", "one_rule"
)


def one_rule(name: str, make: Make, margin: float, *, seed: int) -> list[Unit]:
    """Of what is tried on an estimator, what takes no time."""
    return [unit for unit in checking.units(name, make, margin) if unit.label == "contract"]


def say(process: subprocess.Popen[str], code: int) -> str:
    _, said = process.communicate(timeout=240)
    assert process.returncode == code, said
    assert "Traceback" not in said, said
    return said


@pytest.fixture
def plugin(machine: Machine) -> Machine:
    """A machine with a file of such estimators."""
    (machine.out.parent / "strangers.py").write_text(STRANGERS)
    return machine


def test_a_check_goes_on_whatever_an_estimator_does(plugin: Machine) -> None:
    (plugin.out.parent / "once").touch()
    names = ["exits", "interrupts", "leaves", "refuses", "dies-once", "rloo"]
    words = ["check", *names, "--plugin", "strangers.py", "--jobs", "1", "--out", str(plugin.out)]
    said = say(start(plugin, ONE_RULE, *words), 1)
    assert "what was being worked on is run again: " in said
    rows = json.loads((plugin.out / "check.json").read_text())
    kept = {row["estimator"]: row["conduct"][0]["kept"] for row in rows}
    assert kept == dict.fromkeys(names, False) | {"dies-once": True, "rloo": True}
    details = [row["conduct"][0]["detail"] for row in rows]
    assert details[:2] == ["SystemExit: 0", "KeyboardInterrupt:"]
    assert details[2].startswith("its worker process died, twice")
    assert details[3] == "SystemExit: 0"
    assert (plugin.out / "check.csv").exists()


def test_what_ends_its_process_is_not_proven(plugin: Machine) -> None:
    words = ["run", "--preset", "smoke", "--tasks", "expressions-3", "--jobs", "1"]
    words += ["--estimators", "leaves", "--plugin", "strangers.py", "--out", str(plugin.out)]
    said = say(start(plugin, RUN, *words), 1)
    assert "estbench: leaves (reward p) is not proven: its worker process died, twice" in said
    assert not list(plugin.out.rglob("seed-*.json"))
    kept = list((plugin.out.parent / "cache").rglob("leaves-*.json"))
    assert not kept, "it may have been the machine's fault"


def test_a_run_that_ends_its_process_is_a_row(machine: Machine) -> None:
    labels = [
        f"expressions-3 {name} seed {seed}"
        for name in ("relax", "reinforce-ema")
        for seed in (0, 1)
    ]
    for kind, label in zip(("exit", "interrupt", "close", "own"), labels, strict=True):
        fakes.plan_mischief(kind, label, times=9)
    said = machine.run(code=1)
    lines = [line.strip() for line in said.splitlines() if line.startswith("  expressions-3 ")]
    rows = dict(line.split(": ", 1) for line in lines)
    assert [rows[label].partition(":")[0] for label in labels] == [
        *("SystemExit", "KeyboardInterrupt", "GeneratorExit", "OwnError")
    ]
    assert len(machine.numbers()) == RECORDS

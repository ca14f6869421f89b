"""Whole processes that are stopped: by Ctrl-C, by a batch system, by a terminal that closes."""

from __future__ import annotations

import csv
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from joblib import delayed
from runner import fakes
from runner.conftest import without_processes
from runner.processes import LISTEN, group

from estbench.cli import main
from estbench.core.processes import Terminated, in_workers, stop_workers, terminable
from estbench.proof import gate, running
from estbench.proof.checking import Make, Unit
from estbench.runner import jobs

from .conftest import RECORDS, Machine, wait_for

pytestmark = pytest.mark.slow
SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])

CHECK = f"""
{LISTEN}
from estbench.proof import running
from faults.test_stops import two_each
running.units = two_each
from estbench.__main__ import main
main()
"""
RUN = f"{LISTEN}; from estbench.__main__ import main; main()"

ASLEEP = """
import time
import estbench
from estbench.estimators.score_function import Reinforce

@estbench.register
class Asleep(Reinforce):
    def __init__(self):
        super().__init__("asleep", "none")

    def surrogate(self, *given):
        time.sleep(60)
        return super().surrogate(*given)
"""


OWN = """
preset = "smoke"
tasks = ["expressions-3"]
estimators = ["rloo", "relax"]
seeds = 1
"""


def two_each(name: str, make: Make, margin: float, *, seed: int) -> list[Unit]:
    """Two quick units an estimator, but for relax, whose second never ends."""
    from estbench.proof.rules import RULES, ConductFinding

    return [
        Unit(name, rule, partial(kept, name, rule), partial(ConductFinding, rule, False))
        for rule in list(RULES)[:2]
    ]


def kept(name: str, rule: str) -> Any:
    from estbench.proof.rules import RULES, ConductFinding

    label = f"{name} {list(RULES).index(rule)}"
    fakes._begin(label)
    return ConductFinding(rule, True)


def start(
    machine: Machine, code: str, *words: str, stdout: int = subprocess.DEVNULL
) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        env=machine.environment | {"XDG_CACHE_HOME": str(machine.out.parent / "cache")},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=machine.out.parent,
    )
    machine.started.append(process)
    return process


def stop(process: subprocess.Popen[str], number: signal.Signals) -> str:
    """Stop a process and its whole group, as ``timeout`` does; returns what was said."""
    process.send_signal(number)
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + number, said
    assert "Traceback" not in said, said
    wait_for(lambda: not group(process.pid), 60)
    return said


# What a command does in its own process, and a function in which the signal finds it.
PHASES = {
    "env": ("env", "runner.environment.environment"),
    "env, hashing": ("env --hash set", "store.digest.digest"),
    "list": ("list presets", "cli.listing.listing"),
    "list, loading a plugin": ("list presets --plugin own.py", "core.plugins._open_streams"),
    "completion": ("completion bash", "cli.completion.script"),
    "report": ("report set", "report.build"),
    "report, event files": ("report set --tensorboard", "runner.events.export"),
    "compare": ("compare set set", "report.between.between"),
    "check, setting up": ("check rloo", "proof.running.started"),
    "check, ending": ("check rloo", "proof.running.in_order"),
    "check, writing": ("check rloo", "cli.checks._write"),
    "run, reading": ("run own.toml", "config.presets.read"),
    "run, planning": ("run own.toml", "runner.grid.make_plan"),
    "run, proving": ("run own.toml", "proof.gate.remember"),
    "run, writing the manifest": ("run own.toml", "runner.grid.manifest"),
    "run, choosing workers": ("run own.toml", "runner.grid.make_backend"),
    "run, timing": ("run own.toml", "runner.timing._time"),
    "run, writing a round": ("run own.toml", "runner.timing.encode"),
    "run, reporting": ("run own.toml", "report.build"),
}


@SIGNALS
@pytest.mark.parametrize("phase", PHASES)
def test_every_verb_ends_with_a_line_in_every_phase(
    phase: str,
    number: signal.Signals,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def proven(given: gate.Configuration) -> gate.Proof:
        return gate.Proof(given, "unbiased", "a test's", gate.key_of(given))

    without_processes(monkeypatch)
    for name in ("train", "reference", "measure", "time_step", "warm_up"):
        monkeypatch.setattr(jobs, name, getattr(fakes, name))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(gate, "prove", proven)
    monkeypatch.setattr(running, "units", two_each)
    Path("own.py").write_text(ASLEEP)
    Path("own.toml").write_text(OWN)
    words, where = PHASES[phase]

    def stop(*_: object, **__: object) -> None:
        os.kill(os.getpid(), number)
        raise AssertionError("it went on")

    monkeypatch.setattr(f"estbench.{where}", stop)
    assert main(words.split()) == 128 + number
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "interrupted" in line] == said[-1:]
    assert not list(tmp_path.rglob("*.tmp"))


BLOCKED = """
import sys, time
class Finder:
    def find_spec(self, name, *_):
        if name == {module!r}:
            print("importing", flush=True)
            try:
                time.sleep(60)
            except BaseException:
                raise ImportError("as the C code of some libraries says it")
sys.meta_path.insert(0, Finder())
from estbench.__main__ import main
main()
"""


@SIGNALS
@pytest.mark.parametrize("module", ["cyclopts", "torch"])
def test_a_stop_within_an_import_is_a_line_too(
    machine: Machine, number: signal.Signals, module: str
) -> None:
    code = f"{LISTEN}\n{BLOCKED.format(module=module)}"
    process = start(machine, code, "env", stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (128 + number, "estbench: interrupted\n")


def test_a_stop_while_steps_are_timed_keeps_what_was_finished(machine: Machine) -> None:
    fakes.plan_mischief("sleep", "timing expressions-3 relax")
    process = machine.start()
    wait_for(lambda: "timing expressions-3 relax" in fakes.calls())
    said = stop(process, signal.SIGINT)
    assert f"interrupted; the {RECORDS - 2} records that were finished are kept" in said
    assert len(machine.numbers()) == RECORDS


@SIGNALS
@pytest.mark.parametrize("taker", ["the main thread", "another thread"])
def test_a_stop_while_workers_are_started_waits_for_none_of_them(
    number: signal.Signals, taker: str
) -> None:
    """The system gives a signal to any thread that does not block it."""
    heard, left = [], threading.Event()
    thread = threading.Thread(target=left.wait, daemon=True)
    thread.start()

    def calls() -> Iterator[object]:
        yield delayed(time.sleep)(300)
        to = threading.main_thread() if taker == "the main thread" else thread
        signal.pthread_kill(to.ident or 0, number)
        time.sleep(0.1)
        heard.append("all calls are handed out")
        yield delayed(time.sleep)(300)

    started = time.monotonic()
    with pytest.raises(Terminated), terminable():
        list(in_workers(calls(), 2))
    stop_workers()
    left.set()
    assert heard, "the stop waited until workers had been started"
    assert not multiprocessing.active_children()
    assert time.monotonic() - started < 200


@SIGNALS
def test_a_check_shows_what_was_finished_and_the_next_goes_on(
    machine: Machine, number: signal.Signals
) -> None:
    fakes.plan_mischief("sleep", "relax 1")
    words = ["check", "rloo", "relax", "--jobs", "2", "--out", str(machine.out)]
    process = start(machine, CHECK, *words)
    cache = machine.out.parent / "cache" / "estbench" / "checks"
    wait_for(lambda: sum(path.read_text().count("kind") for path in cache.glob("*.json")) == 3)
    wait_for(lambda: "relax 1" in fakes.calls())
    said = stop(process, number)
    assert "interrupted; 1 of 2 are checked" in said
    assert "go on with: " in said.splitlines()[-1]
    with (machine.out / "check.csv").open() as file:
        assert {row["estimator"] for row in csv.DictReader(file)} == {"rloo"}

    fakes.forget()
    process = start(machine, CHECK, *words)
    _, said = process.communicate(timeout=120)
    assert "2 checked" in said
    assert fakes.calls() == ["relax 1"]


@SIGNALS
def test_the_proving_of_a_run_keeps_its_verdicts(
    machine: Machine, number: signal.Signals, tmp_path: Path
) -> None:
    (tmp_path / "asleep.py").write_text(ASLEEP)
    words = ["run", "--preset", "smoke", "--tasks", "expressions-3", "--jobs", "2"]
    words += ["--estimators", "rloo,asleep", "--plugin", "asleep.py"]
    process = start(machine, RUN, *words, "--out", str(machine.out))
    cache = tmp_path / "cache" / "estbench" / "proofs"
    wait_for(lambda: list(cache.glob("rloo-*.json")))
    said = stop(process, number)
    assert "no record was finished; what was proven is kept; go on with: " in said.splitlines()[-1]
    assert not list(machine.out.rglob("seed-*.json"))

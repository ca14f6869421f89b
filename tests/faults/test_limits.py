"""Runs that take too long or too much, or bring nothing, are rows; the others go on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from runner import fakes

from .conftest import RECORDS, Machine

HANGING, LOOPING, GREEDY, WRONG = (
    f"expressions-3 {name}"
    for name in ("relax seed 0", "relax seed 1", "reinforce-ema seed 0", "reinforce-ema seed 1")
)


@pytest.mark.parametrize("backend", ["local", "dask"])
def test_a_run_that_hangs_loops_or_asks_for_too_much_is_a_row(
    machine: Machine, undisturbed: Machine, backend: str
) -> None:
    # asleep for a minute: neither is interrupted, nor may anybody wait for it
    fakes.plan_mischief("sleep", HANGING, times=9)
    fakes.plan_mischief("loop", LOOPING, times=9)
    fakes.plan_mischief("memory", GREEDY, times=9)
    fakes.plan_mischief("nan", WRONG, times=9)
    words = ["--backend", backend, "--deadline", "8", "--memory", "6000"]
    said = machine.run(*words, code=1, **{fakes.WARM: "yes"})
    lines = [line.strip() for line in said.splitlines() if line.startswith("  expressions-3 ")]
    rows = dict(line.split(": ", 1) for line in lines)
    assert rows.keys() == {HANGING, LOOPING, GREEDY, WRONG}
    assert rows[HANGING].startswith("DeadlineExceeded: took longer than deadline_s = 8")
    assert rows[LOOPING].startswith("DeadlineExceeded: took longer than deadline_s = 8")
    assert rows[GREEDY].startswith("OutOfMemory: needs more than memory_mb = 6000")
    assert rows[WRONG].startswith("NotFinite: final goodness is not a number")
    assert fakes.calls().count(LOOPING) == 1, "a row is not tried again"
    assert fakes.calls().count(HANGING) == 1
    assert len(machine.numbers()) == RECORDS
    manifest = machine.results.manifest()
    assert manifest is not None
    execution = manifest["experiment"]["execution"]
    assert (execution["deadline_s"], execution["memory_mb"]) == (8.0, 6000)

    for path in Path(os.environ[fakes.FOLDER]).glob("*@*"):
        path.unlink()
    machine.run(*words, "--retry-failed", **{fakes.WARM: "yes"})
    assert machine.numbers() == undisturbed.numbers()


def test_an_estimator_that_hangs_or_dies_while_it_is_timed_costs_its_own_rows(
    machine: Machine,
) -> None:
    fakes.plan_mischief("sleep", "timing expressions-3 relax", times=9)
    fakes.plan_mischief("kill", "timing expressions-3 reinforce-ema", times=9)
    words, warm = ["--deadline", "8"], {fakes.WARM: "yes"}
    said = machine.run(*words, code=1, **warm)
    lines = [line.strip() for line in said.splitlines() if line.startswith("  expressions-3 ")]
    relax, ema = sorted(lines, reverse=True)
    assert relax.startswith("expressions-3 relax in timing round 0: DeadlineExceeded: took longer")
    assert ema.startswith("expressions-3 reinforce-ema in timing round 0: WorkerKilled: ")
    rounds = [record["rows"] for record in machine.results.records("timing")]
    assert [len(rows) for rows in rounds] == [3, 1]
    assert [row["estimator"] for row in rounds[1]] == ["rloo"]
    fakes.forget()
    machine.run(*words, code=1, **warm)
    assert fakes.calls() == [], "nobody waits for it again"


def test_a_clock_that_jumps_changes_no_number_and_no_duration(
    machine: Machine, undisturbed: Machine
) -> None:
    machine.run(**{fakes.CLOCK: "yes"})
    assert machine.numbers() == undisturbed.numbers()
    for path in machine.out.rglob("seed-*.json"):
        record = machine.results.read(path)
        assert record is not None
        assert 0.0 <= record["timing"]["wall_s"] < 60.0


def test_a_user_without_a_home_gets_the_same_numbers(
    machine: Machine, undisturbed: Machine, tmp_path: Path
) -> None:
    homeless = tmp_path / "homeless"  # as in a container, where nobody knows the user's number
    homeless.mkdir()
    unknown = "import pwd\ndef nobody(uid): raise KeyError(uid)\npwd.getpwuid = nobody\n"
    (homeless / "sitecustomize.py").write_text(unknown)
    path = os.pathsep.join([str(homeless), machine.environment["PYTHONPATH"]])
    machine.environment = {
        name: value
        for name, value in machine.environment.items()
        if name not in ("HOME", "XDG_CACHE_HOME")
    }
    machine.run(PYTHONPATH=path)
    assert machine.numbers() == undisturbed.numbers()

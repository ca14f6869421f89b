"""Runs whose workers are killed go on from their checkpoints, in whatever process."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from training.interrupting import Killed, dying, experiment

from estbench.config.experiment import Experiment
from estbench.runner import jobs, worker
from estbench.runner.events import event_folder
from estbench.runner.jobs import Job
from estbench.runner.plan import make_plan
from estbench.runner.timing import Again
from estbench.runner.worker import Outcome
from estbench.store import SCHEMA, ResultSet, SetGoneError, key, numbers
from estbench.store.checkpoints import checkpoint_path, read_checkpoint, source_digest
from estbench.training.pretraining import MaximumLikelihood

TASK = "expressions-3"
ALWAYS = "ESTBENCH_CHECKPOINT_S"


def a_job(estimator: str, kind: str = "run", events: bool = False, **training: Any) -> Job:
    made: Experiment = replace(experiment(TASK, **training), estimators=("rloo", "relax"))
    return Job(
        kind,
        TASK,
        estimator,
        0,
        key(kind, made, TASK, estimator, 0),
        jobs.reference if kind == "reference" else jobs.train,
        made,
        jobs.warm_up,
        events,
    )


def execute(job: Job, directory: Path) -> Outcome:
    """Do a job in a result set that holds it."""
    manifest = {"schema": SCHEMA, "experiment": job.experiment.as_dict()}
    ResultSet(directory).write_manifest(manifest)
    return worker.execute(job, directory)


def record(directory: Path, job: Job) -> dict[str, Any]:
    results = ResultSet(directory)
    found = results.read(results.record_path(job.kind, job.task, job.estimator, job.seed))
    assert found is not None
    assert found["status"] == "ok", found["error"]
    return found


def checkpoint_of(directory: Path, job: Job) -> Path:
    return checkpoint_path(directory, job.kind, job.task, job.estimator, job.seed)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALWAYS, "0")


WORKER = """
import sys
from pathlib import Path
from runner.test_checkpoints import a_job, execute
execute(a_job("relax", batches=40), Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_kill_minus_nine_again_and_again(tmp_path: Path) -> None:
    """Killed at any moment, also while it writes; what is there in the end is the same."""
    job = a_job("relax", batches=40)
    (tmp_path / "whole").mkdir()
    execute(job, tmp_path / "whole")
    place, choose = tmp_path / "pieces", random.Random(7)
    tests = Path(__file__).parents[1]
    environment = {**os.environ, ALWAYS: "0", "PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}"}
    path, deaths = checkpoint_of(place, job), 0
    for _ in range(2):
        before = path.stat().st_mtime_ns if path.exists() else 0
        process = subprocess.Popen([sys.executable, "-c", WORKER, str(place)], env=environment)
        until = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
            if path.exists() and path.stat().st_mtime_ns != before:
                time.sleep(choose.uniform(0, 0.5))
                break
        process.kill()
        deaths += process.wait() == -signal.SIGKILL
    assert deaths >= 1
    outcome = execute(job, place)
    assert outcome.note == ""
    assert numbers(record(place, job)) == numbers(record(tmp_path / "whole", job))
    with ResultSet(place).writing():
        pass
    assert not (place / "checkpoints").exists()
    assert not list(place.rglob("*.tmp"))


def test_a_reference_and_its_states_and_the_run_that_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, always: None
) -> None:
    job = a_job("rloo", "reference")
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    execute(job, whole)
    for boundary in (3, 7, 5):
        with pytest.raises(Killed), dying(monkeypatch, boundary):
            execute(job, pieces)
        assert checkpoint_of(pieces, job).exists()
    execute(job, pieces)
    assert not (pieces / "checkpoints").exists()
    files = [sorted(p.relative_to(d) for d in [f] for p in f.rglob("*.*")) for f in (whole, pieces)]
    assert files[0] == files[1]
    assert numbers(record(pieces, job)) == numbers(record(whole, job))
    assert record(pieces, job)["state_sha256"] == record(whole, job)["state_sha256"]
    assert ResultSet(pieces).state_digest(TASK, 0) == ResultSet(whole).state_digest(TASK, 0)
    run = a_job("rloo")
    assert numbers(record(pieces, run)) == numbers(record(whole, run))


def test_a_short_run_writes_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []
    monkeypatch.setattr(
        "estbench.training.resume.write_checkpoint", lambda path, *a: seen.append(path)
    )
    monkeypatch.delenv(ALWAYS, raising=False)
    assert execute(a_job("relax"), tmp_path).note == ""
    assert seen == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["manifest.json", "runs"]


@pytest.mark.parametrize("damage", ["cut", "empty", "other settings", "other code"])
def test_a_checkpoint_that_is_of_no_use_is_noted_and_the_run_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, always: None, damage: str
) -> None:
    job = a_job("relax")
    path = checkpoint_of(tmp_path, job)
    died = a_job("relax", batches=4) if damage == "other settings" else job
    with pytest.raises(Killed), dying(monkeypatch, 6):
        execute(died, tmp_path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    if damage == "empty":
        path.write_bytes(b"")
    if damage == "other code":
        monkeypatch.setattr("estbench.runner.worker.source_digest", lambda: source_digest()[::-1])
    note = execute(job, tmp_path).note
    why = {"other settings": "with another key", "other code": "another version of estbench"}
    assert note.startswith(f"{TASK} relax seed 0: a checkpoint was of no use, the run began anew:")
    assert why.get(damage, "it is damaged") in note
    assert "\n" not in note
    execute(job, tmp_path / "whole")
    assert numbers(record(tmp_path, job)) == numbers(record(tmp_path / "whole", job))
    assert not path.exists()


def test_a_run_that_fails_leaves_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, always: None
) -> None:
    job = a_job("relax")

    def sorry(*args: object) -> None:
        assert checkpoint_of(tmp_path, job).exists()
        raise ValueError("out of luck")

    monkeypatch.setattr("estbench.training.loop.step_metrics", sorry)
    assert execute(job, tmp_path).error == "ValueError: out of luck"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["manifest.json", "runs"]


def test_its_time_is_that_of_all_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, always: None
) -> None:
    job = a_job("rloo")
    with pytest.raises(Killed), dying(monkeypatch, 12):
        execute(job, tmp_path)
    heads: list[dict[str, str]] = []

    def read(path: Path, head: dict[str, str], device: str) -> Any:
        heads.append(head)
        return {**read_checkpoint(path, head, device), "wall_s": 1000.0, "cpu_s": 900.0}

    monkeypatch.setattr("estbench.training.resume.read_checkpoint", read)
    outcome = execute(job, tmp_path)
    assert 1000 < outcome.seconds < 1100
    assert 900 < record(tmp_path, job)["timing"]["cpu_s"] < 1000
    assert set(heads[0]) == {f"version of {n}" for n in ("torch", "numpy", "estbench")} | {"key"}


def test_of_a_set_that_is_deleted_no_checkpoint_comes_back_and_the_run_ends_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, always: None
) -> None:
    job, place, batches = a_job("relax"), tmp_path / "set", []

    def losing(*args: object) -> dict[str, float]:
        batches.append(args)
        if place.exists():
            shutil.rmtree(place)
        return {}

    monkeypatch.setattr("estbench.training.loop.step_metrics", losing)
    with pytest.raises(SetGoneError):
        execute(job, place)
    assert len(batches) == 1
    assert not place.exists()


@pytest.mark.parametrize("given", ["soon", "-1", "nan"])
def test_an_interval_that_is_none_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv(ALWAYS, given)
    note = execute(a_job("rloo"), tmp_path).note
    assert f"ESTBENCH_CHECKPOINT_S={given!r} is no number of seconds: 60 it is" in note


def test_runs_of_a_task_and_seed_are_pretrained_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, always: None
) -> None:
    epochs: list[str] = []
    real = MaximumLikelihood.epoch
    monkeypatch.setattr(MaximumLikelihood, "epoch", lambda self: (epochs.append(""), real(self))[1])
    both = replace(experiment(TASK), estimators=("rloo", "relax"), seeds=(0, 1))
    plan = make_plan(both, ResultSet(tmp_path), Again())
    assert len(plan.training) == 4
    for job in plan.training:
        ending = execute(job, tmp_path)
        assert ending.note == ""
        whole = record(tmp_path, job)["timing"]["wall_s"]
        first = job.estimator == plan.training[0].estimator
        assert (ending.seconds == whole) == first, "the time left counts pre-training once"
    assert len(epochs) == 2 * both.training.pretrain_epochs
    shared = execute(a_job("relax"), tmp_path / "alone")
    assert shared.error == ""
    alone = record(tmp_path / "alone", a_job("relax"))
    assert numbers(record(tmp_path, a_job("relax"))) == numbers(alone)
    of_rloo = make_plan(experiment(TASK), ResultSet(tmp_path / "rloo"), Again())
    assert {job.start for job in of_rloo.training} == {""}, "nobody else would read it"


def test_event_files_of_a_run_that_went_on_are_those_of_one_that_was_never_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, always: None
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
        found = EventAccumulator(str(event_folder(directory, TASK, "relax", 0)))
        found.Reload()
        return {
            tag: [(event.step, event.value) for event in found.Scalars(tag)]
            for tag in found.Tags()["scalars"]
            if tag != "cost/seconds"
        }

    job = a_job("relax", events=True)
    for boundary in (11, 2, 3):  # in the second batch, in the third, after it
        with pytest.raises(Killed), dying(monkeypatch, boundary):
            execute(job, tmp_path / "pieces")
    for place in ("pieces", "whole"):
        assert execute(job, tmp_path / place).note == ""
    whole = scalars(tmp_path / "whole")
    assert scalars(tmp_path / "pieces") == whole
    assert len(whole["cost/reward_evals"]) == 3

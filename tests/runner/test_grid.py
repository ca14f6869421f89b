"""What a run leaves on disk, and what a second run leaves alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from estbench.config.experiment import TimingSettings, TrainingSettings
from estbench.core.errors import UserError
from estbench.runner import jobs, run_experiment
from estbench.store import SCHEMA, SetGoneError, StorageError
from estbench.store.checkpoints import checkpoint_path

from . import fakes
from .conftest import SMALL, Grid


def test_a_run_makes_every_record_of_the_grid(grid: Grid) -> None:
    summary = grid.run()
    assert summary.failures == []
    # 4 references (rloo's runs among them), 4 runs of reinforce, 12 measurements, 2 rounds
    assert summary.made == 4 + 4 + 12 + 2
    assert len(list(grid.results.records("runs"))) == 8
    assert len(list(grid.results.records("reference"))) == 4
    assert len(list(grid.results.records("snapshots"))) == 12
    assert [record["round"] for record in grid.results.records("timing")] == [0, 1]
    record = grid.results.read(grid.results.run_path("oracle-small", "reinforce", 1))
    assert record is not None
    assert (record["kind"], record["status"], record["error"]) == ("run", "ok", None)
    assert set(record["timing"]) == {"wall_s", "cpu_s", "peak_mb"}
    assert record["curves"]["metrics"]["log_variance"] == [None] * 8, "minus infinity is null"


@pytest.mark.parametrize(
    "path", ["runs/oracle-small/reinforce/seed-001.json", "timing/000.json", "manifest.json"]
)
def test_records_of_a_newer_version_are_refused_and_not_made_again(grid: Grid, path: str) -> None:
    grid.run()
    fakes.forget()
    place = grid.directory / path
    place.write_text(json.dumps(json.loads(place.read_bytes()) | {"schema": SCHEMA + 1}))
    before = place.read_bytes()
    for more in ({}, {"renew": True}, {"retry_failed": True}):
        with pytest.raises(UserError, match=r"made by a newer version .*update estbench"):
            grid.run(**more)
    assert place.read_bytes() == before
    assert fakes.calls() == []


def test_the_manifest_says_what_the_set_holds_and_how_it_was_made(grid: Grid) -> None:
    grid.run()
    manifest = json.loads(grid.results.manifest_path.read_text())
    assert manifest["experiment"] == SMALL.as_dict()
    assert manifest["command"] == "estbench run"
    assert set(manifest["environment"]) >= {"python", "packages", "cpu", "threads_per_worker"}
    assert manifest["environment"]["packages"]["torch"]


def test_the_reference_is_rloos_run(grid: Grid) -> None:
    grid.run()
    assert not [call for call in fakes.calls() if " rloo seed" in call and "measure" not in call]
    run = grid.results.read(grid.results.run_path("expressions-3", "rloo", 0))
    reference = grid.results.read(grid.results.reference_path("expressions-3", 0))
    assert run is not None
    assert reference is not None
    assert run["curves"] == reference["curves"]
    assert reference["snapshot_steps"] == [0, 1, 2, 4, 8]


def test_what_runs_of_a_seed_shared_is_gone_with_the_last_of_them(grid: Grid) -> None:
    grid.run(seeds=(0,))
    for seed in (0, 1):  # as if it had been killed after the last run of seed 0
        shared = checkpoint_path(grid.directory, "start", "oracle-small", "", seed)
        shared.parent.mkdir(parents=True, exist_ok=True)
        shared.write_bytes(b"")
    grid.run()
    assert not (grid.directory / "checkpoints").exists()


def test_running_again_computes_nothing_and_touches_nothing(grid: Grid) -> None:
    grid.run()
    before = {path: path.stat().st_mtime_ns for path in grid.directory.rglob("*.*")}
    fakes.forget()
    summary = grid.run()
    assert fakes.calls() == []
    assert (summary.made, summary.found) == (0, 20)
    assert {path: path.stat().st_mtime_ns for path in grid.directory.rglob("*.*")} == before


def test_naming_fewer_computes_nothing(grid: Grid) -> None:
    grid.run()
    fakes.forget()
    grid.run(tasks=("oracle-small",), estimators=("reinforce",), seeds=(1,))
    assert fakes.calls() == []
    assert grid.results.manifest() is not None
    assert grid.results.manifest()["experiment"] == SMALL.as_dict()  # type: ignore[index]


def test_a_result_set_grows_by_estimators_and_seeds(grid: Grid) -> None:
    grid.run(estimators=("reinforce",), also_measured=(), seeds=(0,))
    assert not grid.results.run_path("expressions-3", "rloo", 0).exists()
    fakes.forget()
    grid.run(estimators=("relax", "rloo"), also_measured=(), seeds=(0, 1))
    assert "expressions-3 reference (rloo) seed 0" not in fakes.calls()
    assert "expressions-3 reference (rloo) seed 1" in fakes.calls()
    assert grid.results.run_path("expressions-3", "rloo", 0).exists(), "copied from the reference"
    experiment = grid.results.manifest()["experiment"]  # type: ignore[index]
    assert experiment["estimators"] == ["reinforce", "relax", "rloo"]
    assert experiment["seeds"] == [0, 1]
    for record in grid.results.records("timing"):
        assert record["estimators"] == ["reinforce", "relax", "rloo"], "timed again, side by side"


def test_other_settings_are_refused_with_the_first_difference(grid: Grid) -> None:
    grid.run(seeds=(0,), tasks=("expressions-3",))
    fakes.forget()
    for changes, text in (
        (
            {"training": TrainingSettings(batches=9, batch_size=8)},
            r"\[training\] batches = 8, not 9",
        ),
        ({"per_task": {"expressions-3": {"rollouts": 2}}}, r"expressions-3\] rollouts = 0, not 2"),
        ({"timing": TimingSettings(rounds=3)}, r"\[timing\] rounds = 2, not 3"),
        ({"device": "cuda"}, "device = 'cpu', not 'cuda'"),
    ):
        with pytest.raises(UserError, match=text + ".*--out"):
            grid.run(**changes)
    assert fakes.calls() == []


def test_a_record_of_another_version_is_refused(grid: Grid) -> None:
    grid.run(seeds=(0,), tasks=("expressions-3",))
    path = grid.results.snapshots_path("expressions-3", "rloo", 0)
    path.write_text(path.read_text().replace('"key":"', '"key":"0'))
    with pytest.raises(UserError, match=r"seed-000.json was made .*rloo.*--out"):
        grid.run()


def test_timing_rounds_of_another_version_are_refused_or_set_aside(grid: Grid) -> None:
    grid.run(seeds=(0,), tasks=("expressions-3",))
    old = {}
    for index in range(2):
        path = grid.results.timing_path(index)
        path.write_text(path.read_text().replace('"key":"', '"key":"0'))
        old[index] = path.read_bytes()
    with pytest.raises(UserError, match="--renew"):
        grid.run(seeds=(0,), tasks=("expressions-3",))
    assert grid.run(seeds=(0,), tasks=("expressions-3",), renew=True).made == 2
    stale = grid.directory / "stale" / "timing"
    assert [(stale / f"{index:03d}.json").read_bytes() for index in range(2)] == list(old.values())
    assert grid.run(seeds=(0,), tasks=("expressions-3",)).made == 0


@pytest.mark.parametrize("damage", ["", '{"kind":"run","sta', "[1, 2]", '{"final":{}}', "\x00" * 9])
def test_a_damaged_record_counts_as_missing(grid: Grid, damage: str) -> None:
    grid.run(seeds=(0,), tasks=("expressions-3",))
    path = grid.results.run_path("expressions-3", "reinforce", 0)
    whole = grid.numbers()
    path.write_text(damage)
    fakes.forget()
    summary = grid.run(seeds=(0,), tasks=("expressions-3",))
    assert fakes.calls() == ["expressions-3 reinforce seed 0"]
    assert summary.failures == []
    assert any(str(path) in note for note in grid.screen.notes)
    assert grid.numbers() == whole


def test_lost_states_are_made_again_only_where_they_are_needed(grid: Grid) -> None:
    grid.run()
    grid.results.state_path("expressions-3", 0).unlink()
    fakes.forget()
    grid.run()
    assert fakes.calls() == [], "a complete set does without them"
    grid.results.snapshots_path("expressions-3", "rloo", 0).unlink()
    grid.run()
    assert fakes.calls() == [
        "expressions-3 reference (rloo) seed 0",
        "measure expressions-3 rloo seed 0",
    ]


def test_a_full_disk_ends_the_run_and_leaves_no_half_file(
    grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid.run(seeds=(0,))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    before = sorted(grid.directory.rglob("*"))
    with pytest.raises(StorageError, match="No space left on device"):
        grid.run()
    assert sorted(grid.directory.rglob("*")) == before


def move(path: Path) -> None:
    path.rename(path.with_name("moved"))


def put_another_in_its_place(path: Path) -> None:
    shutil.copytree(path, path.with_name("other"))
    shutil.rmtree(path)
    path.with_name("other").rename(path)


@pytest.mark.parametrize("lose", [shutil.rmtree, move, put_another_in_its_place])
@pytest.mark.parametrize("phase", ["reference", "train", "measure", "time_step"])
def test_of_a_set_that_is_lost_while_it_is_written_nothing_comes_back(
    grid: Grid, lose: Callable[[Path], None], phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left, there = getattr(jobs, phase), [], list[Path]()

    def losing(*about: Any) -> Any:
        if not left:
            lose(grid.directory)
            left.append(len(fakes.calls()))
            there.extend(grid.directory.rglob("*"))
        return real(*about)

    monkeypatch.setattr(jobs, phase, losing)
    with pytest.raises(SetGoneError, match="was deleted, moved or replaced"):
        grid.run(tasks=("expressions-3",))
    assert set(grid.directory.rglob("*")) == set(there), "nothing, or the other set as it was"
    if phase != "time_step":  # a round is one record
        assert len(fakes.calls()) == left[0] + 1, "what was under way, and no more"


def test_of_a_set_that_is_lost_while_estimators_are_proven_nothing_comes_back(
    grid: Grid,
) -> None:
    def prove() -> list[dict[str, Any]]:
        shutil.rmtree(grid.directory)
        return []

    with pytest.raises(SetGoneError):
        run_experiment(
            grid.experiment,
            grid.directory,
            workers=1,
            command="estbench run",
            display=grid.screen,
            prove=prove,
        )
    assert not grid.directory.exists()


def test_two_runs_do_not_write_to_one_folder_at_the_same_time(grid: Grid) -> None:
    with (
        grid.results.writing(),
        pytest.raises(UserError, match="another run is writing"),
    ):
        grid.run()


def test_timing_stops_when_its_budget_is_spent_and_stays_so(grid: Grid) -> None:
    timing = TimingSettings(rounds=50, seconds=1e-9)
    grid.run(seeds=(0,), timing=timing)
    assert len(list(grid.results.records("timing"))) == 1
    fakes.forget()
    grid.run(seeds=(0,), timing=timing)
    assert fakes.calls() == []


def test_progress_is_counted_by_phase_and_time_left_is_learnt(grid: Grid) -> None:
    grid.run()
    assert grid.screen.phases == {"training": 8, "snapshots": 12, "timing": 2}
    assert all(left is not None and left >= 0.0 for left in grid.screen.lefts)


def test_the_experiment_survives_its_manifest() -> None:
    odd = replace(SMALL, per_task={"oracle-small": {"batches": 16}})
    assert type(odd).from_dict(json.loads(json.dumps(odd.as_dict()))) == odd

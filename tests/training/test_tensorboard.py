"""Event files: the records' numbers once more, and never in a run's way."""

from __future__ import annotations

import gc
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runner.conftest import Screen, without_processes

from estbench.cli import main
from estbench.config.experiment import (
    Experiment,
    SnapshotSettings,
    TimingSettings,
    TrainingSettings,
)
from estbench.runner import run_experiment
from estbench.runner.events import Events, event_folder, export, tag
from estbench.store import ResultSet, numbers
from estbench.training.watching import tell, watched

pytest.importorskip("tensorboard", reason="needs the package tensorboard: pip install tensorboard")

TASK = "expressions-3"

TINY = Experiment(
    name="tiny",
    tasks=(TASK,),
    estimators=("rloo", "relax"),
    seeds=(0,),
    training=TrainingSettings(
        batches=4,
        batch_size=16,
        data_size=128,
        pretrain_epochs=1,
        discriminator_updates=1,
        discriminator_batch_size=16,
        evaluate_every=2,
        evaluation_samples=32,
    ),
    snapshots=SnapshotSettings(sequences=64, adaptation_batches=1, reference_sequences=64),
    timing=TimingSettings(rounds=0),
)


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs run in this process."""
    without_processes(monkeypatch)


def make(directory: Path, *, tensorboard: bool, experiment: Experiment = TINY) -> Screen:
    screen = Screen()
    summary = run_experiment(
        experiment,
        directory,
        workers=1,
        command="estbench run",
        display=screen,
        tensorboard=tensorboard,
    )
    assert summary.failures == []
    return screen


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What the event files of a folder hold: tag -> (step, value)."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    return {
        name: [(event.step, event.value) for event in found.Scalars(name)]
        for name in found.Tags()["scalars"]
    }


def expected(record: dict[str, Any]) -> dict[str, list[tuple[int, float]]]:
    """The same from a record; what is null there is no event."""
    curves = record["curves"]
    named = {tag(record["task"], name): values for name, values in curves["metrics"].items()}
    named |= {"cost/reward_evals": curves["reward_evals"], "cost/seconds": curves["seconds"]}
    kept = {
        name: [(s, pytest.approx(v, rel=1e-6)) for s, v in zip(curves["step"], values, strict=True)
               if v is not None]
        for name, values in named.items()
    }  # fmt: skip
    return {name: values for name, values in kept.items() if values}


@pytest.fixture(scope="module")
def watched_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result set whose runs wrote events while they trained."""
    directory = tmp_path_factory.mktemp("watched")
    with pytest.MonkeyPatch.context() as patch:
        without_processes(patch)
        make(directory, tensorboard=True)
    return directory


def test_the_events_are_the_records_curves(watched_set: Path) -> None:
    records = list(ResultSet(watched_set).records("runs"))
    assert {record["estimator"] for record in records} == {"rloo", "relax"}, "the reference is rloo"
    for record in records:
        folder = event_folder(watched_set, TASK, record["estimator"], 0)
        assert folder == watched_set / "tensorboard" / TASK / record["estimator"] / "seed-000"
        found = scalars(folder)
        assert found == expected(record)
        assert len(found["gradient/log_variance"]) == 4
        assert len(found["quality/tv"]) == 2, "evaluated after every second batch"


def test_the_settings_stand_beside_the_curves(watched_set: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(event_folder(watched_set, TASK, "relax", 0)))
    found.Reload()
    (event,) = found.Tensors("settings/text_summary")
    text = event.tensor_proto.string_val[0].decode()
    assert "| estimator | \"relax\" |" in text  # fmt: skip
    assert "| batches | 4 |" in text
    assert "oracle_width" not in text, "no setting of this task"


def test_no_number_and_no_key_depends_on_them(watched_set: Path, tmp_path: Path) -> None:
    make(tmp_path, tensorboard=False)
    assert not (tmp_path / "tensorboard").exists()
    paths = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("seed-*.json"))
    assert len(paths) == 2 + 1 + 2
    for path in paths:
        plain, told = (
            numbers(json.loads((folder / path).read_text())) for folder in (tmp_path, watched_set)
        )
        assert plain == told
    before = {path: path.stat().st_mtime_ns for path in watched_set.rglob("*.json")}
    make(watched_set, tensorboard=False)
    assert {path: path.stat().st_mtime_ns for path in watched_set.rglob("*.json")} == before


def test_a_run_that_is_made_again_leaves_one_curve(tmp_path: Path) -> None:
    one = replace(TINY, estimators=("relax",))
    make(tmp_path, tensorboard=True, experiment=one)
    folder = event_folder(tmp_path, TASK, "relax", 0)
    before = sorted(folder.iterdir())
    assert not event_folder(tmp_path, TASK, "rloo", 0).exists(), "rloo is no run of this set"
    ResultSet(tmp_path).run_path(TASK, "relax", 0).unlink()
    make(tmp_path, tensorboard=True, experiment=one)
    after = sorted(folder.iterdir())
    assert len(before) == len(after) == 1
    assert before != after
    assert [step for step, _ in scalars(folder)["gradient/log_variance"]] == [0, 1, 2, 3]


def test_where_events_cannot_be_written_the_run_goes_on_and_a_line_says_so(
    watched_set: Path, tmp_path: Path
) -> None:
    shutil.copy(watched_set / "manifest.json", tmp_path)
    (tmp_path / "tensorboard").write_text("a file where a folder has to be")
    screen = make(tmp_path, tensorboard=True)
    (note,) = [note for note in screen.notes if "no event files" in note]
    assert "Error" in note
    for record, other in zip(
        ResultSet(tmp_path).records("runs"), ResultSet(watched_set).records("runs"), strict=True
    ):
        assert numbers(record) == numbers(other)


def test_a_writer_that_fails_midway_falls_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    events = Events(tmp_path, TINY, TASK, "relax", 0)
    events.write(0, 16, 0.1, {"goodness": 0.5})
    with monkeypatch.context() as patch:
        patch.setattr(RecordWriter, "write", full)
        events.write(1, 32, 0.2, {"goodness": 0.6})
    events.write(2, 48, 0.3, {"goodness": 0.7})
    events.close()
    assert events.fault == "OSError: [Errno 28] No space left on device"


def test_finished_runs_can_be_exported_afterwards(watched_set: Path, tmp_path: Path) -> None:
    make(tmp_path, tensorboard=False)
    assert export(tmp_path) == 2
    for record in ResultSet(tmp_path).records("runs"):
        assert scalars(event_folder(tmp_path, TASK, record["estimator"], 0)) == expected(record)
    assert export(tmp_path) == 2
    folder = event_folder(tmp_path, TASK, "relax", 0)
    assert len(list(folder.iterdir())) == 1, "exported twice, and still one curve"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_ends_an_export_with_one_line(
    watched_set: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    shutil.copytree(watched_set, tmp_path / "set")
    real = Path.open

    def full(path: Path, *how: Any, **more: Any) -> Any:
        return real(Path("/dev/full") if "tfevents" in path.name else path, *how, **more)

    monkeypatch.setattr(Path, "open", full)
    assert main(["report", "--tensorboard", str(tmp_path / "set")]) == 3
    gc.collect()
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert "No space left on device" in said
    assert [warning.message for warning in recwarn] == []


def test_without_the_package_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    out = tmp_path / "out"
    for words in (["run", "--tensorboard", "--out", str(out)], ["report", "x", "--tensorboard"]):
        assert main(words) == 2
        printed = capsys.readouterr()
        assert len(printed.err.splitlines()) == 1
        assert "python -m pip install tensorboard" in printed.err
    assert not out.exists()


def test_nobody_is_told_unless_somebody_watches() -> None:
    heard: list[int] = []
    tell(0, 1, 0.1, {})
    with watched(lambda batch, evals, seconds, metrics: heard.append(batch)):
        tell(1, 2, 0.2, {})
        with watched(None):
            tell(2, 3, 0.3, {})
        tell(3, 4, 0.4, {})
    tell(4, 5, 0.5, {})
    assert heard == [1, 3]


def test_tags_are_grouped() -> None:
    assert tag(TASK, "goodness") == "quality/goodness"
    assert tag(TASK, "log_variance") == "gradient/log_variance"
    assert tag(TASK, "discriminator_loss") == "discriminator/loss"
    assert tag(TASK, "eta") == "estimator/eta"

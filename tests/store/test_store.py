"""Result sets on disk: whole files or none, and keys that change only when numbers would."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from estbench.config.experiment import (
    Experiment,
    SnapshotSettings,
    TimingSettings,
    TrainingSettings,
)
from estbench.core.errors import UserError
from estbench.store import (
    CorruptRecordError,
    ResultSet,
    StorageError,
    envelope,
    finite,
    key,
    numbers,
    timing_key,
    write_bytes,
    write_json,
)
from estbench.store.atomic import temporary_path
from estbench.store.outputs import check_output
from estbench.store.schema import SCHEMA, check_manifest, check_proofs, check_record

BASE = Experiment("x", ("expressions-3",), ("rloo",), (0, 1))
MANIFEST = {"schema": SCHEMA, "experiment": BASE.as_dict()}


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "record.json"
    write_json(path, {"a": 1})
    write_json(path, {"a": [0.1, None]})
    assert path.read_text() == '{"a":[0.1,null]}\n'
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "record.json"
    write_json(path, {"a": 1})

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"os.{call}", full)
    with pytest.raises(StorageError, match=r"cannot write .*record.json: No space left"):
        write_json(path, {"a": 2})
    assert path.read_text() == '{"a":1}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_a_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        write_bytes(tmp_path / "file" / "record.json", b"")


def test_numbers_that_are_not_finite_are_stored_as_null() -> None:
    payload = {"a": [1.0, float("nan")], "b": {"c": float("-inf")}, "d": (2, "x", None, True)}
    assert finite(payload) == {"a": [1.0, None], "b": {"c": None}, "d": [2, "x", None, True]}


def test_time_and_memory_are_left_out_of_what_must_be_equal() -> None:
    record = envelope("run", "k", "t", "e", 0) | {"final": {"goodness": 1.0}}
    record["snapshots"] = [{"seconds_per_draw": 1.0, "mse": 2.0}]
    left = numbers(record)
    assert "timing" not in left
    assert left["final"] == {"goodness": 1.0}
    assert left["snapshots"] == [{"mse": 2.0}]


@pytest.mark.parametrize(
    "change",
    [
        {"seeds": (0, 1, 2, 3)},
        {"tasks": ("expressions-3", "oracle-small")},
        {"estimators": ("rloo", "relax")},
        {"also_measured": ("relax",)},
        {"name": "y", "description": "z"},
        {"timing": TimingSettings(rounds=1)},
        {"per_task": {"oracle-small": {"batches": 3}}},
        {"per_task": {"expressions-3": {"batches": 234}}},
    ],
)
def test_a_key_does_not_depend_on_the_rest_of_the_grid(change: dict[str, object]) -> None:
    grown = replace(BASE, **change)  # type: ignore[arg-type]
    for kind in ("run", "reference", "snapshots"):
        assert key(kind, grown, "expressions-3", "rloo", 0) == key(
            kind, BASE, "expressions-3", "rloo", 0
        )


def test_a_key_depends_on_all_that_determines_the_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    where = ("expressions-3", "relax", 0)
    keys = {
        key("run", BASE, *where),
        key("reference", BASE, *where),
        key("snapshots", BASE, *where),
        key("run", BASE, "oracle-small", "relax", 0),
        key("run", BASE, "expressions-3", "rebar", 0),
        key("run", BASE, "expressions-3", "relax", 1),
        key("run", replace(BASE, training=TrainingSettings(batches=3)), *where),
        key("run", replace(BASE, per_task={"expressions-3": {"batches": 4}}), *where),
        key("run", replace(BASE, device="cuda:1"), *where),
        key("snapshots", replace(BASE, snapshots=SnapshotSettings(sequences=999)), *where),
    }
    assert len(keys) == 10
    assert key("run", replace(BASE, device="cuda"), *where) in keys, "whichever card"
    assert key("run", replace(BASE, snapshots=SnapshotSettings(sequences=999)), *where) in keys

    from estbench import estimators

    later = replace(estimators.info("relax"), version=99)
    monkeypatch.setattr(estimators, "info", lambda name: later)
    assert key("run", BASE, *where) not in keys


def test_other_snapshots_make_another_reference_and_not_another_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is measured at five snapshots is not gone on with at nine."""
    kinds, where = ("run", "reference", "snapshots"), ("expressions-3", "rloo", 0)
    nine = [key(kind, BASE, *where) for kind in kinds]
    monkeypatch.setattr("estbench.store.keys.FRACTIONS", (0.0, 0.125, 0.25, 0.5, 1.0))
    five = [key(kind, BASE, *where) for kind in kinds]
    assert [a == b for a, b in zip(nine, five, strict=True)] == [True, False, False]


def measurement(**columns: object) -> dict[str, object]:
    record = envelope("snapshots", "k", "t", "e", 0)
    return record | {"snapshots": [{"snapshot": 0, **columns}]}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("tail_index", -1.0),
        ("reward_std", -0.1),
        ("reward_scale", "much"),
        ("adam_variance", -1e-9),
        ("adam_gradient_norm", -1.0),
        ("between_variance", float("nan")),
        ("evaluations_at_batch", -1.0),
    ],
)
def test_a_measurement_that_cannot_be_is_no_record(column: str, value: object) -> None:
    check_record(measurement())  # as older ones are
    check_record(measurement(**{column: None}))
    check_record(measurement(**{column: 0.5}))
    with pytest.raises(ValueError, match=rf"snapshots\[0\]\.{column}: .*number"):
        check_record(measurement(**{column: value}))


NOT_BELOW_NOTHING = [
    *("fraction", "total_variance", "variance_low", "variance_high", "untrained_variance", "mse"),
    *("kurtosis", "relative_bias", "bias_low", "bias_high", "gradient_norm", "snr"),
    *("hard_evals_per_draw", "relaxed_evals_per_draw", "adapt_evals", "policy_steps_per_draw"),
    "seconds_per_draw",
]


@pytest.mark.parametrize("column", NOT_BELOW_NOTHING)
def test_no_variance_and_no_count_is_below_nothing(column: str) -> None:
    for value in (None, 0, 0.0, 2.5):
        check_record(measurement(**{column: value}))
    with pytest.raises(ValueError, match=rf"snapshots\[0\]\.{column}: expected a number >= 0"):
        check_record(measurement(**{column: -1e-9}))


def trained(**changes: Any) -> dict[str, Any]:
    columns = {"step": [0, 1, 4], "reward_evals": [128, 128, 640], "seconds": [0.5, 0.5, 0.75]}
    metrics = {"total_variance": [0.0, None, 2.5], "log_variance": [None, -1.0, 0.9]}
    record = envelope("run", "k", "t", "e", 0)
    return record | {"curves": columns | {"metrics": metrics} | changes}


def test_counts_of_evaluations_never_fall_and_curves_hold_no_negative_variance() -> None:
    check_record(trained())
    for held in ("reward_evals", "seconds"):
        for values in ([-1, 0, 1], [2, 1, 3]):
            with pytest.raises(ValueError, match=f"curves: {held} is negative, or falls"):
                check_record(trained(**{held: values}))
    for held in ("total_variance", "mean_norm2", "bias_element_variance"):
        with pytest.raises(ValueError, match=rf"curves: metrics\.{held} is negative"):
            check_record(trained(metrics={held: [0.5, None, -1e-9]}))


def test_no_time_is_below_nothing() -> None:
    for name in ("wall_s", "cpu_s", "peak_mb"):
        record = trained()
        record["timing"][name] = -0.1
        with pytest.raises(ValueError, match=rf"timing\.{name}: expected a number >= 0"):
            check_record(record)
    timing = {"round": 0, "rows": [{"task": "t", "estimator": "e", "seconds_per_step": -0.1}]}
    with pytest.raises(ValueError, match=r"rows\[0\]\.seconds_per_step: expected a number >= 0"):
        check_record(envelope("timing", "k") | timing)


@pytest.mark.parametrize("name", ["\x1b[31m", "", " ", "two\nlines", "n" * 201])
def test_no_table_has_a_key_that_cannot_be_printed(name: str) -> None:
    for held in ("final", "start", "info"):
        with pytest.raises(
            ValueError, match=rf"^{held}: .* (cannot be a name|more than 200 letters)"
        ):
            check_record(envelope("run", "k", "t", "e", 0) | {held: {name: 0.5}})


@pytest.mark.parametrize("refused", [{"../x": {"rloo": "-"}}, {"t": {"a/b": "-"}}])
def test_a_manifest_names_no_task_that_could_be_no_folder(refused: dict[str, Any]) -> None:
    check_manifest(MANIFEST | {"refused": {"t": {"rloo": "too long"}}})
    with pytest.raises(ValueError, match="cannot name a task or an estimator"):
        check_manifest(MANIFEST | {"refused": refused})


STEP = {"optimiser": "adam", "rate_factor": 0.5, "batch": 128, "steps": 1}
TIMED = {"task": "t", "estimator": "e", "seconds_per_step": 0.1}


@pytest.mark.parametrize(
    ("record", "where"),
    [
        (measurement() | {"snapshots": [{"snapshot": 0}, {"snapshot": 0}]}, "snapshots"),
        (measurement(progress=[STEP, STEP | {"ratio": 0.5}]), r"snapshots\[0\]: progress"),
        (envelope("timing", "k") | {"round": 0, "rows": [TIMED, TIMED]}, "rows"),
        (envelope("timing", "k") | {"round": 0, "estimators": ["e", "e"]}, "estimators"),
        (
            trained() | {"temperatures": [{"temperature": 1.0}, {"temperature": 1.0}]},
            "temperatures",
        ),
    ],
)
def test_nothing_is_there_twice(record: dict[str, Any], where: str) -> None:
    with pytest.raises(ValueError, match=rf"{where}\[1\] is there twice"):
        check_record(record)


@pytest.mark.parametrize("name", ["tasks", "estimators", "also_measured", "seeds"])
def test_no_manifest_names_a_thing_twice(name: str) -> None:
    manifest: dict[str, Any] = json.loads(json.dumps(MANIFEST))
    manifest["experiment"]["also_measured"] = ["relax"]
    check_manifest(manifest)
    manifest["experiment"][name] *= 2
    with pytest.raises(ValueError, match=rf"experiment: {name}\[\d\] is there twice"):
        check_manifest(manifest)


def test_no_configuration_has_two_verdicts() -> None:
    proof = {"configuration": {"estimator": "rloo"}, "verdict": "biased", "detail": ""}
    check_proofs([proof])
    with pytest.raises(ValueError, match=r"it\[1\] is there twice"):
        check_proofs([proof, proof | {"verdict": "unbiased"}])


def test_a_key_knows_of_steps_that_are_followed_only_where_they_are() -> None:
    def keys(**changes: Any) -> tuple[str, str]:
        changed = replace(BASE, snapshots=SnapshotSettings(**changes))
        return tuple(
            key(k, changed, "expressions-3", "relax", 0) for k in ("reference", "snapshots")
        )

    assert keys(progress_rates=(0.5,)) == keys()
    followed = keys(progress=4)
    assert not set(followed) & set(keys())
    assert keys(progress=8)[0] == followed[0], "the exact steps are the same"
    assert not set(keys(progress=4, progress_rates=(0.5,))) & set(followed)


def test_a_task_s_own_measurement_is_no_other_run() -> None:
    where = ("expressions-3", "relax", 0)
    own = replace(BASE, per_task={"expressions-3": {"sequences": 999}})
    everywhere = replace(BASE, snapshots=SnapshotSettings(sequences=999))
    assert key("snapshots", own, *where) == key("snapshots", everywhere, *where)
    assert key("snapshots", own, *where) != key("snapshots", BASE, *where)
    assert key("run", own, *where) == key("run", BASE, *where)
    assert timing_key(own) == timing_key(BASE)


def test_timing_rounds_have_a_key_of_their_own() -> None:
    assert timing_key(replace(BASE, estimators=("relax",))) == timing_key(BASE)
    assert timing_key(replace(BASE, timing=TimingSettings(warmup=0))) != timing_key(BASE)


def test_records_are_found_by_task_estimator_and_seed(tmp_path: Path) -> None:
    results = ResultSet(tmp_path)
    assert list(results.records("runs")) == []
    for seed in (10, 2):
        record = envelope("run", "k", "t", "e", seed)
        write_json(results.run_path("t", "e", seed), record)
    assert [record["seed"] for record in results.records("runs")] == [2, 10]
    assert results.run_path("t", "e", 2) == tmp_path / "runs" / "t" / "e" / "seed-002.json"
    assert results.state_path("t", 2) == tmp_path / "reference" / "t" / "seed-002.pt"
    assert results.timing_path(3) == tmp_path / "timing" / "003.json"
    assert results.read(results.run_path("t", "e", 3)) is None
    results.run_path("t", "e", 2).write_text('{"kind": "run", "schema"')
    with pytest.raises(CorruptRecordError, match=r"seed-002.json"):
        list(results.records("runs"))


def test_a_damaged_manifest_is_named_with_the_remedy(tmp_path: Path) -> None:
    assert ResultSet(tmp_path).manifest() is None
    (tmp_path / "manifest.json").write_text('{"experi')
    with pytest.raises(UserError, match=r"manifest.json is damaged .*: put a copy in its place"):
        ResultSet(tmp_path).manifest()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, reason in ((tmp_path / "file", "it is a file"), (tmp_path / "file" / "x", "Not a")):
        with (
            pytest.raises(UserError, match=rf"cannot write to .*{reason}.*--out"),
            ResultSet(path).writing(),
        ):
            pass


def files(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_what_a_killed_writer_left_is_cleared_away_and_no_file_of_another_name(
    tmp_path: Path,
) -> None:
    ResultSet(tmp_path).write_manifest(MANIFEST)
    path = ResultSet(tmp_path).run_path("t", "e", 0)
    path.parent.mkdir(parents=True)
    left = [temporary_path(path), temporary_path(tmp_path / "manifest.json")]
    kept = [tmp_path / ".thesis.tmp", path.with_name(".draft.12ab.tmp"), path.with_name("x.tmp")]
    for one in (*left, *kept):
        one.write_text("{")
    with ResultSet(tmp_path).writing():
        assert not any(one.exists() for one in left)
        assert all(one.exists() for one in kept)


@pytest.mark.parametrize("name", [".thesis.tmp", "notes/.draft.tmp", "thesis.tex", ".git/config"])
def test_a_folder_that_is_no_result_set_is_refused_and_nothing_in_it_is_touched(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("a year of work")
    left = temporary_path(tmp_path / name)
    left.write_text("half of it")
    before = files(tmp_path)
    first = re.escape(name.partition("/")[0])
    why = rf"is no result set .*holds {first}.*: give --out a new or an empty folder"
    with pytest.raises(UserError, match=why), ResultSet(tmp_path).writing():
        pass
    assert files(tmp_path) == before


def test_a_manifest_of_another_program_makes_no_result_set(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "an extension", "version": "1.0"}')
    (tmp_path / ".thesis.tmp").write_text("a year of work")
    before = files(tmp_path)
    with pytest.raises(UserError, match=r"manifest.json is damaged"), ResultSet(tmp_path).writing():
        pass
    assert files(tmp_path) == before


def test_a_folder_in_which_a_run_was_killed_before_its_manifest_is_as_good_as_empty(
    tmp_path: Path,
) -> None:
    with ResultSet(tmp_path / "set").writing():
        temporary_path(tmp_path / "set" / "manifest.json").write_text("{")
    with ResultSet(tmp_path / "set").writing():
        pass


NAMES = ("own.json", "own.csv")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("own", [None, "[]", "[1]", '{"a": 1}', '[{"a": 1}, {"b": 2}]', "no JSON"])
def test_a_file_that_estbench_did_not_write_is_not_replaced(
    tmp_path: Path, name: str, own: str | None
) -> None:
    (tmp_path / name).write_text("somebody's own")
    if own is not None:
        (tmp_path / "own.json").write_text(own)
    before = files(tmp_path)
    with pytest.raises(UserError, match="was not written by estbench: give --out another folder"):
        check_output(tmp_path, NAMES, {"a", "b"})
    assert files(tmp_path) == before


def test_what_estbench_wrote_is_replaced_and_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("a year of work")
    check_output(tmp_path, NAMES, {"a"})
    for known in ('{"a": 1, "c": 2}', '[{"a": 1}, {"a": 2}]'):
        (tmp_path / "own.json").write_text(known)
        check_output(tmp_path, NAMES, {"a"})
    assert set(files(tmp_path)) == {"thesis.tex", "own.json"}

"""The hash of a result set: the same for the same numbers, another for any other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from estbench.core.errors import UserError
from estbench.store import ResultSet, envelope, write_json
from estbench.store.digest import digest

Change = Callable[[dict[str, Any]], None]


def curves(seed: int) -> dict[str, Any]:
    return {
        "step": [0, 1],
        "reward_evals": [4, 8],
        "seconds": [0.5, 1.0],
        "metrics": {"goodness": [0.25 + seed, None]},
    }


@pytest.fixture
def made(tmp_path: Path) -> ResultSet:
    """Two tasks, two estimators and two seeds, one of whose runs failed."""
    results = ResultSet(tmp_path / "set")
    for task in ("a", "b"):
        for seed in (0, 1):
            for name in ("rloo", "relax"):
                run = envelope("run", "k", task, name, seed) | {"curves": curves(seed)}
                write_json(results.run_path(task, name, seed), run)
                row = {"snapshot": 0, "total_variance": 2.0 + seed, "seconds_per_draw": 0.1}
                measured = envelope("snapshots", "k", task, name, seed) | {"snapshots": [row]}
                write_json(results.snapshots_path(task, name, seed), measured)
            reference = envelope("reference", "k", task, "rloo", seed) | {"curves": curves(seed)}
            write_json(results.reference_path(task, seed), reference | {"state_sha256": "0"})
    error = {"type": "WorkerDied", "message": "pid 7 in /tmp/x", "traceback": "line 1"}
    failed = envelope("run", "k", "b", "relax", 1, error=error)
    write_json(results.run_path("b", "relax", 1), failed)
    write_json(results.timing_path(0), envelope("timing", "k") | {"round": 0, "rows": []})
    return results


def change(path: Path, by: Change) -> None:
    record = json.loads(path.read_bytes())
    by(record)
    path.write_text(json.dumps(record, indent=2))


def test_time_messages_keys_layout_and_timing_rounds_are_no_part_of_it(made: ResultSet) -> None:
    before = digest(made.path)

    def otherwise(record: dict[str, Any]) -> None:
        record["timing"] = {"wall_s": 9.0, "cpu_s": 9.0, "peak_mb": 9.0}
        record["key"] = "another"
        if record["error"]:
            record["error"] |= {"message": "pid 8 in /home/y", "traceback": None}
        if "curves" in record:
            record["curves"]["seconds"] = [7.0, 8.0]
        if "state_sha256" in record:
            record["state_sha256"] = "1"
        for row in record.get("snapshots", ()):
            row["seconds_per_draw"] = 9.0

    for path in made.path.rglob("seed-*.json"):
        change(path, otherwise)
    made.state_path("a", 0).write_bytes(b"other bytes")
    shutil.rmtree(made.path / "timing")
    assert digest(made.path) == before
    assert before.sha256 is not None
    assert (before.records, before.failed) == ({"run": 8, "reference": 4, "snapshots": 8}, 1)


def _number(record: dict[str, Any]) -> None:
    record["curves"]["metrics"]["goodness"][0] += 1e-16 + record["seed"] * 0.0 + 2e-16


def _unknown(record: dict[str, Any]) -> None:
    record["curves"]["metrics"]["goodness"][1] = 0.0


def _metric(record: dict[str, Any]) -> None:
    record["final"] = {"goodness": 0.5}


def _failure(record: dict[str, Any]) -> None:
    record |= {"status": "failed", "error": {"type": "E", "message": "", "traceback": None}}


@pytest.mark.parametrize("by", [_number, _unknown, _metric, _failure])
def test_any_other_number_changes_it_and_json_says_where(made: ResultSet, by: Change) -> None:
    before = digest(made.path).as_dict()
    change(made.run_path("a", "relax", 0), by)
    after = digest(made.path).as_dict()
    assert after["sha256"] != before["sha256"]
    kinds = before["kinds"]
    assert {k for k in kinds if kinds[k]["sha256"] != after["kinds"][k]["sha256"]} == {"run"}
    old, new = (found["kinds"]["run"]["tasks"] for found in (before, after))
    assert {task for task in old if old[task] != new[task]} == {"a"}
    old, new = old["a"]["estimators"], new["a"]["estimators"]
    assert {name for name in old if old[name] != new[name]} == {"relax"}


def test_the_kind_of_a_failure_counts(made: ResultSet) -> None:
    before = digest(made.path).sha256

    def otherwise(record: dict[str, Any]) -> None:
        record["error"]["type"] = "OutOfMemory"

    change(made.run_path("b", "relax", 1), otherwise)
    assert digest(made.path).sha256 != before


def test_a_missing_or_further_record_changes_it(made: ResultSet) -> None:
    found = {digest(made.path).sha256}
    write_json(made.run_path("a", "relax", 1000), envelope("run", "k", "a", "relax", 1000))
    found.add(digest(made.path).sha256)
    made.run_path("a", "relax", 0).unlink()
    found.add(digest(made.path).sha256)
    assert len(found) == 3


def test_a_set_without_its_run_files_has_no_hash_of_the_whole(made: ResultSet) -> None:
    whole = digest(made.path)
    (made.path / "tables").mkdir()
    (made.path / "tables" / "runs.csv").write_text("task,estimator,seed,status\na,relax,0,ok\n")
    assert digest(made.path) == whole, "tables make no difference where the records are there"
    shutil.rmtree(made.path / "runs")
    found = digest(made.path)
    assert found.sha256 is None
    assert "no run files, only tables" in found.absent
    assert found.parts["snapshots"] == whole.parts["snapshots"]


def test_a_set_without_its_references_has_none_either(made: ResultSet) -> None:
    shutil.rmtree(made.path / "reference")
    assert digest(made.path).sha256 is None
    assert "no files in reference/" in digest(made.path).absent


def test_what_is_no_result_set_is_one_line(made: ResultSet, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no result set at .*nowhere"):
        digest(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no result set at .*empty"):
        digest(tmp_path / "empty")
    made.run_path("a", "relax", 0).write_text('{"kind":"run"')
    with pytest.raises(UserError, match=r"relax/seed-000.json .*delete it"):
        digest(made.path)

"""Estimators that a task is too large for: rows that say so, no work, and no failure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from estbench.cli import main
from estbench.config.experiment import SnapshotSettings, TrainingSettings
from estbench.core.errors import UserError
from estbench.proof.gate import configurations
from estbench.report.records import load
from estbench.tasks.fit import REFUSED, check_fit, check_names, refusals

from . import fakes
from .conftest import SMALL, Grid

WHY = "exact lists V^T = 50^8 sequences, more than 50,000"


def test_what_does_not_fit_is_not_run_and_is_a_row_that_says_so(grid: Grid) -> None:
    summary = grid.run(estimators=("rloo", "exact"), also_measured=())
    assert summary.failures == []
    assert not [call for call in fakes.calls() if "oracle-small exact" in call]
    assert [call for call in fakes.calls() if "expressions-3 exact" in call]
    manifest = grid.results.manifest()
    assert manifest is not None
    assert manifest["refused"] == {"oracle-small": {"exact": WHY}}

    fakes.forget()
    again = grid.run(estimators=("rloo", "exact"), also_measured=(), retry_failed=True)
    assert again.made == 0
    assert fakes.calls() == []

    report = load(grid.directory)
    own = report.runs[report.runs["estimator"] == "exact"].set_index("task")
    assert set(own.loc["oracle-small", "status"]) == {REFUSED}
    assert set(own.loc["oracle-small", "error"]) == {WHY}
    assert set(own.loc["expressions-3", "status"]) == {"ok"}
    at_snapshots = report.variance[report.variance["status"] == REFUSED]
    assert len(at_snapshots) == 2
    assert report.failures == ()


def test_an_estimator_that_is_measured_alone_is_a_row_as_well(grid: Grid) -> None:
    grid.run(estimators=("rloo",), also_measured=("exact",))
    variance = load(grid.directory).variance
    refused = variance[variance["status"] == REFUSED]
    assert set(refused["task"]) == {"oracle-small"}
    assert refused["snapshot"].isna().all()


def test_nothing_is_proven_for_tasks_that_are_refused() -> None:
    alone = replace(SMALL, tasks=("oracle-small",), estimators=("rloo", "exact"), also_measured=())
    assert [c.estimator for c in configurations(alone)] == ["rloo"]
    assert refusals(alone) == {"oracle-small": {"exact": WHY}}


def test_a_random_reward_is_refused_by_what_relaxes_tokens() -> None:
    training = replace(SMALL.training, reward="random")
    given = replace(SMALL, estimators=("rloo", "rebar"), also_measured=(), training=training)
    assert {task: set(found) for task, found in refusals(given).items()} == {
        task: {"rebar"} for task in SMALL.tasks
    }
    # What is proven of the others does not depend on the reward that they are given.
    assert {c.reward for c in configurations(given)} == {"p"}


def test_nothing_to_do_is_the_users_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"exact does not fit oracle-small: .*50\^8"):
        check_fit(replace(SMALL, tasks=("oracle-small",), estimators=("exact",), also_measured=()))
    assert main(["run", "--tasks", "oracle-small", "--estimators", "exact"]) == 2
    said = capsys.readouterr().err
    assert "50^8" in said
    assert "smaller task" in said


def test_what_takes_no_contexts_is_refused_where_there_are_some() -> None:
    tasks = ("digits-categorical", "expressions-3")
    names = ("rloo", "spsa", "evolution-strategies")
    found = refusals(replace(SMALL, tasks=tasks, estimators=names, also_measured=()))
    assert found == {
        "digits-categorical": dict.fromkeys(
            names[1:], "it perturbs the parameters of one policy, not of one a context"
        )
    }


def test_a_batch_that_does_not_fall_into_draws_is_refused_and_not_made_larger_or_smaller() -> None:
    names = ("reinforce", "rloo", "reinforce-standardised")
    wanted = replace(SMALL, tasks=("expressions-3",), estimators=names, also_measured=())
    for size in (32, 96):
        given = replace(
            wanted,
            training=TrainingSettings(batch_size=size),
            snapshots=SnapshotSettings(sequences=256),
        )
        why = f"batch_size = {size} must be a multiple of 64, the sequences of one draw"
        assert refusals(given) == {"expressions-3": {"reinforce-standardised": why}}
        check_fit(given)
    given = replace(given, training=TrainingSettings(batch_size=100))
    with pytest.raises(UserError, match=r"batch_size = 100 must be a multiple of 8, .*of rloo"):
        check_fit(given)


def test_a_size_in_a_name_has_to_divide_the_batch() -> None:
    names = ("rloo", "rloo-16", "rloo-24", "rloo-96", "rloo-192")
    given = replace(
        SMALL,
        tasks=("expressions-3",),
        estimators=names,
        also_measured=(),
        training=TrainingSettings(batch_size=96),
        snapshots=SnapshotSettings(sequences=256),
    )
    check_names(given)
    why = "batch_size = 96 must be a multiple of 192, the sequences of one draw"
    assert refusals(given) == {"expressions-3": {"rloo-192": why}}, "rloo-96 is the whole batch"

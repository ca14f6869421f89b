"""Several tasks at once: what the mean over tasks is, and what the profile counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from estbench.report.building import load_comparisons
from estbench.report.data.across import across_tasks, profile
from estbench.report.data.comparisons import Comparisons
from estbench.report.view.figures import across
from estbench.report.view.figures.base import drawing

from .synthetic import EVALS, RATIO, write_result_set

SEEDS = 8


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Comparisons:
    tasks = ("expressions-3", "oracle-small")
    folder = tmp_path_factory.mktemp("two")
    return load_comparisons(write_result_set(folder, tasks=tasks, seeds=SEEDS, rounds=0))


def test_the_mean_over_tasks_is_taken_within_a_seed(two: Comparisons) -> None:
    one = across_tasks(two)["rebar"]
    assert list(one.logs) == ["expressions-3", "oracle-small"]
    # Tasks are no replicates: the interval is one of as many numbers as there are seeds.
    assert one.estimate.n == SEEDS
    by_seed = one.logs.mean(axis=1)
    assert one.estimate.value == pytest.approx(np.exp(by_seed.mean()))
    truth = RATIO["rebar"] * sum(EVALS["rebar"])
    assert one.estimate.low < 1.1 * truth
    assert one.estimate.high > truth / 1.1


def test_the_profile_counts_tasks_and_seeds(two: Comparisons) -> None:
    one = across_tasks(two)["rebar"]
    ratios = np.exp(one.logs.to_numpy().ravel())
    middle = float(np.median(ratios))
    assert profile(one, 2, np.array([0.0, middle, np.inf])) == pytest.approx([0.0, 0.5, 1.0])
    # A third task, which it was not measured on, is never reached.
    assert profile(one, 3, np.array([np.inf])) == pytest.approx([2 / 3])


def test_what_lacks_a_task_has_no_mean(two: Comparisons) -> None:
    rows = two.results.variance
    lacking = (rows["estimator"] == "relax") & (rows["task"] == "oracle-small")
    less = Comparisons(replace(two.results, variance=rows[~lacking]))
    assert not across_tasks(less)["relax"].estimate.known
    assert across_tasks(less)["rebar"].estimate.known


def test_one_task_has_nothing_to_average(tmp_path: Path) -> None:
    alone = write_result_set(tmp_path, tasks=("expressions-3",), seeds=2, rounds=0)
    comparisons = load_comparisons(alone)
    assert across_tasks(comparisons) == {}
    assert across.draw(comparisons) is None
    assert across.draw_profile(comparisons) is None


def test_both_figures_say_what_they_show(two: Comparisons) -> None:
    with drawing():
        mean, shares = across.draw(two), across.draw_profile(two)
    assert mean is not None
    assert shares is not None
    assert set(mean.data["estimator"]) == set(RATIO) - {"reinforce-ema"}
    assert shares.data["share"].between(0.0, 1.0).all()
    assert (
        shares.data.groupby("estimator")["share"].apply(lambda s: s.is_monotonic_increasing).all()
    )

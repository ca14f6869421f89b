"""Areas and times to a level: censored seeds count, and nobody is sooner by ending sooner."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from estbench.report.building import load_comparisons
from estbench.report.data.comparisons import Comparisons
from estbench.report.data.duels import Duel, Duels
from estbench.report.data.learning import (
    TimeToLevel,
    learning_table,
    level,
    median_time,
    time_to_level,
)
from estbench.report.data.methods import METHODS
from estbench.report.view.answers import answers
from estbench.report.view.figures.quality import time_text

from .synthetic import write_result_set


@pytest.fixture(scope="module")
def comparisons(bench_set: Path) -> Comparisons:
    return load_comparisons(bench_set)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Comparisons:
    """Curves made by hand: `reinforce` ends at 4; `rloo` is there at batch 2, but for one seed."""
    directory = write_result_set(
        tmp_path_factory.mktemp("drawn"),
        tasks=("expressions-15",),
        trained=("reinforce", "rloo"),
        also_measured=(),
        seeds=3,
        batches=5,
        rounds=2,
    )
    heights = {"reinforce": [0.0, 1.0, 2.0, 3.0, 4.0], "rloo": [0.0, 5.0, 6.0, 6.0, 6.0]}
    for estimator, curve in heights.items():
        for path in (directory / "runs" / "expressions-15" / estimator).iterdir():
            record = json.loads(path.read_text())
            late = estimator == "rloo" and record["seed"] == 2
            values = [0.0, 1.0, 1.0, 1.0, 1.0] if late else curve
            record["curves"]["metrics"]["goodness"] = values
            record["final"]["goodness"] = values[-1]
            path.write_text(json.dumps(record))
    return load_comparisons(directory)


def test_the_median_of_times_is_kaplan_meiers() -> None:
    # 2 of 7 leave at 3: survival 6/7, 5/7, then x 3/4 (4 at risk), x 2/3, x 1/2: .71, .54, .36
    found = median_time([1, 2, 3, 4, 5, 6, 7], [True, True, False, True, True, True, True])
    assert found.value == 5.0
    assert found.n == 7
    assert found.low <= found.value <= found.high


def test_the_median_of_uncensored_times_is_the_sample_median() -> None:
    times = np.random.default_rng(1).permutation(np.arange(1.0, 12.0))
    found = median_time(times, np.ones(11, dtype=bool))
    assert found.value == np.median(times)
    assert 1.0 <= found.low < found.value < found.high


def test_where_half_never_arrive_the_median_is_infinite_and_its_lower_limit_is_not() -> None:
    found = median_time([3.0, 5.0, 9.0, 9.0, 9.0], [True, True, False, False, False])
    assert found.value == math.inf
    assert found.high == math.inf
    assert median_time([9.0] * 4, [False] * 4).low == math.inf
    assert not median_time([], []).known


def test_the_level_is_the_mean_that_plain_reinforce_ends_with(drawn: Comparisons) -> None:
    found = level(drawn, "expressions-15")
    assert found is not None
    assert (found.of, found.value) == ("reinforce", 4.0)


def test_a_seed_that_never_arrives_is_counted_and_not_dropped(drawn: Comparisons) -> None:
    found = time_to_level(drawn, "expressions-15", "rloo", "batches")
    assert (found.median.value, found.median.n, found.reached) == (2.0, 3, 2)
    table = learning_table(drawn)
    row = table[(table["estimator"] == "rloo") & (table["statistic"] == "batches_to_level")].iloc[0]
    assert (row["n"], row["reached"], row["level"]) == (3, 2, 4.0)
    assert time_text(found).endswith(", 2 of 3 seeds")


def test_seconds_are_batches_times_the_step_of_the_timing_pass(drawn: Comparisons) -> None:
    batches, seconds = (
        time_to_level(drawn, "expressions-15", "rloo", unit) for unit in ("batches", "seconds")
    )
    step = drawn.seconds("expressions-15", "rloo").value
    assert seconds.median.value == pytest.approx(batches.median.value * step)


def test_the_area_is_the_mean_height_of_the_curve(drawn: Comparisons) -> None:
    table = learning_table(drawn)
    areas = table[table["statistic"] == "area"].set_index("estimator")["estimate"]
    assert areas["reinforce"] == pytest.approx(2.0)
    early, late = (0 / 2 + 5 + 6 + 6 + 6 / 2) / 4, (0 / 2 + 1 + 1 + 1 + 1 / 2) / 4
    assert areas["rloo"] == pytest.approx((2 * early + late) / 3)


def test_noise_alone_does_not_cross_the_level(tmp_path: Path) -> None:
    write_result_set(
        tmp_path,
        tasks=("expressions-15",),
        trained=("reinforce",),
        also_measured=(),
        seeds=1,
        batches=100,
        rounds=0,
    )
    path = tmp_path / "runs" / "expressions-15" / "reinforce" / "seed-000.json"
    record = json.loads(path.read_text())
    values = [0.0] * 100
    values[10] = 3.0  # one lucky evaluation
    values[90:] = [2.0] * 10
    record["curves"]["metrics"]["goodness"] = values
    record["final"]["goodness"] = 2.0
    path.write_text(json.dumps(record))
    found = time_to_level(load_comparisons(tmp_path), "expressions-15", "reinforce", "batches")
    assert found.median.value == 95.0  # five evaluations in a row, from batch 91


def test_who_stopped_before_the_other_arrived_is_not_later() -> None:
    times = pd.DataFrame({"quick": [3.0, 3.0, 3.0], "slow": [5.0, 2.0, 9.0]})
    reached = pd.DataFrame({"quick": [False, False, True], "slow": [True, True, False]})
    # seed 0: quick ended at 3, slow came at 5: not known; 1: slow first; 2: quick first
    assert Duels(times, "lower", reached).duel("quick", "slow") == Duel(1, 0, 1, 1)


def sooner(comparisons: Comparisons) -> str:
    learning = next(answer for answer in answers(comparisons) if answer.key == "learning")
    return learning.sentences[1].text


def test_the_answer_counts_the_seeds_in_which_one_is_sooner(comparisons: Comparisons) -> None:
    assert (
        "reaches the final score of REINFORCE without a baseline in fewer batches in 10 of 10"
        in (sooner(comparisons))
    )


def test_methods_of_the_table_are_those_of_the_list(comparisons: Comparisons) -> None:
    assert set(learning_table(comparisons)["method"]) <= set(METHODS)


def test_a_time_without_limits_is_said_in_words() -> None:
    never = TimeToLevel(median_time([9.0] * 5, [True] + [False] * 4), 1, "batches")
    assert time_text(never) == "not reached by half (9 to no limit), 1 of 5 seeds"


def test_where_every_run_is_there_at_once_nobody_is_called_sooner(
    drawn: Comparisons, tmp_path: Path
) -> None:
    directory = tmp_path / "copy"
    shutil.copytree(drawn.results.directory, directory)
    for path in (directory / "runs" / "expressions-15").rglob("*.json"):
        record = json.loads(path.read_text())
        record["curves"]["metrics"]["goodness"] = [4.0] * 5
        record["final"]["goodness"] = 4.0
        path.write_text(json.dumps(record))
    assert sooner(load_comparisons(directory)).startswith("No estimator was found to reach")

"""Scores and probabilities of improvement agree with scipy and with hand calculation."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from estbench.report.building import load_comparisons
from estbench.report.data.comparisons import Comparisons
from estbench.report.data.duels import (
    Duel,
    Duels,
    improvement_table,
    least_p_holm,
    quality_duels,
)
from estbench.report.data.methods import BOOTSTRAP, METHODS, ORDER_STATISTICS
from estbench.report.data.scores import (
    bootstrap_rows,
    interquartile_mean,
    median_interval,
    score_table,
)


@pytest.fixture(scope="module")
def comparisons(bench_set: Path) -> Comparisons:
    return load_comparisons(bench_set)


# Final scores ------------------------------------------------------------------------------------


def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end() -> None:
    found = interquartile_mean([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 100.0])
    assert found.value == 4.5
    # Tukey and McLaughlin: Winsorised deviation over (1 - 2 x 1/4) root n, n - 2 x 2 - 1 df
    winsorised = np.array([3.0, 3.0, 3.0, 4.0, 5.0, 6.0, 6.0, 6.0])
    half = stats.t.ppf(0.975, 3) * winsorised.std(ddof=1) / (0.5 * math.sqrt(8))
    assert [found.low, found.high] == pytest.approx([4.5 - half, 4.5 + half])


def test_the_median_has_the_interval_of_order_statistics_from_six_seeds_on() -> None:
    ten = median_interval(np.arange(10.0, 0.0, -1.0))
    # P(Binomial(10, 1/2) <= 1) = .011, <= 2 = .055: the second from each end
    assert (ten.value, ten.low, ten.high, ten.n) == (5.5, 2.0, 9.0, 10)
    assert not median_interval([1.0, 2.0, 3.0, 4.0, 5.0]).has_interval
    assert median_interval([5.0, 1.0, 2.0, 3.0, 4.0, 9.0]).low == 1.0
    assert not median_interval([]).known


@pytest.mark.parametrize("statistic", ["mean", "median", "interquartile mean"])
def test_the_bootstrap_is_the_same_at_every_call_and_for_each_row(statistic: str) -> None:
    samples = np.random.default_rng(2).normal(size=(3, 9))
    together = bootstrap_rows(samples, statistic, resamples=199)
    alone = [bootstrap_rows(row[None], statistic, resamples=199) for row in samples]
    assert together[0] == pytest.approx(np.concatenate([low for low, _ in alone]), abs=1e-12)
    assert together[1] == pytest.approx(np.concatenate([high for _, high in alone]), abs=1e-12)
    assert (together[0] < together[1]).all()


def test_the_table_of_scores_has_each_statistic_with_a_method_of_the_list(
    comparisons: Comparisons,
) -> None:
    table = score_table(comparisons)
    assert set(table["method"]) <= set(METHODS)
    assert not table.duplicated(["task", "estimator", "metric", "statistic", "method"]).any()
    main = table[(table["task"] == "expressions-15") & (table["metric"] == "goodness")]
    assert main.groupby("estimator").size().tolist() == [6, 6, 6, 6]
    # only the main metric is resampled, and a failed run is said beside what it is not in
    assert set(table.loc[table["method"] == BOOTSTRAP, "metric"]) == {"goodness", "nll_oracle"}
    relax = main[main["estimator"] == "relax"]
    assert relax["n"].eq(9).all()
    assert relax["failed"].eq(1).all()
    assert main.loc[main["estimator"] == "rloo", "failed"].eq(0).all()
    median = relax[relax["method"] == ORDER_STATISTICS].iloc[0]
    assert median["low"] <= median["estimate"] <= median["high"]


# Who beats whom ----------------------------------------------------------------------------------


def test_a_probability_counts_ties_half_and_its_interval_holds_them_either_way() -> None:
    found = Duel(6, 2, 2).estimate
    assert found.value == 0.7
    assert found.low == pytest.approx(stats.beta.ppf(0.025, 6, 5))
    assert found.high == pytest.approx(stats.beta.ppf(0.975, 9, 2))
    assert found.p_value == pytest.approx(stats.binomtest(6, 8).pvalue)


def test_a_duel_told_from_the_other_side_is_its_mirror() -> None:
    duel = Duel(7, 1, 1, 1)
    one, other = duel.estimate, duel.turned.estimate
    assert one.value + other.value == pytest.approx(1.0)
    assert one.low + other.high == pytest.approx(1.0)
    assert one.p_value == other.p_value


def test_seeds_that_nobody_can_decide_never_help_the_test() -> None:
    assert Duel(7, 0, 0, 3).estimate.p_value == pytest.approx(stats.binomtest(7, 10).pvalue)
    assert Duel(3, 0, 1, 4).estimate.p_value == 1.0
    assert Duel(7, 3, 0, 0).estimate.p_value == pytest.approx(stats.binomtest(7, 7).pvalue)


def test_pairs_are_over_the_seeds_that_both_have_and_follow_the_better_side() -> None:
    scores = pd.DataFrame({"a": [1.0, 2.0, 3.0, math.nan], "b": [2.0, 2.0, 1.0, 0.0]})
    assert Duels(scores, "higher").duel("a", "b") == Duel(1, 1, 1)
    assert Duels(scores.assign(b=[2.0, 3.0, 4.0, 0.0]), "lower").duel("a", "b") == Duel(3, 0, 0)


def test_the_sign_test_is_corrected_by_holm_over_all_pairs(comparisons: Comparisons) -> None:
    duels = quality_duels(comparisons, "expressions-3")
    assert duels is not None
    assert len(duels.pairs) == 6
    rebar = duels.duel("rebar", "reinforce")
    assert rebar.n == 10
    assert duels.p_holm("rebar", "reinforce") == duels.p_holm("reinforce", "rebar")
    assert duels.p_holm("rebar", "reinforce") >= rebar.estimate.p_value


def test_with_few_seeds_no_pair_can_be_told_apart_by_signs() -> None:
    assert least_p_holm(5, 1) == 0.0625
    assert least_p_holm(10, 25) < 0.05 < least_p_holm(10, 26)
    assert least_p_holm(0, 3) == 1.0


def test_the_table_of_improvement_has_every_pair_once(comparisons: Comparisons) -> None:
    table = improvement_table(comparisons)
    assert not table.duplicated(["task", "quantity", "estimator", "against"]).any()
    counts = table[["wins", "ties", "losses", "undecided"]].sum(axis=1)
    assert counts.equals(table["n"])
    quality = table[(table["quantity"] == "quality") & (table["task"] == "expressions-15")]
    assert quality.loc[quality["estimator"] == "relax", "failed"].eq(1).all()
    assert set(table["quantity"]) == {"quality", "batches_to_level", "seconds_to_level"}

"""Intervals and tests agree with scipy, with hand calculation and with their stated coverage."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from estbench.report.data.statistics import (
    Estimate,
    add_independent,
    holm,
    interval_frame,
    mean_interval,
    root,
)

SAMPLE = [0.31, -0.12, 0.58, 0.44, 0.07]


def test_the_interval_of_a_mean_is_scipys_t_interval() -> None:
    ours = mean_interval(SAMPLE)
    test = stats.ttest_1samp(SAMPLE, 0.0)
    low, high = test.confidence_interval(0.95)
    assert ours.n == 5
    assert [ours.value, ours.low, ours.high] == pytest.approx([np.mean(SAMPLE), low, high])
    assert ours.p_value == pytest.approx(test.pvalue)


def test_a_paired_ratio_is_the_paired_t_test_on_logs_of_the_seeds_both_have() -> None:
    a = pd.Series(np.log([2.0, 3.0, 5.0, 9.0]), index=[0, 1, 2, 7])
    b = pd.Series(np.log([1.0, 2.0, 4.0, 100.0]), index=[2, 1, 0, 8])
    found = mean_interval(a - b).exp()
    logs = np.log([2.0 / 4.0, 3.0 / 2.0, 5.0 / 1.0])
    test = stats.ttest_rel(logs, np.zeros(3))
    assert found.n == 3
    assert found.value == pytest.approx(math.exp(logs.mean()))
    assert found.low == pytest.approx(math.exp(test.confidence_interval(0.95).low))
    assert found.p_value == pytest.approx(test.pvalue)


def test_one_replicate_has_no_interval_and_none_has_no_value() -> None:
    one, none = mean_interval([3.0]), mean_interval([])
    assert one.known
    assert not one.has_interval
    assert (none.known, none.n) == (False, 0)


def test_unknown_values_are_not_replicates() -> None:
    assert mean_interval([1.0, math.nan, 3.0]).n == 2


def test_a_quantity_that_never_varies_is_certain() -> None:
    same, zero = mean_interval([0.7, 0.7, 0.7]), mean_interval([0.0, 0.0])
    assert (same.low, same.high, same.p_value) == (0.7, 0.7, 0.0)
    assert (zero.low, zero.high, zero.p_value) == (0.0, 0.0, 1.0)


def test_the_sum_of_two_independent_means_is_welchs() -> None:
    a, b = np.array([1.0, 1.3, 0.8, 1.1]), np.array([0.2, 0.9, 0.4, 0.1, 0.6, 0.5])
    ours = add_independent(mean_interval(a), mean_interval(-b))
    test = stats.ttest_ind(a, b, equal_var=False)
    low, high = test.confidence_interval(0.95)
    assert ours.p_value == pytest.approx(test.pvalue)
    assert [ours.low, ours.high] == pytest.approx([low, high])
    assert ours.n == 4


def test_holm_by_hand() -> None:
    # sorted .005 .01 .03 .04 times 4 3 2 1, kept from falling: .02 .03 .06 .06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_leaves_out_what_was_not_tested() -> None:
    adjusted = holm([0.01, math.nan, 0.5])
    assert adjusted[0] == pytest.approx(0.02)
    assert math.isnan(adjusted[1])
    assert holm([]).size == 0


def test_holm_keeps_its_level_over_all_pairs() -> None:
    rng, false_alarms, trials = np.random.default_rng(5), 0, 400
    for _ in range(trials):
        p_values = stats.ttest_1samp(rng.normal(size=(10, 6)), 0.0).pvalue
        false_alarms += bool((holm(p_values) < 0.05).any())
    assert false_alarms / trials < 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)


def test_many_intervals_at_once_are_the_same_as_one_by_one() -> None:
    frame = pd.DataFrame({"step": [0] * 5 + [1], "value": [*SAMPLE, 4.0]})
    table = interval_frame(frame, ["step"], "value")
    single = mean_interval(SAMPLE)
    assert table["n"].tolist() == [5, 1]
    ends = table[["estimate", "low", "high"]].to_numpy()
    assert ends[0].tolist() == pytest.approx([single.value, single.low, single.high])
    assert math.isnan(ends[1, 1])


@pytest.mark.parametrize("n", [5, 10, 20])
def test_the_t_interval_on_logs_covers_a_log_normal_95_times_in_100(n: int) -> None:
    rng, trials = np.random.default_rng(n), 1500
    truth = math.exp(-0.4)
    covered = 0
    for sample in np.exp(rng.normal(-0.4, 0.8, size=(trials, n))):
        found = mean_interval(np.log(sample)).exp()
        covered += found.low <= truth <= found.high
    assert covered / trials == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / trials))


def test_the_root_of_a_negative_mean_square_is_zero() -> None:
    found = root(Estimate(-0.01, -0.05, 0.04, 5))
    assert [found.value, found.low, found.high] == pytest.approx([0.0, 0.0, 0.2])

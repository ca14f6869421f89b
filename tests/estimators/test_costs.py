"""Reward evaluations a sequence: what is declared is what is counted, tuning included."""

from __future__ import annotations

import dataclasses
import math
from functools import partial

import pytest

from estbench import estimators
from estbench.estimators.formula import evaluate
from estbench.meter.cost import declared_evaluations
from estbench.proof.setting import Setting, T

from .rollouts import takes_rollouts

BATCHES = 8  # between two comparisons of REBAR's temperatures


NAMES = estimators.names()
CASES = [*((n, 0) for n in NAMES), *((n, 2) for n in NAMES if takes_rollouts(n))]


@pytest.mark.parametrize(("name", "rollouts"), CASES)
def test_the_declared_cost_is_what_is_counted(name: str, rollouts: int) -> None:
    setting = Setting(partial(estimators.make, name, rollouts=rollouts))
    info, reward = setting.method.info, setting.reward
    for draws in (3, 10):
        reward.hard_evals = reward.relaxed_evals = 0
        setting.surrogate(draws)
        sizes = {"T": T, "V": setting.vocabulary, "K": info.group, "n": draws}
        assert reward.hard_evals == pytest.approx(draws * evaluate(info.hard_evals, sizes))
        assert reward.relaxed_evals == pytest.approx(draws * evaluate(info.relaxed_evals, sizes))
        assert (reward.relaxed_evals > 0) == info.needs_relaxed_reward


@pytest.mark.parametrize(("name", "rollouts"), CASES)
def test_a_sequence_costs_what_is_counted_while_it_trains(name: str, rollouts: int) -> None:
    """This includes tuning: REBAR's temperatures make it 2.25 evaluations, not 2."""
    draws = 3
    setting = Setting(partial(estimators.make, name, rollouts=rollouts))
    info, reward = setting.method.info, setting.reward
    reward.hard_evals = reward.relaxed_evals = 0
    for batch in range(BATCHES):
        setting.adapt(draws * info.group, seed=batch)
    counted = (reward.hard_evals + reward.relaxed_evals) / (BATCHES * draws * info.group)
    assert declared_evaluations(info, setting.vocabulary, T, draws) == pytest.approx(counted)


@pytest.mark.parametrize(
    ("name", "one", "batch", "limit"),
    [
        ("reinforce", 1, 1, 1),
        ("rloo", 1, 1, 1),
        ("rebar", 2.25, 2.25, 2.25),
        ("muprop", 2, 1 + 1 / 128, 1),
        ("reinforce-greedy", 2, 1 + 1 / 128, 1),
    ],
)
def test_evaluations_that_a_batch_shares_cost_less_the_larger_it_is(
    name: str, one: float, batch: float, limit: float
) -> None:
    info = estimators.info(name)
    for draws, expected in ((1, one), (128, batch), (math.inf, limit)):
        assert declared_evaluations(info, 12, 3, draws) == expected


def test_a_cost_that_cannot_be_evaluated_is_unknown() -> None:
    info = dataclasses.replace(estimators.info("reinforce"), hard_evals="some")
    assert math.isnan(declared_evaluations(info, 12, 3, 1))

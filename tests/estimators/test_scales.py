"""Rewards shifted and scaled, in float32: quotients do not turn rounding into variance."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from estbench import estimators
from estbench.core.errors import UserError
from estbench.estimators.formula import evaluate
from estbench.meter.gradients import Tape
from estbench.meter.measuring import adapt_once
from estbench.meter.moments import total_variance
from estbench.models.lstm_generator import Generator
from estbench.proof.rewards import rng

from .rollouts import takes_rollouts

V, T = 4, 3


NAMES = estimators.names()
WITH_ROLLOUTS = [name for name in NAMES if takes_rollouts(name)]


class TwoRewards:
    """A low or a high reward, in float32, by whether the token 0 comes an odd number of times."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high
        self.hard_evals = self.relaxed_evals = 0

    def __call__(self, tokens: Tensor) -> Tensor:
        self.hard_evals += len(tokens)
        odd = (tokens == 0).sum(dim=1) % 2 == 1
        return torch.where(odd, torch.tensor(self.high), torch.tensor(self.low))

    def relaxed(self, weights: Tensor) -> Tensor:
        self.relaxed_evals += len(weights)
        return self.low + (self.high - self.low) * weights[:, :, 0].mean(dim=1)


def variance_per_sequence(name: str, low: float, high: float, batches: int = 0) -> float:
    method = estimators.make(name)
    policy = Generator(2 if method.refusal(V, T) else V, T, embedding=5, hidden=5)
    policy.initialise("normal", 0.6, rng(1))
    reward, state = TwoRewards(low, high), method.initial_state(policy, rng(2))
    draws = max(4, 256 // method.info.group)
    for k in range(batches):
        adapt_once(method, policy, reward, draws, rng(10 + k), state)
    with Tape(policy) as tape:
        surrogate = method.surrogate(policy, reward, draws, rng(4), state)
    return total_variance(tape.differentiate(surrogate)) * method.info.group


# Its weights do not add up to 1, so that its baseline leaves a part of a constant.
BASELINED = [
    name
    for name in NAMES
    if estimators.info(name).baseline != "none" and name != "without-replacement-8"
]
STANDARDISED = [name for name in NAMES if getattr(estimators.make(name), "standardised", False)]


@pytest.mark.parametrize("name", BASELINED)
def test_a_constant_reward_leaves_a_baselined_estimator_no_variance(name: str) -> None:
    """In float32, where neither .35 nor .7 is a number, nor their mean over a group exact."""
    batches = 3 if estimators.info(name).learned else 0
    for constant in (0.35, 0.7):
        plain = variance_per_sequence("reinforce", constant, constant)
        assert abs(variance_per_sequence(name, constant, constant, batches)) < 1e-6 * plain


@pytest.mark.parametrize("name", [n for n in BASELINED if not estimators.info(n).learned])
def test_shift_and_scale_of_the_reward_are_nothing_but_a_factor(name: str) -> None:
    unit = variance_per_sequence(name, 0.0, 1.0)
    for low, high in ((0.35, 0.95), (100.0, 101.0), (0.0, 1e-6), (0.0, 1e6)):
        factor = 1.0 if name in STANDARDISED else (high - low) ** 2
        found = variance_per_sequence(name, low, high)
        assert found == pytest.approx(factor * unit, rel=1e-3, abs=1e-12 * factor)


@pytest.mark.parametrize("name", ["relax", "relax-none", "rodeo"])
def test_a_control_variate_learns_as_much_from_small_rewards(name: str) -> None:
    unit = variance_per_sequence(name, 0.0, 1.0, batches=8)
    assert variance_per_sequence(name, 0.0, 1e-5, batches=8) == pytest.approx(
        1e-10 * unit, rel=0.02
    )


@pytest.mark.parametrize("name", WITH_ROLLOUTS)
def test_rollouts_are_as_many_as_were_asked_for(name: str) -> None:
    """More of them cost more, from one on: none is raised in silence, and none ignored."""
    sizes = {"T": T, "V": V, "K": 8, "n": 10}
    made = [estimators.make(name, rollouts=n) for n in (1, 2, 3, 4)]
    costs = [evaluate(method.info.hard_evals, sizes) for method in made]
    steps = {round(b - a, 9) for a, b in pairwise(costs)}
    assert len(steps) == 1
    assert min(steps) > 0


def test_what_makes_no_rollouts_or_fewer_than_none_is_refused() -> None:
    for name in ("all-actions", "sum-and-sample", "relax-published", "rodeo"):
        with pytest.raises(UserError, match=f"^{name} takes no rollouts: set rollouts = 0"):
            estimators.make(name, rollouts=2)
    with pytest.raises(UserError, match="rollouts = -1: must be a whole number, at least 0"):
        estimators.make("vine", rollouts=-1)

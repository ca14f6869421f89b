"""The clock of phases: every second belongs to one of them, the innermost."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from estbench import estimators
from estbench.meter import phases
from estbench.meter.phases import PHASES, Clock, listening
from estbench.meter.step import measured_step
from estbench.models.policy import Policy
from estbench.models.reward import FunctionReward
from estbench.proof.problems import tiny
from estbench.proof.rewards import rng


class Time:
    """A clock that moves only when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def hours(monkeypatch: pytest.MonkeyPatch) -> Time:
    told = Time()
    monkeypatch.setattr(phases.time, "perf_counter", told)
    return told


def test_an_inner_phase_takes_over(hours: Time) -> None:
    clock = Clock()
    with clock.phase("update"):
        hours.now += 1
        with clock.phase("control variate"):
            hours.now += 10
            with clock.phase("reward"):
                hours.now += 100
            hours.now += 10
        hours.now += 1
    hours.now += 1000  # nobody's
    expected = dict.fromkeys(PHASES, 0.0) | {"update": 2, "control variate": 20, "reward": 100}
    assert clock.seconds == expected


def test_a_phase_that_fails_is_left(hours: Time) -> None:
    clock = Clock()

    def fail() -> None:
        with clock.phase("reward"):
            hours.now += 3
            raise ValueError("no")

    with clock.phase("update"):
        with pytest.raises(ValueError, match="no"):
            fail()
        hours.now += 4
    assert clock.seconds["reward"] == 3
    assert clock.seconds["update"] == 4


@pytest.mark.parametrize("name", ["reinforce", "seqgan-rollouts-lagged", "rebar", "relax"])
def test_a_step_tells_where_its_time_went(hours: Time, name: str) -> None:
    """Hard rewards take an hour each, relaxed ones a minute, continuations a day."""
    problem = tiny()
    policy: Policy = problem.policy
    smooth = problem.reward

    def slow(tokens: Tensor) -> Tensor:
        hours.now += 3600
        return smooth(tokens)

    def relaxed(weights: Tensor) -> Tensor:
        hours.now += 60
        return smooth.relaxed(weights)

    reward = FunctionReward(slow, relaxed)
    method = estimators.make(name)
    learned = method.initial_state(policy, rng(0))
    before = [p.detach().clone() for p in policy.parameters()]
    optimiser = torch.optim.SGD(policy.parameters(), lr=0.0)
    clock = Clock()
    with listening(clock, method, policy, reward, learned) as heard, clock.phase("update"):
        measured_step(method, policy, heard, 8, rng(1), learned, optimiser, clock=clock)
    assert clock.seconds["reward"] >= 3600
    assert clock.seconds["reward"] % 3600 == 0
    assert clock.seconds["reward"] + clock.seconds["control variate"] == pytest.approx(
        sum(clock.seconds.values()) - clock.seconds["adaptation"]
    )
    assert (clock.seconds["control variate"] > 0) == (name == "rebar")
    # Everything is as it was: the methods are the class's own again.
    assert "sample_from" not in vars(policy)
    assert "surrogate" not in vars(method)
    assert reward.hard_evals > 0
    for a, b in zip(before, policy.parameters(), strict=True):
        assert torch.equal(a, b)

"""The variance of a draw taken apart by time step, against whole gradients and a known case."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from estbench import estimators
from estbench.estimators.score_function import LeaveOneOut
from estbench.meter.gradients import Tape
from estbench.meter.sources import variance_by_step
from estbench.models.reward import FunctionReward
from estbench.proof.problems import tiny
from estbench.proof.rewards import rng

DRAWS = 64


@pytest.mark.parametrize("name", ["reinforce", "rloo", "seqgan-rollouts", "rebar", "relax"])
def test_the_parts_are_covariances_with_the_whole_draw(name: str) -> None:
    policy, reward = tiny().policy, tiny().reward
    method = estimators.make(name)
    learned = method.initial_state(policy, rng(1))
    sequences = DRAWS * method.info.group
    found = variance_by_step(method, policy, reward, sequences, rng(2), learned)
    assert found is not None
    assert found["draws"] == DRAWS

    # The same draws again, as whole gradients of each step's values.
    with Tape(policy) as tape:
        surrogate = method.surrogate(policy, reward, DRAWS, rng(2), learned)
    columns = torch.arange(surrogate.log_probs.shape[1])
    per_step = surrogate.log_probs.shape[1] // method.info.group // policy.length

    def whole(chosen: torch.Tensor) -> torch.Tensor:
        part = replace(surrogate, weights=surrogate.weights.detach() * chosen)
        gradients = tape.differentiate(part, check=False, retain_graph=True)
        return torch.cat(list(gradients.chunks())).double()

    g = whole(torch.ones_like(columns))
    g = g - g.mean(dim=0)
    for step in range(policy.length):
        mine = whole(columns // per_step % policy.length == step)
        mine = mine - mine.mean(dim=0)
        covariance = float((mine * g).sum()) / (DRAWS - 1)
        assert found["parts"][step] == pytest.approx(covariance, rel=1e-6)
        alone = float((mine * mine).sum()) / (DRAWS - 1)
        assert found["alone"][step] == pytest.approx(alone, rel=1e-6)
    total = float((g * g).sum()) / (DRAWS - 1)
    assert found["total"] == pytest.approx(total, rel=1e-6)
    assert sum(found["parts"]) + found["path"] == pytest.approx(total, rel=1e-6)


def test_without_a_reward_no_step_brings_variance() -> None:
    policy = tiny().policy
    reward = FunctionReward(lambda tokens: torch.zeros(len(tokens), dtype=torch.float64))
    method = estimators.make("seqgan-rollouts")
    found = variance_by_step(
        method, policy, reward, 64, rng(0), method.initial_state(policy, rng())
    )
    assert found is not None
    assert found["parts"] == [0.0] * policy.length


def test_groups_as_large_as_the_vocabulary_are_told_from_whole_distributions() -> None:
    """RLOO's columns are [K, T] also where K is a multiple of V."""
    policy = tiny().policy  # V = 3
    method = LeaveOneOut(name="rloo-3", group=3)
    found = variance_by_step(method, policy, tiny().reward, 3 * DRAWS, rng(0), {})
    assert found is not None
    with Tape(policy) as tape:
        surrogate = method.surrogate(policy, tiny().reward, DRAWS, rng(0), {})
    first = surrogate.weights.detach().clone()
    first.view(DRAWS, 3, policy.length)[:, :, 1:] = 0.0
    gradients = tape.differentiate(replace(surrogate, weights=first), check=False)
    alone = torch.cat(list(gradients.chunks())).double().var(dim=0).sum()
    assert found["alone"][0] == pytest.approx(float(alone), rel=1e-6)

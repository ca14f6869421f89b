"""Sequences of an older policy: one weight is right, all others are wrong once the policy moved."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from estbench import estimators
from estbench.core.seeding import stream
from estbench.estimators.base import Surrogate
from estbench.estimators.off_policy import OffPolicy, _sequence
from estbench.meter.bias import BiasResult, Plan, bias_test
from estbench.meter.measuring import adapt_once
from estbench.models.lstm_generator import Generator
from estbench.models.policy import Policy
from estbench.proof.problems import Problem, problem, tiny
from estbench.proof.rewards import function_reward, rng

PLAN = Plan(first=49_152, growth=3, looks=3, margin=0.02, alpha=0.001)
WRONG = (
    "importance-token",
    "importance-truncated",
    "importance-masked",
    "ppo-clip",
    "gspo",
    "cispo",
    "v-trace",
)


@torch.no_grad()
def move(policy: Policy, size: float, seed: int = 0) -> None:
    """Move every parameter, as optimiser steps do."""
    noise = rng(seed)
    for parameter in policy.parameters():
        parameter += size * torch.randn(parameter.shape, generator=noise, dtype=parameter.dtype)


@pytest.fixture(scope="module")
def moved() -> tuple[Problem, Policy]:
    """A problem, and the policy that its own was before it moved."""
    before = tiny().policy
    policy = copy.deepcopy(before)
    move(policy, 0.3)
    return problem(policy, function_reward(3, 3, 1)), before


def judged(name: str, moved: tuple[Problem, Policy]) -> BiasResult:
    given, before = moved
    method = estimators.make(name)
    state = method.initial_state(before, rng())
    noise = stream("off policy", name)
    return bias_test(method, given.policy, given.reward, given.gradient, noise, state, PLAN)


def test_the_weight_of_the_whole_sequence_corrects_for_the_sampler(
    moved: tuple[Problem, Policy],
) -> None:
    assert judged("importance-sequence", moved).verdict == "unbiased"


@pytest.mark.parametrize("name", WRONG)
def test_every_other_weight_is_biased(name: str, moved: tuple[Problem, Policy]) -> None:
    assert judged(name, moved).verdict == "biased"


@pytest.mark.parametrize("name", ["importance-sequence", *WRONG])
def test_where_the_policy_stands_still_all_are_rloo(name: str) -> None:
    given, method = tiny(), estimators.make(name)
    state = method.initial_state(given.policy, rng())
    found = method.surrogate(given.policy, given.reward, 4, rng(3), state)
    plain = estimators.make("rloo").surrogate(given.policy, given.reward, 4, rng(3), {})
    assert isinstance(found, Surrogate)
    assert isinstance(plain, Surrogate)
    scale = given.policy.length if name == "gspo" else 1
    torch.testing.assert_close(scale * found.weights, plain.weights, atol=1e-12, rtol=1e-9)
    assert found.info["effective_sample_share"] == pytest.approx(1.0)


@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_the_sampler_is_the_policy_of_so_many_steps_ago(staleness: int) -> None:
    policy = Generator(3, 3, embedding=4, hidden=4, dtype=torch.float64)
    policy.initialise("normal", 0.7, rng(1))
    reward, method = function_reward(3, 3, 1), estimators.make("ppo-clip", staleness=staleness)
    assert method.info.sampler == ("an older policy" if staleness else "policy")
    state, past = method.initial_state(policy, rng()), []
    for step in range(6):
        past.append(copy.deepcopy(policy))
        expected = past[max(0, step - staleness)].sample_from(uniforms(step))
        found = method.surrogate(policy, reward, 4, rng(step), state)
        assert torch.equal(found.tokens.flatten(0, 1), expected)
        adapt_once(method, policy, reward, 4, rng(step), state)
        move(policy, 0.5, step)


def uniforms(seed: int) -> torch.Tensor:
    from estbench.core import noise

    return noise.uniforms(rng(seed), 32, {"tokens": (3,)}, torch.float64)["tokens"]


def weights(name: str, log_ratio: float, advantage: float, tokens: int = 2) -> list[float]:
    """What a sequence is weighed by whose tokens all have that ratio."""
    method: Any = estimators.make(name)
    ratios = torch.full((1, 1, tokens), log_ratio, dtype=torch.float64)
    lengths = torch.full((1, 1, 1), tokens)
    found = method.rule(ratios, torch.full((1, 1, 1), advantage, dtype=torch.float64), lengths)
    return [float(value) for value in found.expand(1, 1, tokens).flatten()]


def test_weights_by_hand() -> None:
    up, down = torch.tensor(1.5).log().item(), torch.tensor(0.5).log().item()
    for name, log_ratio, advantage, expected in [
        ("importance-sequence", up, 1.0, [2.25, 2.25]),
        ("importance-token", up, -1.0, [-1.5, -1.5]),
        ("importance-truncated", up, 1.0, [2.0, 2.0]),
        ("importance-masked", up, 1.0, [0.0, 0.0]),
        ("importance-masked", down, 1.0, [0.25, 0.25]),
        ("ppo-clip", up, 1.0, [0.0, 0.0]),
        ("ppo-clip", up, -1.0, [-1.5, -1.5]),
        ("ppo-clip", down, -1.0, [0.0, 0.0]),
        ("ppo-clip", down, 1.0, [0.5, 0.5]),
        ("gspo", up, -1.0, [-0.75, -0.75]),
        ("gspo", up, 1.0, [0.0, 0.0]),
        ("cispo", up, 1.0, [1.2, 1.2]),
        ("cispo", down, 1.0, [0.5, 0.5]),
        ("v-trace", up, 1.0, [1.0, 1.0]),
        ("v-trace", down, 1.0, [0.25, 0.5]),
    ]:
        assert weights(name, log_ratio, advantage) == pytest.approx(expected), name


def test_ppo_weighs_by_the_slope_of_its_loss() -> None:
    for log_ratio in (-0.5, -0.1, 0.1, 0.5):
        for advantage in (-1.0, 1.0):
            new = torch.tensor(log_ratio, dtype=torch.float64, requires_grad=True)
            ratio = new.exp()
            loss = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
            (slope,) = torch.autograd.grad(loss, new)
            assert weights("ppo-clip", log_ratio, advantage, 1) == pytest.approx([float(slope)])


def test_an_end_token_ends_the_ratios_too() -> None:
    policy = Generator(3, 4, embedding=4, hidden=4, dtype=torch.float64, end=2)
    policy.initialise("normal", 0.7, rng(1))
    older = copy.deepcopy(policy)
    move(policy, 0.3)
    method = OffPolicy("mine", _sequence, True, "", "", group=2)
    found = method.surrogate(
        policy, function_reward(3, 4, 1), 200, rng(), method.initial_state(older, rng())
    )
    assert isinstance(found, Surrogate)
    tokens = found.tokens.flatten(0, 1)
    after = (tokens == 2).cummax(dim=1).values[:, :-1].reshape(200, 2, 3)
    assert bool(after.any())
    new = found.log_probs.reshape(200, 2, 4)[..., 1:][after]
    assert float(new.detach().abs().max()) == 0.0

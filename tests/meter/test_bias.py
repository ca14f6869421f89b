"""The test of bias keeps its level, its limits hold, and it finds what it should."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from estbench import estimators
from estbench.estimators.base import Surrogate
from estbench.estimators.score_function import Reinforce
from estbench.meter.bias import Centred, Plan, bias_test
from estbench.meter.blocks import Blocks, Look
from estbench.models.policy import Policy
from estbench.proof.problems import bernoulli, tiny
from estbench.proof.rewards import function_reward, rng

PARAMETERS, RANK, DRAWS = 300, 4, 6_400


def synthetic(bias: float, seed: int, axis: int = 1) -> Blocks:
    """Blocks of draws whose covariance has a low rank, as the real ones' has.

    tr Cov / |grad|^2 is 3 and DRAWS are made; a bias of that relative size lies along an axis of
    the noise that is orthogonal to the gradient.
    """
    noise = rng(seed)
    gradient = torch.zeros(PARAMETERS, dtype=torch.float64)
    gradient[0] = 2.0
    scales = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    errors = torch.randn(64, RANK, generator=noise, dtype=torch.float64)
    errors *= (scales * 3 * 4 / (DRAWS / 64)).sqrt()
    means = gradient.repeat(64, 1)
    means[:, :RANK] += errors
    means[:, axis] += 2.0 * bias
    blocks = Blocks([gradient[:200], gradient[200:]], ["first", "second"])
    blocks.add(means * (DRAWS / 64), DRAWS)
    return blocks


def test_the_test_keeps_its_level() -> None:
    looks = [synthetic(0.0, seed).look(0.02, 0.05) for seed in range(300)]
    low = sum(min(look.p_values.values()) < 0.05 for look in looks)
    assert low <= 25  # 15 expected, 25 has probability .005
    # Holm over tests of which one repeats another is cautious, but not asleep.
    assert low >= 2
    alone = sum(look.p_values["norm"] / 3 < 0.05 / 3 for look in looks)
    assert 3 <= alone <= 25


@pytest.mark.slow
@pytest.mark.parametrize("axis", [0, 1, 50])
@pytest.mark.parametrize("bias", [0.02, 0.05])
def test_its_upper_limit_holds(bias: float, axis: int) -> None:
    looks = [synthetic(bias, seed, axis).look(0.02, 0.05) for seed in range(60)]
    assert sum(look.upper < bias for look in looks) <= 8
    assert sum(look.low > bias for look in looks) <= 5
    assert sum(look.high < bias for look in looks) <= 5


@pytest.mark.parametrize("size", [1.0, 2.0, 4.0])
def test_its_limits_hold_where_all_noise_lies_along_the_bias(
    size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the mean's standard errors: there the noise of the squared bias is largest."""
    monkeypatch.setattr("estbench.meter.blocks._flip_test", lambda gram, u: 1.0)  # takes long
    missed, bias = 0, size / math.sqrt(DRAWS)
    for seed in range(100):
        errors = torch.randn(64, 1, generator=rng(seed), dtype=torch.float64) * 64**0.5
        means = torch.tensor([1.0, 0.0], dtype=torch.float64).repeat(64, 1)
        means[:, 1] += errors[:, 0] / math.sqrt(DRAWS) + bias
        blocks = Blocks([torch.tensor([1.0, 0.0])], ["only"])
        blocks.add(means * (DRAWS / 64), DRAWS)
        look = blocks.look(0.02, 0.05)
        missed += not look.low <= bias <= look.high
    assert missed <= 13  # 5 expected; 13 has probability 0.001


def test_its_limits_close_in_on_the_bias() -> None:
    look = synthetic(0.5, 0).look(0.02, 0.05)
    assert look.relative_bias == pytest.approx(0.5, abs=0.05)
    assert 0.4 < look.low < look.relative_bias < look.high < 0.6
    assert look.noise == pytest.approx(3.0, rel=0.4)


def test_each_direction_is_found_by_its_own_test() -> None:
    along = synthetic(0.2, 1, axis=0).look(0.02, 0.05)
    assert along.projection == pytest.approx(1.2, abs=0.05)
    assert along.p_values["gradient"] < 1e-3
    across = synthetic(0.2, 1, axis=2).look(0.02, 0.05)
    assert across.p_values["norm"] < 1e-3
    assert across.p_values["gradient"] > 0.01
    # A tensor without a gradient has no direction to test.
    assert set(across.p_values) == {"norm", "gradient", "first"}


def test_flipping_signs_agrees_with_the_normal_law_of_one_parameter() -> None:
    """With a single parameter the U-statistic's test is a two-sided t test."""
    from scipy import stats

    noise = rng(3)
    for shift in (0.1, 0.2, 0.3):
        values = torch.randn(64, 1, generator=noise, dtype=torch.float64) + shift
        blocks = Blocks([torch.ones(1)], ["only"])
        blocks.add(100 * (1 + values), 6400)
        # Holm doubles the smaller of the two p-values, and the other one is a t test's.
        p = blocks.look(0.02, 0.05).p_values["norm"]
        expected = stats.ttest_1samp(values[:, 0].numpy(), 0).pvalue
        assert p == pytest.approx(min(1.0, 2 * expected), abs=0.05)


def test_rounding_is_no_bias() -> None:
    blocks = Blocks([torch.ones(5)], ["only"])
    blocks.add((1 + 1e-7) * torch.ones(64, 5, dtype=torch.float64), 64)
    look = blocks.look(0.02, 0.05)
    assert min(look.p_values.values()) == 1.0
    assert look.upper < 1e-6


def test_a_bias_without_noise_is_found() -> None:
    blocks = Blocks([torch.ones(5)], ["only"])
    blocks.add(1.01 * torch.ones(64, 5, dtype=torch.float64), 64)
    look = blocks.look(0.02, 0.05)
    assert max(look.p_values.values()) < 1e-3
    assert look.low == pytest.approx(0.01)
    assert look.high == pytest.approx(0.01)


def test_a_gradient_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="the exact gradient is 0"):
        Blocks([torch.zeros(3)], ["only"])


def test_looks_are_planned_and_few() -> None:
    assert Plan(first=1000, growth=3, looks=3).draws(1) == (1024, 3008, 9024)
    assert Plan(first=1000, growth=4, looks=2).draws(8) == (128, 512)
    # A pilot says how far the second look has to be; the third is at most three times as far.
    plan = Plan(first=1024, growth=6, looks=3, pilot=512, margin=0.02)
    assert plan.draws(1, noise=0.5) == (1024, 13760, 36864)
    assert plan.draws(1, noise=1e-9) == (1024, 1536, 6144)
    assert plan.draws(1, noise=0.1) == (1024, 2752, 8256)
    assert plan.draws(1, noise=1e9) == (1024, 18432, 36864)
    assert plan.draws(1, noise=math.nan) == plan.draws(1) == (1024, 6144, 36864)
    for wrong in ({"looks": 4}, {"looks": 0}, {"growth": 1}, {"margin": 0.0}, {"alpha": 1.0}):
        with pytest.raises(ValueError, match=r"not|must"):
            Plan(**wrong)  # type: ignore[arg-type]


class Scaled(Reinforce):
    """REINFORCE times a number: a relative bias that is known."""

    def __init__(self, factor: float) -> None:
        super().__init__("scaled", "none")
        self.factor = factor

    def surrogate(
        self, policy: Policy, reward: Any, draws: int, rng: torch.Generator, state: dict[str, Any]
    ) -> Surrogate:
        found = super().surrogate(policy, reward, draws, rng, state)
        return replace(found, weights=self.factor * found.weights)


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "unbiased"), (1.05, "biased")])
def test_verdicts(factor: float, verdict: str) -> None:
    problem = tiny()
    result = bias_test(
        Scaled(factor),
        problem.policy,
        problem.reward,
        problem.gradient,
        rng(1),
        plan=Plan(first=49_152, growth=2),
    )
    assert result.verdict == verdict
    assert result.last.low < factor - 1 + 1e-9 < result.last.high
    assert result.last.projection == pytest.approx(factor, abs=0.02)
    assert str(result).startswith(verdict)
    assert bool(result.found_by) == (verdict == "biased")


def test_too_few_draws_are_undecided() -> None:
    problem = tiny()
    result = bias_test(
        Reinforce("plain", "none"),
        problem.policy,
        problem.reward,
        problem.gradient,
        rng(1),
        plan=Plan(first=1024, growth=2, looks=2),
    )
    assert result.verdict == "undecided"
    assert [look.draws for look in result.looks] == [1024, 2048]
    assert result.last.upper > 0.02


def test_it_reports_what_the_meter_could_not_do() -> None:
    class Odd(type(tiny().policy)):  # type: ignore[misc]
        """Scales its log-probabilities by a parameter of its own."""

    policy = Odd(3, 2, embedding=2, hidden=2, dtype=torch.float64)
    policy.initialise("normal", 0.5, rng())
    policy.scale = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    plain = policy.trace

    def trace(tokens: Tensor) -> tuple[Tensor, Tensor]:
        log_probs, features = plain(tokens)
        return (log_probs * policy.scale).log_softmax(dim=-1), features

    policy.trace = trace
    result = bias_test(
        Reinforce("plain", "none"),
        policy,
        function_reward(3, 2, 1),
        [torch.ones_like(p) for p in policy.parameters()],
        rng(),
        plan=Plan(first=128, looks=1, chunk=64),
    )
    assert result.meter_fault.startswith("scale:")


def test_it_uses_the_state_it_is_given_and_leaves_it() -> None:
    policy, reward = bernoulli(0.5, 0.45)
    method = estimators.make("reinforce-constant")
    state = method.initial_state(policy, rng())
    state["coefficients"]["values"] = (0.2525,)  # no variance is left
    gradient = [torch.full((1, 1), 0.025, dtype=torch.float64)]
    before = str(state)
    result = bias_test(method, policy, reward, gradient, rng(), state, Plan(first=64, looks=1))
    assert result.verdict == "unbiased"
    assert result.last.noise < 1e-20
    assert str(state) == before


def test_a_centred_reward_is_shifted_hard_and_relaxed_and_counts() -> None:
    inner = function_reward(3, 2, 1)
    reward = Centred(inner, 0.25)
    tokens = torch.tensor([[0, 1], [2, 2]])
    weights = torch.nn.functional.one_hot(tokens, 3).double()
    assert torch.equal(reward(tokens), inner(tokens) - 0.25)
    torch.testing.assert_close(reward.relaxed(weights), reward(tokens))
    assert (reward.hard_evals, reward.relaxed_evals) == (4, 2)
    assert (inner.hard_evals, inner.relaxed_evals) == (6, 2)


class Drowned(Reinforce):
    """REINFORCE under noise of mean zero, many times its size."""

    def __init__(self, unbiased: bool, noise: float) -> None:
        super().__init__("drowned", "none")
        self.noise = noise
        self.info = replace(self.info, unbiased=unbiased)

    def surrogate(
        self, policy: Policy, reward: Any, draws: int, rng: torch.Generator, state: dict[str, Any]
    ) -> Surrogate:
        made = super().surrogate(policy, reward, draws, rng, state)
        noise = torch.randn(made.weights.shape, generator=rng, dtype=made.weights.dtype)
        return replace(made, weights=made.weights + self.noise * noise)


def _looks(plan: Plan, unbiased: bool, noise: float) -> tuple[Look, ...]:
    given = tiny()
    return bias_test(
        Drowned(unbiased, noise), given.policy, given.reward, given.gradient, rng(3), plan=plan
    ).looks


def test_what_declares_itself_biased_is_not_drawn_from_without_hope() -> None:
    """What declares itself unbiased is: a bias of the gradient's size may still be found."""
    plan = Plan(first=2048, growth=3, looks=3, pilot=512)
    looks = {unbiased: _looks(plan, unbiased, 8.0) for unbiased in (True, False)}
    assert [len(found) for found in looks.values()] == [3, 1]
    assert 0.1 < math.sqrt(looks[True][0].noise / 18_432) < 0.25
    assert _looks(plan, False, 1e3)[0].draws == 1024  # the pilot has seen enough


def test_nothing_is_drawn_from_where_the_last_look_would_see_no_likely_bias() -> None:
    plan = Plan(first=2048, growth=3, looks=3, pilot=512)
    (look,) = _looks(plan, True, 1e3)
    assert look.draws == 2048
    assert math.sqrt(look.noise / 18_432) > 0.25

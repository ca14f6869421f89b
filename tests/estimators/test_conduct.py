"""What every estimator does alike: noise, rows, extremes, costs, and what is fixed when."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from estbench import estimators
from estbench.errors import UserError
from estbench.estimators.base import Direct, Draws, Estimator
from estbench.meter.bias import Centred
from estbench.meter.gradients import Tape
from estbench.meter.measuring import adapt_once
from estbench.meter.moments import total_variance
from estbench.models.generator import Generator
from estbench.proof.formula import evaluate
from estbench.proof.problems import function_reward, rng
from estbench.proof.states import disturb

# Those with switches in the other forms as well that take another path.
NAMES = [
    *estimators.names(),
    "rebar-published@none",
    "rebar-published@shared-noise",
    "rebar-published@redrawn+joint",
    "relax-published@none",
    "relax-published@untrained",
]
V, T = 4, 3


def takes_rollouts(name: str) -> bool:
    try:
        estimators.make(name, rollouts=2)
    except UserError:
        return False
    return True


WITH_ROLLOUTS = [name for name in NAMES if takes_rollouts(name)]
CASES = [*((name, 0) for name in NAMES), *((name, 2) for name in WITH_ROLLOUTS)]
# Draws that are all the same, or often 0: test_perturbation looks at their directions.
ALIKE = ("exact", "evolution-strategies", "spsa")


def setting(dtype: torch.dtype = torch.float64, vocabulary: int = V) -> tuple[Generator, Centred]:
    policy = Generator(vocabulary, T, embedding=5, hidden=5, dtype=dtype)
    policy.initialise("normal", 0.6, rng(1))
    return policy, Centred(function_reward(vocabulary, T, 2), 0.1)


def fitting(method: Estimator) -> int:
    """Return the vocabulary that an estimator is tried with: two tokens where it fits no more."""
    return 2 if method.refusal(V, T) else V


def prepared(
    name: str, dtype: torch.dtype = torch.float64, rollouts: int = 0
) -> tuple[Estimator, Generator, Centred, dict[str, Any]]:
    method = estimators.make(name, rollouts=rollouts if name in WITH_ROLLOUTS else 0)
    policy, reward = setting(dtype, fitting(method))
    state = method.initial_state(policy, rng(2))
    disturb(method, policy, state, rng(3))
    return method, policy, reward, state


def gradients(
    method: Estimator, policy: Generator, reward: Centred, state: dict[str, Any], draws: int
) -> tuple[Tensor, Draws]:
    with Tape(policy) as tape:
        surrogate = method.surrogate(policy, reward, draws, rng(4), state)
    found = tape.differentiate(surrogate)
    assert tape.fault == ""
    return torch.cat(list(found.chunks())), surrogate


@pytest.mark.parametrize(("name", "rollouts"), CASES)
def test_a_draw_is_the_same_when_others_are_added(name: str, rollouts: int) -> None:
    method, policy, reward, state = prepared(name, rollouts=rollouts)
    few, one = gradients(method, policy, reward, state, 3)
    many, all_ = gradients(method, policy, reward, state, 7)
    assert torch.equal(one.tokens, all_.tokens[:3])
    torch.testing.assert_close(few, many[:3], atol=1e-12, rtol=0)
    if name not in ALIKE:
        assert not torch.allclose(many[3], many[4])


@pytest.mark.parametrize("name", NAMES)
def test_equal_seeds_give_equal_bits_and_no_global_noise_is_used(name: str) -> None:
    method, policy, reward, state = prepared(name)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    first, _ = gradients(method, policy, reward, state, 5)
    adapt_once(method, policy, reward, 8, rng(5), state)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    torch.manual_seed(12345)
    method, policy, reward, state = prepared(name)
    again, _ = gradients(method, policy, reward, state, 5)
    assert torch.equal(first, again)
    adapt_once(method, policy, reward, 8, rng(5), state)
    other, _ = gradients(method, policy, reward, state, 5)
    assert torch.equal(first, other) == (not method.info.learned)


def bits(state: Any) -> Any:
    """A copy of a state in which every number can be compared."""
    if isinstance(state, dict):
        return {k: bits(v) for k, v in state.items() if k != "rng"}
    if isinstance(state, torch.nn.Module | torch.optim.Optimizer):
        return bits(state.state_dict())
    if isinstance(state, Tensor):
        return state.tolist()
    if isinstance(state, list | tuple):
        return [bits(v) for v in state]
    return copy.deepcopy(state)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_learned_changes_in_adapt_alone(name: str) -> None:
    method, policy, reward, state = prepared(name)
    gradients(method, policy, reward, state, 4)  # what is built on first use is there now
    weights = bits(dict(policy.named_parameters()))
    before = bits(state)
    _, surrogate = gradients(method, policy, reward, state, 16)
    assert bits(state) == before
    with Tape(policy) as tape:
        surrogate = method.surrogate(policy, reward, 16, rng(6), state)
    method.adapt(policy, surrogate, tape, state)
    assert (bits(state) != before) == bool(method.info.learned)
    assert bits(dict(policy.named_parameters())) == weights
    assert all(p.requires_grad and p.grad is None for p in policy.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_the_extremes_of_random_numbers_give_finite_gradients(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = 1 - torch.finfo(dtype).eps / 2
    method, policy, reward, state = prepared(name, dtype, rollouts=2)

    def extremes(generator: torch.Generator, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        u = torch.rand(tuple(shape), generator=generator, dtype=dtype)
        picked = torch.randint(3, tuple(shape), generator=generator)
        u = torch.where(picked == 0, torch.zeros_like(u), u)
        u = torch.where(picked == 1, torch.full_like(u, largest), u)
        u[0], u[1] = 0.0, largest
        return u

    monkeypatch.setattr("estbench.noise.uniform", extremes)
    for _ in range(3):
        found, _ = gradients(method, policy, reward, state, 24)
        assert bool(found.isfinite().all())
        adapt_once(method, policy, reward, 24, rng(7), state)
    for value in flat_numbers(bits(state)):
        assert np.isfinite(value)


def flat_numbers(state: Any) -> list[float]:
    if isinstance(state, dict):
        return [x for v in state.values() for x in flat_numbers(v)]
    if isinstance(state, list):
        return [x for v in state for x in flat_numbers(v)]
    return [float(state)] if isinstance(state, int | float) else []


@pytest.mark.parametrize(("name", "rollouts"), CASES)
def test_the_declared_cost_is_what_is_counted(name: str, rollouts: int) -> None:
    method, policy, reward, state = prepared(name, rollouts=rollouts)
    method.surrogate(policy, reward, 10, rng(4), state)
    for formula, counted in (
        (method.info.hard_evals, reward.hard_evals),
        (method.info.relaxed_evals, reward.relaxed_evals),
    ):
        sizes = {"T": T, "V": policy.vocabulary, "K": method.info.group, "n": 10}
        assert counted == pytest.approx(10 * evaluate(formula, sizes)), formula
    assert (reward.relaxed_evals > 0) == method.info.needs_relaxed_reward


@pytest.mark.parametrize("name", NAMES)
def test_a_surrogate_says_what_it_drew(name: str) -> None:
    method, policy, reward, state = prepared(name)
    surrogate = method.surrogate(policy, reward, 6, rng(4), state)
    K = method.info.group
    assert surrogate.tokens.shape == (6, K, T)
    assert surrogate.rewards.shape == (6, K)
    expected = reward(surrogate.tokens.reshape(-1, T)).reshape(6, K)
    if method.info.hard_evals != "0":  # else they may be those of relaxed sequences
        torch.testing.assert_close(surrogate.rewards, expected)
    assert method.info.name == name
    if isinstance(surrogate, Direct):
        whole = surrogate.gradients(0, 6)
        shapes = [(6, *p.shape) for p in policy.parameters()]
        assert [tuple(g.shape) for g in whole] == shapes
        return
    assert surrogate.log_probs.shape == surrogate.weights.shape
    assert surrogate.values.shape == (6,)
    assert surrogate.log_probs.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_a_constant_reward_has_no_gradient_on_average(name: str) -> None:
    """And where the learned parts know the constant, none at all."""
    method = estimators.make(name)
    policy, _ = setting(vocabulary=fitting(method))
    ones = Centred(function_reward(policy.vocabulary, T, 2), 0.0)
    ones.reward.function = lambda tokens: torch.full((len(tokens),), 0.7, dtype=torch.float64)
    ones.reward.relaxed_function = lambda weights: 0.7 + 0 * weights.sum(dim=(1, 2))
    state = method.initial_state(policy, rng(2))
    for k in range(12):
        adapt_once(method, policy, ones, 64, rng(10 + k), state)
    found, _ = gradients(method, policy, ones, state, 1500)
    error = (found.var(dim=0).sum() / len(found)).sqrt()
    assert float(found.mean(dim=0).norm()) < 4 * float(error) + 1e-12
    if method.info.baseline != "none":
        plain, _ = gradients(estimators.make("reinforce"), policy, ones, {"baseline": {}}, 1500)
        assert float(found.var(dim=0).sum()) < 0.2 * float(plain.var(dim=0).sum())


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
    policy, _ = setting(torch.float32, fitting(method))
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
STANDARDISED = ["grpo", "reinforce-standardised", "biased-grpo-2", "biased-grpo-4"]


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

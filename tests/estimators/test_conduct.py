"""What every estimator does alike: noise, rows, extremes, costs, and what is fixed when."""

from __future__ import annotations

import copy
import dataclasses
import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from estbench import estimators
from estbench.errors import UserError
from estbench.estimators.base import Direct, Draws, Estimator
from estbench.estimators.formula import evaluate
from estbench.meter.bias import Centred
from estbench.meter.cost import declared_evaluations
from estbench.meter.gradients import Tape
from estbench.meter.measuring import adapt_once
from estbench.models.generator import Generator
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
    for draws in (3, 10):
        reward.hard_evals = reward.relaxed_evals = 0
        method.surrogate(policy, reward, draws, rng(4), state)
        for formula, counted in (
            (method.info.hard_evals, reward.hard_evals),
            (method.info.relaxed_evals, reward.relaxed_evals),
        ):
            sizes = {"T": T, "V": policy.vocabulary, "K": method.info.group, "n": draws}
            assert counted == pytest.approx(draws * evaluate(formula, sizes)), formula
        assert (reward.relaxed_evals > 0) == method.info.needs_relaxed_reward


BATCHES = 8  # between two comparisons of REBAR's temperatures


@pytest.mark.parametrize(("name", "rollouts"), CASES)
def test_a_sequence_costs_what_is_counted_while_it_trains(name: str, rollouts: int) -> None:
    """What tunes the estimator is among it: REBAR's temperatures take 2.25 evaluations, not 2."""
    draws = 3
    method, policy, reward, state = prepared(name, rollouts=rollouts)
    reward.hard_evals = reward.relaxed_evals = 0
    for batch in range(BATCHES):
        adapt_once(method, policy, reward, draws, rng(batch), state)
    sequences = BATCHES * draws * method.info.group
    declared = declared_evaluations(method.info, policy.vocabulary, T, draws)
    counted = (reward.hard_evals + reward.relaxed_evals) / sequences
    assert declared == pytest.approx(counted)


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

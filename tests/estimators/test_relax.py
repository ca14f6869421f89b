"""RELAX's network is trained on the variance of the parameter gradient, and on nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from estbench.estimators.base import Component, Surrogate
from estbench.estimators.control_weights import combine
from estbench.estimators.relax import Relax
from estbench.meter.gradients import Tape
from estbench.meter.measuring import adapt_once
from estbench.meter.moments import total_variance
from estbench.proof.problems import expressions, tiny
from estbench.proof.rewards import rng
from estbench.proof.states import disturb


def drawn(method: Relax, state: dict[str, Any], n: int, seed: int = 0) -> tuple[Tape, Surrogate]:
    with Tape(tiny().policy) as tape:
        surrogate = method.surrogate(tiny().policy, tiny().reward, n, rng(seed), state)
    return tape, surrogate


def objective(method: Relax, state: dict[str, Any], tape: Tape, surrogate: Surrogate) -> Tensor:
    """The mean squared norm of the draws, as a function of phi at fixed noise."""
    learned = method._weights(tiny().policy, surrogate.cache["sample"], state)
    parts = [
        Component("factor", learned.flatten(1)) if c.name == "factor" else c
        for c in surrogate.components
    ]
    given = {"constant": 0.1, "factor": 1.0, "eta": 0.5}
    weights = combine(parts, given)
    return tape.mean_squared_norm(surrogate, weights, None)


@pytest.mark.parametrize("coupled", [True, False])
@pytest.mark.parametrize("with_reward", [True, False])
def test_phis_gradient_equals_finite_differences_at_fixed_noise(
    coupled: bool, with_reward: bool
) -> None:
    method = Relax(coupled=coupled, with_reward=with_reward)
    state = method.initial_state(tiny().policy, rng(1))
    disturb(method, tiny().policy, state, rng(2))
    tape, surrogate = drawn(method, state, 16)
    parameters = list(state["network"].parameters())
    exact = torch.autograd.grad(objective(method, state, tape, surrogate), parameters)
    noise, step = rng(3), 1e-5
    for parameter, grad in zip(parameters, exact, strict=True):
        direction = torch.randn(parameter.shape, generator=noise, dtype=parameter.dtype)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * step * direction
            values.append(float(objective(method, state, tape, surrogate).detach()))
            with torch.no_grad():
                parameter -= sign * step * direction
        slope = (values[0] - values[1]) / (2 * step)
        assert float((grad * direction).sum()) == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_the_surrogates_weights_carry_phi_and_its_draws_do_not() -> None:
    method = Relax()
    state = method.initial_state(tiny().policy, rng(1))
    disturb(method, tiny().policy, state, rng(2))
    _, surrogate = drawn(method, state, 4)
    parameters = list(state["network"].parameters())
    found = torch.autograd.grad(
        surrogate.weights.square().sum(), parameters, retain_graph=True, allow_unused=True
    )
    assert all(g is not None and bool((g != 0).any()) for g in found[:2])
    values = torch.autograd.grad(
        surrogate.values.sum(), parameters, allow_unused=True, retain_graph=True
    )
    assert all(g is None for g in values)


@pytest.mark.slow
@pytest.mark.parametrize("coupled", [True, False])
def test_training_lowers_the_variance_against_the_untrained_self(coupled: bool) -> None:
    method = Relax(coupled=coupled)
    state = method.initial_state(tiny().policy, rng(1))
    noise = rng(2)
    for _ in range(150):
        adapt_once(method, tiny().policy, tiny().reward, 128, noise, state)
    tape, surrogate = drawn(method, state, 8192, seed=9)
    trained = tape.differentiate(surrogate, retain_graph=True).squared_norms().mean()
    plain = method.without_control(surrogate, state)
    untrained = tape.differentiate(plain).squared_norms().mean()
    assert float(trained) < 0.75 * float(untrained)


@pytest.mark.slow
def test_training_lowers_the_variance_on_expressions() -> None:
    problem = expressions(torch.float32)
    method = Relax()
    state = method.initial_state(problem.policy, rng(1))
    noise = rng(2)
    for _ in range(150):
        adapt_once(method, problem.policy, problem.reward, 128, noise, state)
    with Tape(problem.policy) as tape:
        surrogate = method.surrogate(problem.policy, problem.reward, 8192, noise, state)
    trained = total_variance(tape.differentiate(surrogate, retain_graph=True))
    plain = method.without_control(surrogate, state)
    assert plain is not None
    assert trained < 0.75 * total_variance(tape.differentiate(plain))


def test_an_untrained_network_changes_nothing() -> None:
    method = Relax()
    state = method.initial_state(tiny().policy, rng(1))
    _, surrogate = drawn(method, state, 32)
    plain = method.without_control(surrogate, state)
    assert torch.equal(plain.weights, surrogate.weights)


def test_a_network_that_grows_from_nothing_never_does_harm() -> None:
    """The factor is solved for on an older, smaller phi: unbounded, it would ask for thousands."""
    method = Relax()
    state = method.initial_state(tiny().policy, rng(1))
    noise = rng(2)
    for _ in range(12):
        adapt_once(method, tiny().policy, tiny().reward, 128, noise, state)
        tape, surrogate = drawn(method, state, 4096, seed=9)
        plain = method.without_control(surrogate, state)
        norms = tape.differentiate(surrogate, retain_graph=True).squared_norms().mean()
        assert 0 <= surrogate.info["factor"] <= 1
        assert float(norms) < 1.2 * float(tape.differentiate(plain).squared_norms().mean())

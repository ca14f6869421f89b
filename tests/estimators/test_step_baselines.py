"""Baselines a step, groups, and MuProp, against what enumeration and calculus say they are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from estbench import estimators
from estbench.estimators.grouped import GroupRelative
from estbench.estimators.muprop import MuProp, tangent
from estbench.estimators.score_function import LeaveOneOut
from estbench.estimators.step_baselines import StepConstants
from estbench.meter.exact import enumerate_sequences
from estbench.meter.gradients import Tape
from estbench.models.lstm_generator import Generator
from estbench.proof.problems import Problem, named, tiny
from estbench.proof.rewards import rng
from estbench.proof.states import learned
from estbench.proof.variance import exact_variance

from .closed_form import sequence_log_probs


def every_score(given: Problem) -> Tensor:
    """S_t of every sequence there is, ``[V^T, T, P]``."""
    policy = given.policy
    sequences = enumerate_sequences(policy.vocabulary, policy.length)
    parameters = list(policy.parameters())
    chosen = policy.log_probs(sequences).gather(2, sequences.unsqueeze(2)).squeeze(2)
    rows = [
        torch.autograd.grad(x, parameters, retain_graph=True, materialize_grads=True)
        for x in chosen.flatten()
    ]
    flat = torch.stack([torch.cat([g.flatten() for g in parts]) for parts in rows])
    return flat.reshape(*chosen.shape, -1)


def test_step_constants_are_learned() -> None:
    """b*_t = E[R S_t . S] / E|S_t|^2, by enumeration; and the variance that they leave."""
    given = tiny()
    scores, p = every_score(given), sequence_log_probs(given.policy).exp()
    rewards = given.reward(enumerate_sequences(3, 3))
    along = (scores * scores.sum(dim=1, keepdim=True)).sum(dim=2)
    squares = p @ scores.square().sum(dim=2)
    best = (p * rewards) @ along / squares
    torch.testing.assert_close(p @ along, squares)  # scores of different steps are uncorrelated
    method = StepConstants()
    exactly = method.solve((p * rewards) @ along, squares)
    torch.testing.assert_close(exactly, best, atol=0.02 * float(best.abs().max()), rtol=0)

    state = method.initial_state(given.policy, rng())
    with Tape(given.policy) as tape:
        surrogate = method.surrogate(given.policy, given.reward, 20_000, rng(), state)
    method.adapt(given.policy, surrogate, tape, state)
    torch.testing.assert_close(state["steps"]["values"], best, atol=0.05, rtol=0)
    left = exact_variance(method, given, state)
    constant = given.exact.reinforce_variance(given.exact.best_constant)
    assert left is not None
    assert left < constant
    state["steps"]["values"] = best
    least = exact_variance(method, given, state)
    assert least is not None
    assert least <= left < 1.02 * least
    for t in range(3):  # and no other value leaves less
        state["steps"]["values"] = best + 0.1 * torch.eye(3, dtype=torch.float64)[t]
        other = exact_variance(method, given, state)
        assert other is not None
        assert other > least


def test_step_constants_with_rollouts_are_those_of_what_each_token_earned() -> None:
    given, method = tiny(), StepConstants(rollouts=2)
    state = method.initial_state(given.policy, rng())
    with Tape(given.policy) as tape:
        surrogate = method.surrogate(given.policy, given.reward, 16, rng(), state)
    method.adapt(given.policy, surrogate, tape, state)
    returns = surrogate.cache["returns"]
    tokens = surrogate.tokens[:, 0]
    numbers = (tokens * torch.tensor([9, 3, 1])).sum(dim=1)
    scores = every_score(given)[numbers]
    earned = (scores * (returns.unsqueeze(2) * scores).sum(dim=1, keepdim=True)).sum(dim=2)
    torch.testing.assert_close(state["steps"]["earned"], 0.2 * earned.mean(dim=0))


def test_the_greedy_sequence_is_the_likeliest_token_of_each_step() -> None:
    policy = Generator(4, 5, dtype=torch.float64, end=2).initialise("normal", 0.6, rng(1))
    greedy = policy.greedy()
    with torch.no_grad():
        expected = policy.log_probs(greedy).argmax(dim=2)
    assert torch.equal(greedy, expected)


def test_the_self_critical_baseline_is_the_greedy_sequences_reward() -> None:
    given = tiny()
    method = estimators.make("reinforce-greedy")
    surrogate = method.surrogate(given.policy, given.reward, 30, rng(), {})
    own = given.reward(given.policy.greedy())
    torch.testing.assert_close(surrogate.weights, (surrogate.rewards - own).expand(30, 3))


def test_vine_advantages_add_up_to_the_reward_beyond_the_starts_value() -> None:
    given = tiny()
    surrogate = estimators.make("vine").surrogate(given.policy, given.reward, 3000, rng(), {})
    rest = surrogate.rewards[:, 0] - surrogate.weights.sum(dim=1)
    # What is left is the mean of four independent sequences' rewards.
    variance = given.exact.reward_variance / 4
    assert abs(float(rest.mean())) < 5 * (variance / 3000) ** 0.5
    assert float(rest.var()) == pytest.approx(variance, rel=0.15)
    together = torch.stack([rest, surrogate.rewards[:, 0]])
    assert abs(float(torch.corrcoef(together)[0, 1])) < 0.1


def test_dr_grpo_is_leave_one_out_scaled() -> None:
    given = tiny()
    one = estimators.make("dr-grpo").surrogate(given.policy, given.reward, 10, rng(), {})
    two = LeaveOneOut(8).surrogate(given.policy, given.reward, 10, rng(), {})
    assert torch.equal(one.tokens, two.tokens)
    torch.testing.assert_close(one.weights, 7 / 8 * two.weights)


def test_grpo_points_elsewhere_and_dr_grpo_does_not() -> None:
    """Expected draws of two tokens out of four, by enumeration of all pairs."""
    given = named("categorical-rough")
    policy = given.policy
    with torch.no_grad():
        p = policy.log_probs(torch.zeros(1, 1, dtype=torch.int64))[0, 0].exp()
    pairs = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    truth = torch.cat([g.flatten() for g in given.gradient])
    found = {}
    for standardised in (True, False):
        method = GroupRelative("x", 2, standardised)
        policy_draws = {"sample_from": lambda u: pairs.reshape(-1, 1)}
        for key, value in policy_draws.items():
            object.__setattr__(policy, key, value)
        try:
            with Tape(policy) as tape:
                surrogate = method.surrogate(policy, given.reward, 16, rng(), {})
            draws = torch.cat(list(tape.differentiate(surrogate).chunks()))
        finally:
            for key in policy_draws:
                object.__delattr__(policy, key)
        found[standardised] = p[pairs].prod(dim=1) @ draws
    torch.testing.assert_close(found[False], truth / 2)
    cosine = torch.nn.functional.cosine_similarity(found[True], truth, dim=0)
    assert 0.8 < float(cosine) < 0.995


def test_the_tangent_is_the_derivative_of_the_reward_along_the_mean_field() -> None:
    given = tiny()
    x, slope, value = (part[0] for part in tangent(given.policy, given.reward))
    torch.testing.assert_close(value, given.reward.relaxed(x.unsqueeze(0))[0])
    torch.testing.assert_close(x.sum(dim=1), torch.ones(3, dtype=torch.float64))
    for t in range(3):
        for v in range(3):
            rewards = []
            for move in (1e-5, -1e-5):
                state, previous, rows = given.policy.initial_state(1), None, []
                with torch.no_grad():
                    for s in range(3):
                        log_probs, state = given.policy.step(previous, state)
                        previous = log_probs.exp()
                        if s == t:
                            previous = previous.clone()
                            previous[0, v] += move
                        rows.append(previous)
                    rewards.append(float(given.reward.relaxed(torch.stack(rows, dim=1))))
            difference = (rewards[0] - rewards[1]) / 2e-5
            assert float(slope[t, v]) == pytest.approx(difference, rel=1e-4, abs=1e-8)


def test_muprop_leaves_no_variance_of_a_linear_reward() -> None:
    """At eta = 1 and a constant of E f, which is 0 here; tuning gets there but for its ridge."""
    given = named("categorical-linear")
    method = MuProp()
    without = given.exact.reinforce_variance(given.exact.best_constant)
    state = method.initial_state(given.policy, rng())
    state["coefficients"]["values"] = (0.0, 1.0)
    left = exact_variance(method, given, state)
    assert left is not None
    assert abs(left) < 1e-12 * without
    state = learned(method, given, "trained")
    constant, eta = method.coefficients.values(state["coefficients"]).values()
    assert eta == pytest.approx(1, abs=0.01)
    assert constant == pytest.approx(0, abs=0.01)
    left = exact_variance(method, given, state)
    assert left is not None
    assert left < 1e-3 * without


def test_tuned_muprop_leaves_less_variance_than_the_best_constant() -> None:
    given = tiny()
    method = MuProp()
    left = exact_variance(method, given, learned(method, given, "trained"))
    assert left is not None
    assert left < 0.97 * given.exact.reinforce_variance(given.exact.best_constant)

"""The KL to a reference as a loss: what each form is the gradient of, by enumeration."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from estbench import estimators
from estbench.core.seeding import stream
from estbench.estimators.base import Surrogate
from estbench.estimators.kl_losses import LOSSES
from estbench.meter.bias import bias_test
from estbench.models.penalty import Penalised
from estbench.models.policy import at_tokens
from estbench.proof.conditions import RecurrentPolicy, possible_sequences
from estbench.proof.judging import plan_for
from estbench.proof.problems import Problem, named, tiny
from estbench.proof.rewards import function_reward, rng
from estbench.proof.states import learned


def flat(gradient: list[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in gradient])


def parts(problem: Problem) -> tuple[RecurrentPolicy, Penalised, Tensor]:
    """The policy, the reward with its penalty, and all sequences."""
    policy, reward = problem.policy, problem.reward.reward
    assert isinstance(policy, RecurrentPolicy)
    assert isinstance(reward, Penalised)
    return policy, reward, possible_sequences(policy)


def token_log_probs(policy: RecurrentPolicy, sequences: Tensor) -> Tensor:
    return at_tokens(policy.log_probs(sequences), sequences)


def gradient_of(policy: RecurrentPolicy, value: Tensor) -> Tensor:
    parameters = list(policy.parameters())
    return flat(
        list(torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True))
    )


def test_the_gradient_is_that_of_the_expected_reward_minus_the_divergence() -> None:
    problem = named("kl")
    policy, reward, sequences = parts(problem)
    log_p = token_log_probs(policy, sequences).sum(dim=1)
    log_q = token_log_probs(reward.penalty.reference, sequences).sum(dim=1)  # type: ignore[arg-type]
    divergence = (log_p.exp() * (log_p - log_q)).sum()
    expected = (log_p.exp() * reward.reward(sequences)).sum()
    assert divergence.item() == pytest.approx(0.55, abs=0.01)
    right = gradient_of(policy, expected - 0.5 * divergence)
    torch.testing.assert_close(flat(problem.gradient), right)


@pytest.mark.parametrize(
    ("name", "bias"), [("kl-k1", 0.810), ("kl-k2", 0.0), ("kl-k2-token", 0.219), ("kl-k3", 0.242)]
)
def test_only_the_square_of_a_sequences_log_ratio_has_the_gradient_of_the_divergence(
    name: str, bias: float
) -> None:
    problem = named("kl")
    policy, reward, sequences = parts(problem)
    chosen = token_log_probs(policy, sequences)
    p = chosen.sum(dim=1).exp()
    slopes = LOSSES[name][0](reward.penalty.log_ratios(sequences))
    loss = (p.detach() * (slopes * chosen).sum(dim=1)).sum()
    made = gradient_of(policy, (p * reward.reward(sequences)).sum() - 0.5 * loss)
    error = (made - flat(problem.gradient)).norm() / flat(problem.gradient).norm()
    assert error.item() == pytest.approx(bias, abs=5e-4)


def test_k3_token_by_token_is_the_divergence_the_other_way_round() -> None:
    policy, reward, _ = parts(named("kl"))
    first = policy.log_probs(torch.zeros(1, 1, dtype=torch.int64))[0, 0]
    other = reward.penalty.reference.log_probs(torch.zeros(1, 1, dtype=torch.int64))[0, 0].detach()
    turned = gradient_of(policy, (other.exp() * (other - first)).sum())
    p = first.detach().exp()
    slopes = LOSSES["kl-k3"][0]((first.detach() - other).unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(gradient_of(policy, (p * slopes * first).sum()), turned)


@pytest.mark.parametrize("name", ["kl-k1", "kl-k2", "kl-k2-token", "kl-k3"])
def test_without_a_penalty_all_of_them_are_rloo(name: str) -> None:
    problem = tiny()
    mine, theirs = (
        estimators.make(each).surrogate(problem.policy, problem.reward, 4, rng(), {})
        for each in (name, "rloo")
    )
    assert isinstance(mine, Surrogate)
    assert isinstance(theirs, Surrogate)
    torch.testing.assert_close(mine.weights, theirs.weights, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["kl-k2", "rloo", "rebar"])
def test_what_is_right_for_any_reward_is_right_for_a_penalised_one(name: str) -> None:
    problem, method = named("kl"), estimators.make(name)
    state = learned(method, problem, "trained")
    noise = stream("test of penalties", name)
    plan = plan_for(0.05, 10)
    given = (problem.policy, problem.reward, problem.gradient)
    assert bias_test(method, *given, noise, state, plan).verdict == "unbiased"


@pytest.mark.parametrize("name", ["kl-k1", "kl-k2-token", "kl-k3"])
def test_the_other_forms_are_found_biased_where_there_is_a_penalty(name: str) -> None:
    problem = named("kl")
    given = (problem.policy, problem.reward, problem.gradient)
    noise = stream("test of biased penalties", name)
    result = bias_test(estimators.make(name), *given, noise, {}, plan_for(0.05, 10))
    assert result.verdict == "biased"


def test_a_penalty_follows_its_policy_and_leaves_no_gradient_in_it() -> None:
    policy, reference = (
        RecurrentPolicy(3, 4, 2, end=2).initialise(0.9, rng(seed)) for seed in (25, 525)
    )
    reward = Penalised(function_reward(3, 4, 25), policy, reference, beta=0.5)
    tokens = policy.sample(8, rng())
    before = reward.penalty.log_ratios(tokens)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.1)
    moved = copy.deepcopy(policy)
    after = token_log_probs(moved, tokens) - token_log_probs(reference, tokens)
    assert not torch.equal(reward.penalty.log_ratios(tokens), before)
    torch.testing.assert_close(reward.penalty.log_ratios(tokens), after.detach())

    weights = torch.rand(8, 4, 3, dtype=torch.float64, generator=rng()).requires_grad_()
    reward.relaxed(weights).sum().backward()
    assert weights.grad is not None
    assert all(parameter.grad is None for parameter in policy.parameters())
    assert (reward.hard_evals, reward.relaxed_evals) == (0, 8)

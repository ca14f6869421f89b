"""Estimators whose name says how many sequences make a draw, against enumeration."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from estbench import estimators
from estbench.core.errors import UserError
from estbench.estimators.score_function import Grouped
from estbench.meter.exact import exact
from estbench.models.enumeration import enumerate_sequences
from estbench.proof.problems import bernoulli, categorical, tiny
from estbench.proof.rewards import rng

PROBLEMS = {
    **{K: categorical("rough") for K in (2, 3, 4, 8)},  # 4^K groups
    16: bernoulli(0.2, 0.45),  # 2^16 groups
}


def every_draw(method: Grouped, K: int) -> tuple[Tensor, Tensor]:
    """Return the draws that all groups of K sequences make, ``[n, D]``, and their probabilities."""
    policy, reward = PROBLEMS[K]
    sequences = enumerate_sequences(policy.vocabulary, policy.length)
    log_probs = policy.log_probs(sequences).gather(2, sequences.unsqueeze(2)).sum(dim=(1, 2))
    parameters = list(policy.parameters())
    each = [torch.autograd.grad(one, parameters, retain_graph=True) for one in log_probs]
    scores = torch.stack([torch.cat([g.flatten() for g in one]) for one in each])
    groups = torch.cartesian_prod(*[torch.arange(len(sequences))] * K)
    weights = method.weights(reward(sequences)[groups].unsqueeze(2)).squeeze(2)
    draws = torch.einsum("nk,nkd->nd", weights, scores[groups])
    return draws, log_probs.detach()[groups].sum(dim=1).exp()


def moments(name: str, K: int) -> tuple[Tensor, float]:
    method = estimators.make(name)
    assert isinstance(method, Grouped)
    draws, p = every_draw(method, K)
    mean = p @ draws
    return mean, float(p @ ((draws - mean) ** 2).sum(dim=1))


@pytest.mark.parametrize("K", PROBLEMS)
def test_the_mean_over_all_groups_is_the_exact_gradient(K: int) -> None:
    truth = torch.cat([g.flatten() for g in exact(*PROBLEMS[K]).gradient])
    torch.testing.assert_close(moments(f"rloo-{K}", K)[0], truth)
    torch.testing.assert_close(moments(f"dr-grpo-{K}", K)[0], truth * (K - 1) / K)


@pytest.mark.parametrize("K", PROBLEMS)
def test_the_variance_of_a_sequence_is_the_known_formula(K: int) -> None:
    """K Var = E[(f - J)^2 |S|^2] - (K - 2) / (K - 1) |grad J|^2 + Var f E|S|^2 / (K - 1)."""
    truth = exact(*PROBLEMS[K])
    expected = (
        truth.weighted_score_moment
        - (K - 2) / (K - 1) * truth.squared_norm
        + truth.reward_variance * truth.score_moment / (K - 1)
    )
    assert K * moments(f"rloo-{K}", K)[1] == pytest.approx(expected)
    # Dr. GRPO's draw is (K - 1) / K times as long.
    assert K * moments(f"dr-grpo-{K}", K)[1] == pytest.approx(expected * ((K - 1) / K) ** 2)


def test_two_sequences_leave_grpo_the_sign_of_a_difference() -> None:
    rewards = torch.tensor([[0.1, 0.7], [5.0, -3.0], [2.0, 2.0]]).unsqueeze(2)
    method = estimators.make("grpo-2")
    assert isinstance(method, Grouped)
    expected = torch.tensor([[-1.0, 1.0], [1.0, -1.0], [0.0, 0.0]]) / 8**0.5
    torch.testing.assert_close(method.weights(rewards).squeeze(2), expected)


@pytest.mark.parametrize(
    "family", ["rloo", "grpo", "dr-grpo", "reinforce-standardised", "rodeo", "double-cv"]
)
def test_a_name_says_the_size_of_the_group(family: str) -> None:
    assert estimators.info(family).group == (64 if family == "reinforce-standardised" else 8)
    problem, bare = tiny(), estimators.info(family)
    for K in (2, 5, 16):
        method = estimators.make(f"{family}-{K}")
        info = method.info
        assert (info.name, info.group, info.any_group) == (f"{family}-{K}", K, True)
        assert (info.unbiased, info.baseline) == (bare.unbiased, bare.baseline)
        assert f" {K}" in info.summary
        state = method.initial_state(problem.policy, rng())
        surrogate = method.surrogate(problem.policy, problem.reward, 3, rng(), state)
        assert surrogate.tokens.shape == (3, K, 3)
        assert estimators.family(info.name) == family
        assert info.name not in estimators.names()


def test_the_bare_name_makes_the_draws_of_its_own_size() -> None:
    policy, reward = categorical("rough")
    one, two = (
        estimators.make(name).surrogate(policy, reward, 5, rng(), {}) for name in ("rloo", "rloo-8")
    )
    assert torch.equal(one.rewards, two.rewards)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("rloo-1", r"no estimator rloo-1: K in rloo-K is a whole number from 2 to 999999"),
        ("rloo-0", "such as rloo-4"),
        ("grpo-016", "no estimator grpo-016"),
        ("rloo-" + "9" * 5000, "no estimator rloo-9{20}: K"),
        ("rlo-16", "did you mean 'rloo-16'"),
        ("dr-grop-4", "did you mean 'dr-grpo-4'"),
        ("rebar-16", "unknown estimator 'rebar-16'"),
        ("rloo-4-4", "unknown estimator 'rloo-4-4'"),
        ("rloo--4", "unknown estimator 'rloo--4'"),
        ("rloo-4@none", "rloo has no switches"),
        ("rloo-batch", "unknown estimator 'rloo-batch'"),
    ],
)
def test_a_size_that_cannot_be_is_refused_in_a_line(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        estimators.check_name(name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300

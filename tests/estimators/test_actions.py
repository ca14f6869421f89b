"""Branches of a sequence, and the estimators that sum over the next token."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from estbench import estimators
from estbench.estimators.all_actions import MOST, SumAndSample
from estbench.estimators.per_step import branch
from estbench.meter.gradients import Tape
from estbench.models.lstm_generator import Generator
from estbench.proof.problems import named, tiny
from estbench.proof.rewards import rng

from .closed_form import sequence_log_probs


def test_a_branch_keeps_the_prefix_and_takes_the_alternative() -> None:
    policy = Generator(4, 5, dtype=torch.float64).initialise("normal", 0.6, rng(1))
    tokens = policy.sample(7, rng(2))
    alternatives = torch.randint(4, (7, 5, 2), generator=rng(3))
    uniforms = torch.rand(7, 5, 2, 5, generator=rng(4), dtype=torch.float64)
    found = branch(policy, tokens, alternatives, uniforms)
    for t in range(5):
        before = tokens[:, None, :t].expand(7, 2, t)
        assert torch.equal(found[:, t, :, :t], before)
        assert torch.equal(found[:, t, :, t], alternatives[:, t])
    # Each token after it is the one that its uniform picks, one step at a time.
    flat = found.reshape(-1, 5)
    with torch.no_grad():
        cumulative = policy.log_probs(flat).exp().cumsum(dim=2)
    picked = (cumulative <= uniforms.reshape(-1, 5, 1)).sum(dim=2).reshape(7, 5, 2, 5)
    for t in range(5):
        assert torch.equal(found[:, t, :, t + 1 :], picked[:, t, :, t + 1 :])


def test_branches_follow_the_policy() -> None:
    policy, n = tiny().policy, 40_000
    tokens = torch.tensor([[1, 2, 0]]).expand(n, 3)
    alternatives = torch.full((n, 3, 1), 2)
    uniforms = torch.rand(n, 3, 1, 3, generator=rng(), dtype=torch.float64)
    ends = branch(policy, tokens, alternatives, uniforms)[:, 0, 0]
    p = sequence_log_probs(policy).exp()[18:]  # those that begin with 2
    seen = torch.bincount(ends[:, 1] * 3 + ends[:, 2], minlength=9).double()
    assert stats.chisquare(seen, p / p.sum() * n).pvalue > 1e-6


@pytest.mark.parametrize("name", ["all-actions", "sum-and-sample"])
@pytest.mark.parametrize("where", ["bernoulli-.2-.45", "categorical-rough"])
def test_one_token_leaves_nothing_to_chance(name: str, where: str) -> None:
    """All actions of one token are all there is; so are k and one more of V = k + 1."""
    given = named(where)
    method = estimators.make(name)
    if name == "sum-and-sample":
        method = SumAndSample(kept=given.policy.vocabulary)
    state = method.initial_state(given.policy, rng())
    with Tape(given.policy) as tape:
        surrogate = method.surrogate(given.policy, given.reward, 20, rng(), state)
    draws = torch.cat(list(tape.differentiate(surrogate).chunks()))
    truth = torch.cat([g.flatten() for g in given.gradient]).expand_as(draws)
    torch.testing.assert_close(draws, truth, atol=1e-12, rtol=1e-9)


def test_sum_and_sample_weighs_each_step_by_one() -> None:
    """Probabilities of the tokens summed over and of all the others: a reward of 1 says so."""
    problem = tiny()
    method = SumAndSample(kept=1)
    state = method.initial_state(problem.policy, rng())
    ones = type(problem.reward)(lambda t: torch.ones(len(t)).double(), 0.0)  # type: ignore[arg-type]
    surrogate = method.surrogate(problem.policy, ones, 200, rng(), state)
    by_step = surrogate.weights.reshape(200, 3, 3)
    torch.testing.assert_close(by_step.sum(dim=2), torch.ones(200, 3, dtype=torch.float64))
    with torch.no_grad():
        p = problem.policy.log_probs(surrogate.tokens[:, 0]).exp()
    likeliest = p.argmax(dim=2, keepdim=True)
    torch.testing.assert_close(by_step.gather(2, likeliest), p.gather(2, likeliest))
    assert bool(((by_step > 0).sum(dim=2) == 2).all())
    # Of the others, the one that the sequence itself took where it took one.
    tokens = surrogate.tokens[:, 0].unsqueeze(2)
    assert bool((by_step.gather(2, tokens) > 0).all())


def test_all_actions_say_when_they_are_too_many() -> None:
    method = estimators.make("all-actions")
    assert method.refusal(5, 15) == ""
    assert f"99,981 evaluations a draw, more than {MOST:,}" in method.refusal(5000, 20)

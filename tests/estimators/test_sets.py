"""Sampling without replacement: its law, the weights of a set, and closed-form variances."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations, permutations

import pytest
import torch
from scipy import stats
from torch import Tensor

from estbench import estimators
from estbench.core import noise
from estbench.estimators.base import Surrogate
from estbench.estimators.sets import (
    Beams,
    UnorderedSet,
    WithoutReplacement,
    beam_noise,
    beam_search,
    order_probabilities,
)
from estbench.meter.bias import Centred
from estbench.meter.exact import enumerate_sequences
from estbench.meter.gradients import Tape
from estbench.models.lstm_generator import Generator
from estbench.models.policy import Policy
from estbench.proof.problems import Problem, named, problem, three_bernoullis, tiny
from estbench.proof.rewards import rng

from .closed_form import sequence_log_probs, set_probability
from .test_numbers import SIGNIFICANT, UNORDERED, fixed, measured


def searched(policy: Policy, draws: int, beams: int, seed: int = 0) -> Beams:
    u = noise.uniforms(rng(seed), draws, beam_noise(policy, beams), torch.float64)
    return beam_search(policy, u, beams)


def numbered(policy: Policy, tokens: Tensor) -> Tensor:
    """The number of each sequence in lexicographic order."""
    places = policy.vocabulary ** torch.arange(policy.length - 1, -1, -1)
    return (tokens * places).sum(dim=-1)


def test_beams_are_distinct_and_know_their_probabilities() -> None:
    policy = tiny().policy
    found = searched(policy, 500, 5)
    number = numbered(policy, found.tokens)
    assert all(len(set(row)) == 5 for row in number.tolist())
    torch.testing.assert_close(found.log_p, sequence_log_probs(policy)[number])
    assert bool((found.log_times.diff(dim=1) > 0).all())


def test_beams_arrive_in_an_order_drawn_without_replacement() -> None:
    """All 27 x 26 ordered pairs, against p_i p_j / (1 - p_i)."""
    policy, draws = tiny().policy, 200_000
    number = numbered(policy, searched(policy, draws, 2).tokens)
    p = sequence_log_probs(policy).exp()
    expected = torch.outer(p, p) / (1 - p).unsqueeze(1)
    expected.fill_diagonal_(0)
    seen = torch.bincount(number[:, 0] * 27 + number[:, 1], minlength=27 * 27).double()
    possible = expected.flatten() > 0
    assert float(seen[~possible].sum()) == 0
    assert float(expected[expected > 0].min()) * draws > 5
    wanted = expected.flatten()[possible] * draws
    assert stats.chisquare(seen[possible], wanted).pvalue > 1e-6


def test_beams_arrive_after_exponential_times() -> None:
    """The first at rate 1, the second at the rate of what the first left."""
    policy = tiny().policy
    found = searched(policy, 50_000, 2)
    times = found.log_times.exp()
    assert stats.kstest(times[:, 0], "expon").pvalue > 1e-6
    gap = times.diff(dim=1)[:, 0] * (1 - found.log_p[:, 0].exp())
    assert stats.kstest(gap, "expon").pvalue > 1e-6


@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_order_probabilities_are_those_of_the_definition(k: int) -> None:
    """R(S, s) = p^{D-s}(S-s) / p(S) and R^{D-s}(S, s'), as sums over all orders."""
    p = torch.rand(20, 8, generator=rng(), dtype=torch.float64)
    p = (p / p.sum(dim=1, keepdim=True))[:, :k]
    first, second = order_probabilities(p.log())
    ones = torch.ones(20, dtype=torch.float64)
    for s in range(k):
        others = [i for i in range(k) if i != s]
        without = set_probability(p[:, others], 1 - p[:, s])
        share = p[:, s] * without / set_probability(p, ones)
        torch.testing.assert_close(first[:, s], share, atol=1e-12, rtol=1e-9)
        torch.testing.assert_close(second[:, s, s], p[:, s])
        for t in others:
            rest = [i for i in others if i != t]
            left = 1 - p[:, s] - p[:, t]
            share = p[:, t] * set_probability(p[:, rest], left) / without
            torch.testing.assert_close(second[:, s, t], share, atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(first.sum(dim=1), ones)
    torch.testing.assert_close(second.sum(dim=2), ones.unsqueeze(1).expand(20, k))


@pytest.mark.parametrize(
    "log_p",
    [
        [-400.0, -410.0, -800.0, -500.0],
        [-1e-14, -33.0, -34.0, -40.0],
        [math.log(0.5), math.log(0.5) - 1e-15, -80.0, -90.0],
        [math.log(0.25)] * 4,
    ],
)
def test_order_probabilities_are_safe_at_extremes(log_p: list[float]) -> None:
    first, second = order_probabilities(torch.tensor([log_p], dtype=torch.float64))
    assert bool(first.isfinite().all() and second.isfinite().all())
    assert float(first.sum()) == pytest.approx(1)
    assert bool((first >= 0).all() and (first <= 1 + 1e-12).all())
    assert second.sum(dim=2).flatten().tolist() == pytest.approx([1.0] * 4)


def all_sets(
    method: UnorderedSet, given: Problem, k: int
) -> tuple[Tensor, Surrogate, list[Tensor]]:
    """The weights that the estimator gives to every set of k sequences there is."""
    log_p = sequence_log_probs(given.policy)
    sets = torch.tensor(list(combinations(range(len(log_p)), k)))
    sequences = enumerate_sequences(given.policy.vocabulary, given.policy.length)
    tokens, T = sequences[sets], given.policy.length
    rewards = given.reward(tokens.reshape(-1, T)).reshape(len(sets), k)
    beams = Beams(tokens, log_p[sets], torch.zeros(len(sets), k))
    weights = method.weights(beams, rewards.unsqueeze(2).expand(len(sets), k, T))
    p = log_p.exp()[sets]
    with Tape(given.policy) as tape:
        scores = given.policy.log_probs(tokens.reshape(-1, T)).gather(2, tokens.reshape(-1, T, 1))
    surrogate = Surrogate(
        scores.reshape(len(sets), -1), weights.reshape(len(sets), -1), tokens, rewards
    )
    found = tape.differentiate(surrogate)
    assert tape.fault == ""
    return set_probability(p, torch.ones(len(p)).double()), surrogate, list(found.chunks(1 << 20))


@pytest.mark.parametrize(("logit", "k", "variance"), UNORDERED)
def test_the_variance_of_the_unordered_set_estimator(logit: float, k: int, variance: float) -> None:
    """From all sets with their probabilities; then from sets that the beam search drew."""
    given, method = problem(*three_bernoullis(logit)), UnorderedSet(k)
    p, _, (draws,) = all_sets(method, given, k)
    mean = p @ draws
    assert float(mean) == pytest.approx(float(given.gradient[0]), rel=1e-9)
    distances = (draws - mean).square().sum(dim=1)
    exactly = float(p @ distances)
    assert exactly == fixed(variance, 5)
    n = 60_000
    error = float((p @ distances.square() - exactly**2) / n) ** 0.5
    found = measured(method, given.policy, given.reward, n)
    assert abs(float(found["total_variance"]) - variance) < SIGNIFICANT * error + 5e-5 * variance


@pytest.mark.parametrize("own_baseline", [True, False])
def test_the_unordered_set_estimator_is_exactly_unbiased_on_sequences(own_baseline: bool) -> None:
    """All 351 pairs, and all 2,925 triples, of the 27 sequences of an LSTM."""
    given = tiny()
    truth = torch.cat([g.flatten() for g in given.gradient])
    for k in (2, 3):
        p, _, (draws,) = all_sets(UnorderedSet(k, own_baseline), given, k)
        torch.testing.assert_close(p @ draws, truth, atol=1e-10, rtol=1e-9)


def test_its_own_baseline_may_raise_the_variance_and_takes_an_offset_away() -> None:
    given = named("three-bernoullis")
    offset = replace(given, reward=Centred(given.reward, -1.0))
    variances = {}
    for name, where in (("centred", given), ("offset", offset)):
        for own in (True, False):
            p, _, (draws,) = all_sets(UnorderedSet(4, own), where, 4)
            variances[name, own] = float(p @ (draws - p @ draws).square().sum(dim=1))
    assert variances["offset", True] == pytest.approx(variances["centred", True])
    assert variances["offset", True] < 0.1 * variances["offset", False]
    assert variances["centred", True] > variances["centred", False]


@pytest.mark.parametrize("k", [2, 3])
def test_the_unordered_set_is_reinforce_averaged_over_who_came_first(k: int) -> None:
    """Its definition (Kool et al. 2020, section 4.1): E[f(b_1) S(b_1) | set]."""
    p = torch.tensor([[0.3, 0.1, 0.05][:k]], dtype=torch.float64)
    first, _ = order_probabilities(p.log())
    orders = {}
    for order in permutations(range(k)):
        left, product = 1.0, 1.0
        for i in order:
            product, left = product * float(p[0, i]) / left, left - float(p[0, i])
        orders[order] = product
    total = sum(orders.values())
    for s in range(k):
        share = sum(v for order, v in orders.items() if order[0] == s) / total
        assert float(first[0, s]) == pytest.approx(share)


def test_importance_weights_have_mean_one() -> None:
    """Of every sequence: E 1[s in S] p(s) / q(s) = p(s)."""
    policy, n = tiny().policy, 100_000
    method = WithoutReplacement(4, own_baseline=False)
    beams = searched(policy, n, 5)
    weights = method.weights(beams, torch.ones(n, 4, 1, dtype=torch.float64))[:, :, 0]
    number = numbered(policy, beams.tokens[:, :4])
    p = sequence_log_probs(policy).exp()
    each = torch.zeros(n, 27, dtype=torch.float64).scatter(1, number, weights)
    error = each.std(dim=0) / n**0.5
    assert bool(((each.mean(dim=0) - p).abs() < 5 * error).all())


@pytest.mark.parametrize("name", ["unordered-set-8", "without-replacement-8"])
@pytest.mark.parametrize("where", ["bernoulli-.2-.45", "categorical-rough"])
def test_a_set_of_all_sequences_gives_the_exact_gradient(name: str, where: str) -> None:
    given = named(where)
    method = estimators.make(name)
    with Tape(given.policy) as tape:
        surrogate = method.surrogate(given.policy, given.reward, 50, rng(), {})
    draws = torch.cat(list(tape.differentiate(surrogate).chunks()))
    truth = torch.cat([g.flatten() for g in given.gradient]).expand_as(draws)
    torch.testing.assert_close(draws, truth, atol=1e-12, rtol=1e-9)
    assert surrogate.info["distinct"] == given.policy.vocabulary


@pytest.mark.parametrize("name", ["unordered-set-8", "without-replacement-8"])
def test_long_sequences_whose_probabilities_vanish(name: str) -> None:
    """Of 60 tokens out of 40 in float32: p is about e^-220, and float32 ends at e^-103."""
    policy = Generator(40, 60).initialise("normal", 0.3, rng(1))
    reward = named("autoregressive").reward
    reward = type(reward)(lambda tokens: tokens.float().mean(dim=1), 0.0)  # type: ignore[arg-type]
    method = estimators.make(name)
    surrogate = method.surrogate(policy, reward, 4, rng(), {})
    assert surrogate.weights.dtype == torch.float32
    assert bool(surrogate.weights.isfinite().all())
    assert float(surrogate.weights.abs().max()) > 0
    assert surrogate.info["distinct"] == method.info.group

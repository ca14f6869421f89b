"""Rao-Blackwellised estimates have the expectations that their names promise."""

from __future__ import annotations

import math

import pytest
import torch

from estbench.tasks import estimates
from estbench.tasks.estimates import (
    bigrams,
    cross_entropies,
    cross_entropy,
    distinct,
    distinct_ngrams,
    kl_divergence,
)

from .hand_made import TablePolicy, all_strings, string_probabilities

P, Q = TablePolicy(3, 3, seed=0), TablePolicy(3, 3, seed=1)
STRINGS = all_strings(3, 3)


def test_the_mean_conditional_cross_entropy_is_the_cross_entropy_per_token() -> None:
    p, q = (string_probabilities(policy, STRINGS) for policy in (P, Q))
    log_p, log_q = (policy.log_probs(STRINGS).detach() for policy in (P, Q))
    expected = -(p * q.log()).sum().item() / 3
    assert (p * cross_entropy(log_p, log_q)).sum().item() == pytest.approx(expected)
    entropy = -(p * p.log()).sum().item() / 3
    assert (p * cross_entropy(log_p, log_p)).sum().item() == pytest.approx(entropy)


def test_taking_the_last_expectation_exactly_lowers_the_variance() -> None:
    p = string_probabilities(P, STRINGS)
    log_p = P.log_probs(STRINGS).detach()
    plain, blackwellised = -p.log() / 3, cross_entropy(log_p, log_p)

    def variance(values: torch.Tensor) -> float:
        mean = (p * values).sum()
        return float((p * (values - mean) ** 2).sum())

    assert variance(blackwellised) < variance(plain) / 2


def test_expected_bigrams_are_the_policys() -> None:
    q = string_probabilities(Q, STRINGS)
    log_q = Q.log_probs(STRINGS).detach()
    counted = torch.zeros(3, 3, dtype=torch.float64)
    for (a, b, c), probability in zip(STRINGS.tolist(), q.tolist(), strict=True):
        counted[a, b] += probability / 2
        counted[b, c] += probability / 2
    rows = zip(STRINGS.split(1), log_q.split(1), strict=True)
    estimates = torch.stack([bigrams(Q, tokens, log_probs) for tokens, log_probs in rows])
    assert torch.allclose((q.view(-1, 1, 1) * estimates).sum(dim=0), counted)
    assert torch.allclose(estimates.sum(dim=(1, 2)), torch.ones(27, dtype=torch.float64))


def test_bigram_kl_is_finite_though_the_sample_lacks_tokens() -> None:
    one_string = torch.zeros(5, 3, dtype=torch.int64)
    estimate = bigrams(Q, one_string, Q.log_probs(one_string).detach())
    uniform = torch.full((3, 3), 1 / 9, dtype=torch.float64)
    assert math.isfinite(kl_divergence(uniform, estimate))


def test_kl_counts_terms_without_mass_as_nothing() -> None:
    p = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    q = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64)
    assert kl_divergence(p, q) == pytest.approx(0.5 * math.log(2))
    assert kl_divergence(q, p) == math.inf


def test_distinct_is_the_fraction_without_duplicates() -> None:
    assert distinct(torch.tensor([[0, 1], [1, 0], [0, 1], [0, 0]])) == 0.75


def test_streamed_cross_entropies_are_those_of_whole_matrices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(estimates, "NUMBERS", 4 * 9)  # four sequences at a time
    found = cross_entropies(P, [Q, P], STRINGS)
    log_p, log_q = (policy.log_probs(STRINGS).detach() for policy in (P, Q))
    for values, scored in zip(found, (log_p, log_q, log_p), strict=True):
        torch.testing.assert_close(values, cross_entropy(log_p, scored))


def test_distinct_ngrams_are_counted_over_all_sequences() -> None:
    tokens = torch.tensor([[0, 1, 0, 1], [2, 2, 2, 2]])
    assert distinct_ngrams(tokens, 2) == 3 / 6  # 01, 10, 22
    assert distinct_ngrams(tokens, 3) == 3 / 4  # 010, 101, 222
    assert distinct_ngrams(tokens, 4) == 1.0

"""Grammars: their laws, and exact distances from walking the prefix tree."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from estbench.models.lstm_generator import Generator
from estbench.tasks.expressions import BRANCHING, fixed_length, variable_length
from estbench.tasks.grammar import Grammar

from .hand_made import TablePolicy, all_strings, string_probabilities

GRAMMARS = {"fixed": fixed_length(3), "padded": variable_length(3)}


@pytest.mark.parametrize(
    ("grammar", "strings", "entropy"),
    [
        (fixed_length(3), 4, math.log(4) / 3),
        (fixed_length(15), 4**7, 7 * math.log(4) / 15),
        (variable_length(15), sum(4**k for k in range(8)), None),
    ],
)
def test_the_grammars_have_the_papers_numbers_of_strings_and_entropies(
    grammar: Grammar, strings: int, entropy: float | None
) -> None:
    assert len(grammar.strings) == strings
    assert grammar.probabilities.sum().item() == pytest.approx(1)
    if entropy is not None:
        assert grammar.entropy == pytest.approx(entropy)
        assert round(entropy, 4) in (0.4621, 0.6469)


def test_the_padded_lengths_follow_the_branching_process_given_that_they_fit() -> None:
    # leaves[n] = P(the derivation has n leaves), from its own recursion over the first split.
    leaves = [0.0, 1 - BRANCHING]
    for n in range(2, 9):
        leaves.append(BRANCHING * sum(leaves[i] * leaves[n - i] for i in range(1, n)))
    grammar = variable_length(15)
    counts = (grammar.strings == 0).sum(dim=1)
    for n in range(1, 9):
        probability = grammar.probabilities[counts == n].sum().item()
        assert probability == pytest.approx(leaves[n] / sum(leaves))


def test_padded_strings_are_expressions_followed_by_pads_only() -> None:
    for row in variable_length(7).strings.tolist():
        text = "".join("x+-*/_"[v] for v in row).rstrip("_")
        assert len(text) % 2 == 1
        assert set(text[::2]) == {"x"}
        assert set(text[1::2]) <= set("+-*/")


@pytest.mark.parametrize("name", GRAMMARS)
def test_membership_is_what_the_list_says(name: str) -> None:
    grammar = GRAMMARS[name]
    listed = {tuple(row) for row in grammar.strings.tolist()}
    everything = all_strings(grammar.vocabulary, 3)
    assert grammar.contains(everything).tolist() == [
        tuple(row) in listed for row in everything.tolist()
    ]


@pytest.mark.parametrize("name", GRAMMARS)
def test_exact_distances_equal_sums_over_all_strings(name: str) -> None:
    grammar = GRAMMARS[name]
    policy = TablePolicy(grammar.vocabulary, 3)
    strings = all_strings(grammar.vocabulary, 3)
    q = string_probabilities(policy, strings)
    p = torch.zeros_like(q)
    for string, probability in zip(grammar.strings, grammar.probabilities, strict=True):
        p[(strings == string).all(dim=1)] = probability
    inside = p > 0
    kl = (p[inside] * (p[inside] / q[inside]).log()).sum().item() / 3

    exact = grammar.distance(policy)

    assert exact["p_valid"] == pytest.approx(q[inside].sum().item())
    assert exact["tv"] == pytest.approx((p - q).abs().sum().item() / 2)
    assert exact["kl"] == pytest.approx(kl)


def test_walking_the_tree_gives_every_strings_log_probability() -> None:
    grammar = variable_length(7)
    policy = Generator(6, 7, dtype=torch.float64)
    walked = grammar.log_probs(policy)
    assert torch.allclose(walked.exp(), string_probabilities(policy, grammar.strings))


def test_each_distinct_prefix_is_walked_once() -> None:
    calls: list[int] = []

    class Counting(TablePolicy):
        def step(self, previous, state):  # type: ignore[no-untyped-def]
            calls.append(len(state))
            return super().step(previous, state)

    grammar = variable_length(7)
    grammar.log_probs(Counting(6, 7))
    prefixes = [len({tuple(row[:t]) for row in grammar.strings.tolist()}) for t in range(7)]
    assert calls == prefixes


def test_samples_follow_the_grammar() -> None:
    grammar = variable_length(5)
    n = 20_000
    tokens = grammar.sample(n, torch.Generator().manual_seed(0))
    codes = (tokens * 6 ** torch.arange(4, -1, -1)).sum(dim=1)
    wanted = (grammar.strings * 6 ** torch.arange(4, -1, -1)).sum(dim=1)
    counts = (codes.unsqueeze(1) == wanted).sum(dim=0)
    assert counts.sum() == n
    expected = n * grammar.probabilities
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    assert chi_square < 48  # 20 degrees of freedom: P(more) = 4e-4


@pytest.mark.parametrize("name", GRAMMARS)
def test_bigrams_equal_counts_weighted_by_probability(name: str) -> None:
    grammar = GRAMMARS[name]
    counted = torch.zeros(grammar.vocabulary, grammar.vocabulary, dtype=torch.float64)
    for string, probability in zip(
        grammar.strings.tolist(), grammar.probabilities.tolist(), strict=True
    ):
        for a, b in itertools.pairwise(string):
            counted[a, b] += probability / (len(string) - 1)
    assert torch.allclose(grammar.bigrams, counted)

"""The paper's toy data: arithmetic strings x op x op ..., and the goodness of generated ones."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from estbench.core.registry import register
from estbench.core.seeding import stream
from estbench.models.policy import Policy
from estbench.tasks.base import Task
from estbench.tasks.declaring import DISTINCT, ENTROPY, MetricInfo, TaskInfo
from estbench.tasks.estimates import (
    bigrams,
    cross_entropy,
    distinct,
    kl_divergence,
    log_probs_in_chunks,
)
from estbench.tasks.grammar import Grammar

__all__ = ["BRANCHING", "ExpressionsTask", "fixed_length", "goodness", "variable_length"]

X, OPERATORS, PAD = 0, (1, 2, 3, 4), 5
BRANCHING = 0.505
"""Probability of S -> S op S in the variable-length grammar, the published data's."""

HELDOUT = 2_000
FULL_SAMPLES = 2_048  # goodness and entropy to about 1 % at the paper's sizes, in 10 ms


METRICS = {
    "goodness": MetricInfo("goodness", "windows", "higher"),
    "p_valid": MetricInfo("P(valid)", "", "higher"),
    "tv": MetricInfo("total variation to the grammar", "", "lower"),
    "kl": MetricInfo("KL(grammar || generator)", "nats per token", "lower"),
    "bigram_kl": MetricInfo("bigram KL(grammar || generator)", "nats", "lower"),
    "distinct": DISTINCT,
    "entropy": ENTROPY,
}


@register
class ExpressionsTask(Task):
    """Strings of the paper's grammar (its section 7.1), with everything exact that can be.

    Tokens are x=0 +=1 -=2 *=3 /=4, and _=5 where strings have different lengths: it ends a string
    and fills it up.

    Args:
      info: One of ``members``.
      seed: Data follow from (name, seed).
      data_size: Training strings.
    """

    members = (
        TaskInfo(
            "expressions-3",
            "arithmetic strings x op x, operators uniform over + - * / (the paper's, T=3)",
            5,
            3,
            "goodness",
            METRICS,
        ),
        TaskInfo(
            "expressions-15",
            "arithmetic strings x op x op ... x of 15 tokens (the paper's, T=15)",
            5,
            15,
            "goodness",
            METRICS,
        ),
        TaskInfo(
            "expressions-padded",
            "arithmetic strings of 1 to 15 tokens, S -> x | S op S, padded with _",
            6,
            15,
            "goodness",
            METRICS,
            end=True,
        ),
    )

    initialisation = ("uniform", 0.05)
    paper_token = X

    def __init__(self, info: TaskInfo, seed: int, data_size: int) -> None:
        self.info = info
        padded = info.vocabulary == 6
        self.tokens = tuple("x+-*/_" if padded else "x+-*/")
        self.end = PAD if padded else None
        self.grammar = (variable_length if padded else fixed_length)(info.length)
        self.train = self.grammar.sample(data_size, stream("data", info.name, seed))
        self.heldout = self.grammar.sample(HELDOUT, stream("heldout", info.name, seed))

    def quality(self, policy: Policy, tokens: Tensor, rng: torch.Generator) -> dict[str, float]:
        """Return goodness, P(valid), bigram KL, distinct and entropy as a sample tells them.

        ``tokens`` are the policy's; nothing else is drawn.
        """
        log_q = log_probs_in_chunks(policy, tokens)
        return {
            "goodness": goodness(tokens),
            "p_valid": self.grammar.contains(tokens).double().mean().item(),
            "bigram_kl": kl_divergence(self.grammar.bigrams, bigrams(policy, tokens, log_q)),
            "distinct": distinct(tokens),
            "entropy": cross_entropy(log_q, log_q).mean().item(),
        }

    def full_quality(self, policy: Policy, rng: torch.Generator) -> dict[str, float]:
        """Return exact P(valid), TV and KL; goodness and entropy from a large sample."""
        tokens = policy.sample(FULL_SAMPLES, rng)
        log_q = log_probs_in_chunks(policy, tokens)
        return {
            **self.grammar.distance(policy),
            "goodness": goodness(tokens),
            "entropy": cross_entropy(log_q, log_q).mean().item(),
        }


def goodness(tokens: Tensor) -> float:
    """Return the mean number of windows (x, op, x) or (op, x, op) in sequences int64 ``[n, T]``.

    The paper's score (its section 6): at most T - 2, blind to diversity. Uniform tokens have .16
    a window at V = 5. A pad is neither x nor operator.
    """
    x = tokens == X
    operator = (tokens >= OPERATORS[0]) & (tokens <= OPERATORS[-1])
    windows = (x[:, :-2] & operator[:, 1:-1] & x[:, 2:]) | (
        operator[:, :-2] & x[:, 1:-1] & operator[:, 2:]
    )
    return windows.double().sum(dim=1).mean().item()


@cache
def fixed_length(length: int) -> Grammar:
    """Return the uniform law over x op x op ... x of an odd length."""
    strings = _strings(length, length)
    return Grammar.of(5, strings, torch.ones(len(strings)))


@cache
def variable_length(length: int, branching: float = BRANCHING) -> Grammar:
    """Return the law of S -> x | S op S, operators uniform, given that the string is not longer.

    A string with k operators has Catalan(k) derivations of probability
    branching^k (1 - branching)^(k + 1), and one of 4^k choices of operators.
    """
    strings, weights = [], []
    for k in range((length + 1) // 2):
        members = _strings(2 * k + 1, length)
        derivations = math.comb(2 * k, k) // (k + 1)
        weight = derivations * branching**k * (1 - branching) ** (k + 1) / len(OPERATORS) ** k
        strings.append(members)
        weights.append(torch.full((len(members),), weight, dtype=torch.float64))
    return Grammar.of(6, torch.cat(strings), torch.cat(weights))


def _strings(length: int, padded: int) -> Tensor:
    """Return all strings x op x ... of an odd length, int64 ``[4^k, padded]``, pads after them."""
    k = length // 2
    strings = torch.full((len(OPERATORS) ** k, padded), PAD)
    strings[:, :length] = X
    if k:
        choices = torch.cartesian_prod(*[torch.tensor(OPERATORS)] * k).view(-1, k)
        strings[:, 1:length:2] = choices
    return strings

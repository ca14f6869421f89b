"""Rao-Blackwellised estimates: the last token's expectation is taken exactly at every position.

Sampled prefixes are averaged over, but what follows a prefix is not sampled: the policy knows it.
Same expectation as counting samples, less noise, and every divergence is at least 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from estbench.models.policy import Policy
from estbench.models.trees import repeat_rows

__all__ = [
    "bigrams",
    "copied",
    "cross_entropies",
    "cross_entropy",
    "distinct",
    "distinct_ngrams",
    "kl_divergence",
    "log_probs_in_chunks",
]

ROWS = 2048  # per chunk; bounds the memory at large V
NUMBERS = 1 << 22  # of a matrix [rows, T, V] at a time: what is streamed stays near the cache


@torch.no_grad()
def log_probs_in_chunks(policy: Policy, tokens: Tensor) -> Tensor:
    """Return log-probabilities ``[n, T, V]`` along sequences int64 ``[n, T]``: float64, CPU."""
    chunks = torch.split(tokens.to(policy.device), ROWS)
    return torch.cat([policy.log_probs(rows).double().cpu() for rows in chunks])


def cross_entropy(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return -(1/T) sum_t sum_v p(v | prefix) log q(v | prefix) of each sequence, ``[n]``.

    With p = q it is the entropy per token. Its mean over prefixes drawn from p estimates
    -E_p log q, in nats per token, without bias.

    Args:
      log_p: Conditional log-probabilities ``[n, T, V]`` of the law that the prefixes follow.
      log_q: Those of the law that is scored, along the same prefixes.
    """
    return -(log_p.exp() * log_q).sum(dim=2).mean(dim=1)


@torch.no_grad()
def cross_entropies(policy: Policy, others: list[Policy], tokens: Tensor) -> list[Tensor]:
    """Return the policy's entropy and its cross-entropies with others, ``[n]`` each, float64.

    As ``cross_entropy``, for any vocabulary: the sequences are gone through a few at a time.

    Args:
      policy: The law that the prefixes follow.
      others: The laws that are scored along them.
      tokens: Prefixes int64 ``[n, T]``, drawn from ``policy``.
    """
    rows = max(1, NUMBERS // (policy.length * policy.vocabulary))
    found: list[list[Tensor]] = [[] for _ in range(1 + len(others))]
    for part in torch.split(tokens.to(policy.device), rows):
        log_p = policy.log_probs(part)
        p = log_p.exp()
        found[0].append(-(p * log_p).sum(dim=2).double().mean(dim=1))
        for values, other in zip(found[1:], others, strict=True):
            values.append(-(p * other.log_probs(part)).sum(dim=2).double().mean(dim=1))
    return [torch.cat(values).cpu() for values in found]


def kl_divergence(p: Tensor, q: Tensor) -> float:
    """Return sum p log(p / q), in nats, over all entries; terms with p = 0 are 0."""
    return float((torch.xlogy(p, p) - torch.xlogy(p, q)).sum())


def distinct(tokens: Tensor) -> float:
    """Return the fraction of rows, int64 ``[n, T]``, left when duplicates are dropped.

    It falls with n whatever the policy: compare at equal n.
    """
    return len(torch.unique(tokens, dim=0)) / len(tokens)


def distinct_ngrams(tokens: Tensor, order: int) -> float:
    """Return the fraction of n-grams left when duplicates are dropped; NaN if there are none.

    Args:
      tokens: Sequences int64 ``[n, T]``.
      order: Neighbouring tokens in an n-gram, at most T.
    """
    grams = tokens.unfold(1, order, 1).reshape(-1, order)
    return len(torch.unique(grams, dim=0)) / len(grams) if len(grams) else float("nan")


def copied(tokens: Tensor, training: Tensor) -> float:
    """Return the fraction of sequences int64 ``[n, T]`` that stand in the training data."""
    known = {row.tobytes() for row in training.cpu().numpy()}
    return sum(row.tobytes() in known for row in tokens.cpu().numpy()) / len(tokens)


@torch.no_grad()
def bigrams(policy: Policy, tokens: Tensor, log_probs: Tensor) -> Tensor:
    """Return probabilities ``[V, V]`` of neighbouring tokens (first, second), all positions pooled.

    Within the first two positions both tokens' laws are exact, so that every pair has a positive
    probability and KL(data || policy) is finite; later the first token is the sample's.

    Args:
      policy: The policy.
      tokens: Its samples, int64 ``[n, T]``, T > 1.
      log_probs: Its log-probabilities along them, ``[n, T, V]``, on the CPU.
    """
    V, T = policy.vocabulary, tokens.shape[1]
    first, state = policy.step(None, policy.initial_state(1))
    alphabet = torch.arange(V, device=policy.device)
    second, _ = policy.step(alphabet, repeat_rows(state, V))
    total = (first[0].double().exp().unsqueeze(1) * second.double().exp()).cpu()
    following = log_probs[:, 2:].double().exp().reshape(-1, V)
    counts = torch.zeros_like(total).index_add_(0, tokens[:, 1:-1].reshape(-1).cpu(), following)
    return (total + counts / tokens.shape[0]) / (T - 1)

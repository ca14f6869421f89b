"""Grammars small enough to list all their strings, and exact figures from walking the list."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from estbench.core import noise
from estbench.models.policy import Policy
from estbench.models.trees import map_rows

__all__ = ["Grammar"]


@dataclass(frozen=True)
class Grammar:
    """A distribution over strings of T tokens, all listed.

    Attributes:
      vocabulary: Number of tokens V; V^T below 2^63.
      strings: All strings of positive probability, int64 ``[M, T]``, in lexicographic order.
      probabilities: Theirs, float64 ``[M]``.
    """

    vocabulary: int
    strings: Tensor
    probabilities: Tensor

    @staticmethod
    def of(vocabulary: int, strings: Tensor, weights: Tensor) -> Grammar:
        """Return the grammar of strings in any order with unnormalised weights."""
        order = _codes(strings, vocabulary).argsort()
        weights = weights.double()
        return Grammar(vocabulary, strings[order], (weights / weights.sum())[order])

    @property
    def length(self) -> int:
        """Tokens a string T."""
        return self.strings.shape[1]

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        """Return n independent strings, int64 ``[n, T]``; the first ones do not depend on n."""
        cumulative = self.probabilities.cumsum(dim=0)
        u = noise.uniform(rng, (n,), torch.float64) * cumulative[-1]
        index = torch.searchsorted(cumulative, u, right=True)
        return self.strings[index.clamp_max(len(cumulative) - 1)]

    def contains(self, tokens: Tensor) -> Tensor:
        """Return whether each sequence int64 ``[n, T]`` is one of the strings, bool ``[n]``."""
        codes, wanted = self._string_codes, _codes(tokens, self.vocabulary)
        found = torch.searchsorted(codes, wanted).clamp_max(len(codes) - 1)
        return codes[found] == wanted

    @property
    def entropy(self) -> float:
        """Entropy in nats per token."""
        return -torch.xlogy(self.probabilities, self.probabilities).sum().item() / self.length

    @cached_property
    def bigrams(self) -> Tensor:
        """Probabilities ``[V, V]`` of neighbouring tokens (first, second), positions pooled."""
        pairs = self.strings[:, :-1] * self.vocabulary + self.strings[:, 1:]
        weights = self.probabilities.unsqueeze(1).expand(pairs.shape)
        total = torch.zeros(self.vocabulary**2, dtype=torch.float64)
        total.index_add_(0, pairs.reshape(-1), weights.reshape(-1))
        return (total / (self.length - 1)).view(self.vocabulary, self.vocabulary)

    @torch.no_grad()
    def log_probs(self, policy: Policy) -> Tensor:
        """Return a policy's log-probability of every string, float64 ``[M]``.

        The strings' prefix tree is walked level by level, so that every distinct prefix costs the
        policy one step: 44,000 for the 16,384 strings of 15 tokens, a fifth of reading them all.
        """
        log_probs, state = policy.step(None, policy.initial_state(1))
        score = torch.zeros(1, dtype=torch.float64)
        for t, (parents, tokens) in enumerate(self._tree):
            score = score[parents] + log_probs[parents, tokens].double().cpu()
            if t < self.length - 1:
                state = map_rows(state, lambda x, rows=parents: x[rows])  # type: ignore[misc]
                log_probs, state = policy.step(tokens.to(policy.device), state)
        return score

    def distance(self, policy: Policy) -> dict[str, float]:
        """Return exact figures of how far a policy is from the grammar.

        Returns:
          ``p_valid``: the policy's probability of the grammar's strings. ``tv``: total variation,
          the sum of p - q over strings where the grammar's p exceeds the policy's q (all of which
          are in the list). ``kl``: KL(grammar || policy) in nats per token.
        """
        p, log_q = self.probabilities, self.log_probs(policy)
        return {
            "p_valid": log_q.exp().sum().item(),
            "tv": (p - log_q.exp()).clamp_min(0).sum().item(),
            "kl": (torch.xlogy(p, p) - p * log_q).sum().item() / self.length,
        }

    @cached_property
    def _string_codes(self) -> Tensor:
        return _codes(self.strings, self.vocabulary)

    @cached_property
    def _tree(self) -> list[tuple[Tensor, Tensor]]:
        """Per level: each distinct prefix's parent on the level before, and its last token."""
        levels = []
        before = torch.zeros(len(self.strings), dtype=torch.int64)
        for t in range(self.length):
            codes = before * self.vocabulary + self.strings[:, t]
            distinct, rank = torch.unique_consecutive(codes, return_inverse=True)
            levels.append((distinct // self.vocabulary, distinct % self.vocabulary))
            before = rank
        return levels


def _codes(strings: Tensor, vocabulary: int) -> Tensor:
    """Return strings read as numbers in base V: their lexicographic order."""
    powers = vocabulary ** torch.arange(strings.shape[1] - 1, -1, -1)
    return (strings.cpu() * powers).sum(dim=1)

"""A policy whose joint distribution is known string by string."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from estbench.models.policy import Policy


class TablePolicy(Policy):
    """An arbitrary law over V^T strings: one random row of a table for every prefix."""

    def __init__(self, vocabulary: int, length: int, seed: int = 0) -> None:
        super().__init__()
        self.vocabulary, self.length = vocabulary, length
        rng = torch.Generator().manual_seed(seed)
        prefixes = sum(vocabulary**t for t in range(length))
        logits = torch.randn(prefixes, vocabulary, generator=rng, dtype=torch.float64)
        self.table = torch.nn.Parameter(logits)

    def initial_state(self, n: int) -> Tensor:
        return torch.zeros(n, dtype=torch.float64)

    def step(self, previous: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
        # Prefixes are the nodes of a complete V-ary tree, numbered as in a heap.
        if previous is not None:
            state = state * self.vocabulary + 1 + previous
        return self.table[state.long()].log_softmax(dim=1), state


def all_strings(vocabulary: int, length: int) -> Tensor:
    return torch.tensor(list(itertools.product(range(vocabulary), repeat=length)))


def string_probabilities(policy: Policy, strings: Tensor) -> Tensor:
    with torch.no_grad():
        log_probs = policy.log_probs(strings).gather(2, strings.unsqueeze(2))
    return log_probs.sum(dim=(1, 2)).double().exp()

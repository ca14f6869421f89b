"""A rough reward: every sequence has its own, independent of all others.

A discriminator is smooth, and early in training nearly linear in each token, which favours
estimators that relax tokens. Here nothing that is known of some sequences says anything about
another, and the reward of weights is the mean that independent tokens of these weights would earn.
"""

from __future__ import annotations

import torch
from torch import Tensor

from estbench.config.experiment import TrainingSettings
from estbench.core.registry import register
from estbench.core.seeding import stream
from estbench.models.enumeration import enumerate_sequences
from estbench.models.lstm_generator import Generator
from estbench.models.policy import Policy, at_tokens
from estbench.tasks.declaring import ENTROPY, MetricInfo, TaskInfo
from estbench.tasks.estimates import cross_entropy, log_probs_in_chunks
from estbench.tasks.fixed import FixedRewardTask

__all__ = ["RoughTask"]


METRICS = {
    "expected_reward": MetricInfo("expected reward", "", "higher"),
    "p_best": MetricInfo("P(best sequence)", "", "higher"),
    "entropy": ENTROPY,
}


@register
class RoughTask(FixedRewardTask):
    """A table of rewards, uniform on [0, 1], for the generator that the expressions have.

    Args:
      info: One of ``members``; V^T sequences must be few enough to be listed.
      seed: The table follows from (name, seed), and so does the generator's start.
      data_size: Is not used.

    Attributes:
      table: Rewards, float32 ``[V] * T``.
      best: The sequence with the largest reward, int64 ``[T]``.
    """

    members = (
        TaskInfo(
            "rough",
            "a fixed random reward for each of 5^3 sequences, unrelated to its neighbours'",
            5,
            3,
            "expected_reward",
            METRICS,
        ),
    )

    initialisation = ("uniform", 0.05)

    def __init__(self, info: TaskInfo, seed: int, data_size: int) -> None:
        self.info = info
        self.seed = seed
        self.tokens = tuple("abcdefghijklmnopqrstuvwxyz"[: info.vocabulary])
        self.sequences = enumerate_sequences(info.vocabulary, info.length)
        shape = [info.vocabulary] * info.length
        self.table = torch.rand(shape, generator=stream("table", info.name, seed))
        self.best = self.sequences[self.table.argmax()]
        self.train = self.heldout = self.best.unsqueeze(0)

    def start(self, settings: TrainingSettings) -> Policy:
        made = Generator(self.vocabulary, self.length, truncation=settings.truncation)
        return made.initialise(*self.initialisation, stream("generator", self.name, self.seed))

    def reward(self, sequences: Tensor) -> Tensor:
        """Return the table's entries of tokens, or its contraction with weights.

        f(w) = sum over sequences b of table[b] prod_t w[t, b_t]: linear in each row of weights, and
        the table's entry, bit for bit, where all rows are one-hot.
        """
        if not sequences.is_floating_point():
            return self.table.to(sequences.device)[tuple(sequences.unbind(dim=1))]
        n, V = len(sequences), self.vocabulary
        rest = sequences[:, 0] @ self.table.to(sequences).view(V, -1)
        for t in range(1, self.length):  # rest is [n, V^(T - t)]: a sum over tokens before t
            rest = torch.einsum("nv,nvr->nr", sequences[:, t], rest.view(n, V, -1))
        return rest.squeeze(1)

    @torch.no_grad()
    def full_quality(self, policy: Policy, rng: torch.Generator) -> dict[str, float]:
        """Return the expected reward, the best sequence's probability and the entropy."""
        log_q = log_probs_in_chunks(policy, self.sequences)
        q = at_tokens(log_q, self.sequences).sum(dim=1).exp()
        return {
            "expected_reward": float(q @ self.table.flatten().double()),
            "p_best": float(q[self.table.argmax()]),
            "entropy": float(q @ cross_entropy(log_q, log_q)),
        }

"""Maximum likelihood: the generator's pre-training."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from estbench.models.generator import Generator
from estbench.models.policy import Policy
from estbench.training.discriminator import shuffled_rows

__all__ = ["negative_log_likelihood", "pretrain"]

LogProbs = Callable[[Tensor], Tensor]
"""Tokens int64 ``[n, T]`` -> log-probabilities ``[n, T, V]``."""


def pretrain(
    generator: Policy,
    data: Tensor,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    rng: torch.Generator,
) -> list[float]:
    """Train a policy by maximum likelihood with Adam.

    Every epoch goes once through a fresh shuffle; its last batch holds what is left (the paper's
    10,000 sequences are 79 batches of 128, the last one of 16).

    Args:
      generator: Trained in place.
      data: Sequences int64 ``[N, T]``.
      epochs: Times through the data.
      batch_size: Sequences an update.
      learning_rate: Adam's.
      rng: Stream of the shuffles.

    Returns:
      Mean negative log-likelihood of each epoch, in nats per token, along the way (every batch
      before its update).
    """
    optimiser = torch.optim.Adam(generator.parameters(), lr=learning_rate, fused=True)
    log_probs, data = fastest_log_probs(generator), data.to(generator.device)
    means = []
    for _ in range(epochs):
        total = 0.0
        for rows in torch.split(shuffled_rows(len(data), len(data), rng), batch_size):
            loss = negative_log_likelihood(log_probs, data[rows])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total += len(rows) * loss.item()
        means.append(total / len(data))
    return means


def negative_log_likelihood(log_probs: LogProbs, tokens: Tensor) -> Tensor:
    """Return the mean of -log q per token of sequences int64 ``[n, T]``, the first one included."""
    return -log_probs(tokens).gather(2, tokens.unsqueeze(2)).mean()


def fastest_log_probs(policy: Policy) -> LogProbs:
    """Return the policy's log-probabilities, for gradients of the parameters' sum only.

    The generator's own recurrence exposes per-draw gradients, which likelihood does not need:
    the library's fused LSTM on the same parameters takes half the time. It cannot truncate
    backpropagation, so that a generator that does keeps its own path.
    """
    if type(policy) is not Generator or policy.truncation:
        return policy.log_probs
    embedding, gates, recurrence, output = (
        policy.embedding,
        policy.input,
        policy.recurrence,
        policy.output,
    )
    lstm = nn.LSTM(gates.in_features, policy.hidden, batch_first=True, device="meta")
    lstm.weight_ih_l0, lstm.bias_ih_l0 = gates.weight, gates.bias
    lstm.weight_hh_l0, lstm.bias_hh_l0 = recurrence.weight, recurrence.bias

    def log_probs(tokens: Tensor) -> Tensor:
        begin = torch.full_like(tokens[:, :1], policy.vocabulary)
        hidden, _ = lstm(embedding(torch.cat([begin, tokens[:, :-1]], dim=1)))
        return nn.functional.log_softmax(output(hidden), dim=-1)

    return log_probs

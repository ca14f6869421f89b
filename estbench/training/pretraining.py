"""Maximum likelihood: the generator's pre-training."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from estbench.models.adam import Adam
from estbench.models.lstm_generator import Generator
from estbench.models.policy import Policy, has_ended, keep_ending
from estbench.models.sampling import LARGE
from estbench.training.discriminator import shuffled_rows
from estbench.training.likelihood import summed_cross_entropy
from estbench.training.state_dict import Stateful

__all__ = ["MaximumLikelihood", "negative_log_likelihood", "pretrain"]

Loss = Callable[[Tensor], Tensor]
"""Tokens int64 ``[n, T]`` -> their mean negative log-likelihood per token."""


class MaximumLikelihood(Stateful):
    """Trains a policy by maximum likelihood with Adam, epoch by epoch.

    Every epoch is a fresh shuffle of the data. Its last batch holds the remaining sequences (the
    paper's 10,000 are 79 batches of 128, the last one of 16).

    Args:
      policy: Trained in place.
      data: Sequences int64 ``[N, T]``.
      batch_size: Sequences an update.
      learning_rate: Adam's.
      rng: Stream of the shuffles.
      clip: Norm to which gradients are cut; 0 leaves them.

    Attributes:
      losses: Mean negative log-likelihood of each epoch, in nats per token, along the way (every
        batch before its update).
    """

    changing = ("optimiser", "rng", "losses")

    def __init__(
        self,
        policy: Policy,
        data: Tensor,
        batch_size: int,
        learning_rate: float,
        rng: torch.Generator,
        clip: float = 0.0,
    ) -> None:
        self.data, self.batch_size = data.to(policy.device), batch_size
        self.rng, self.clip = rng, clip
        self.parameters = list(policy.parameters())
        self.loss = fastest_loss(policy)
        self.optimiser = Adam(self.parameters, lr=learning_rate, fused=True)
        self.losses: list[float] = []

    def epoch(self) -> None:
        """Go once through the data."""
        size = len(self.data)
        total = torch.zeros((), dtype=torch.float64, device=self.data.device)
        for rows in torch.split(shuffled_rows(size, size, self.rng), self.batch_size):
            loss = self.loss(self.data[rows])
            self.optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if self.clip:
                nn.utils.clip_grad_norm_(self.parameters, self.clip)
            self.optimiser.step()
            total += len(rows) * loss.detach().double()
        self.losses.append(total.item() / size)


def pretrain(
    policy: Policy,
    data: Tensor,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    rng: torch.Generator,
    clip: float = 0.0,
) -> list[float]:
    """Train a policy for some epochs; return the loss of each. See ``MaximumLikelihood``."""
    likelihood = MaximumLikelihood(policy, data, batch_size, learning_rate, rng, clip)
    for _ in range(epochs):
        likelihood.epoch()
    return likelihood.losses


def negative_log_likelihood(policy: Policy, tokens: Tensor) -> Tensor:
    """Return the mean of -log q per token of sequences int64 ``[n, T]``, the first one included.

    A sequence's end token counts once; what fills it up afterwards does not.
    """
    return _mean(policy.log_probs(tokens), policy, tokens)


def _mean(log_probs: Tensor, policy: Policy, tokens: Tensor) -> Tensor:
    chosen = log_probs.gather(2, tokens.unsqueeze(2))
    if policy.end is None:
        return -chosen.mean()
    return -chosen.sum() / (~has_ended(tokens, policy.end)).sum()


def fastest_loss(policy: Policy) -> Loss:
    """Return ``negative_log_likelihood`` of a policy, for gradients of its parameters' sum only.

    The generator's own recurrence exposes per-draw gradients, which likelihood does not need:
    the library's fused LSTM on the same parameters takes half the time. It cannot truncate
    backpropagation, so that a generator that does keeps its own path. At a large vocabulary the
    output layer goes straight to the loss, a chunk of rows at a time.
    """
    if type(policy) is not Generator or policy.truncation:
        return partial(negative_log_likelihood, policy)
    embedding, gates = policy.embedding, policy.input
    recurrence, output = policy.recurrence, policy.output
    lstm = nn.LSTM(gates.in_features, policy.hidden, batch_first=True, device="meta")
    lstm.weight_ih_l0, lstm.bias_ih_l0 = gates.weight, gates.bias
    lstm.weight_hh_l0, lstm.bias_hh_l0 = recurrence.weight, recurrence.bias

    def loss(tokens: Tensor) -> Tensor:
        begin = torch.full_like(tokens[:, :1], policy.vocabulary)
        hidden, _ = lstm(embedding(torch.cat([begin, tokens[:, :-1]], dim=1)))
        if policy.vocabulary >= LARGE:
            rows, targets = hidden.reshape(-1, policy.hidden), tokens.reshape(-1)
            if policy.end is not None:
                real = (~has_ended(tokens, policy.end)).reshape(-1)
                rows, targets = rows[real], targets[real]
            total = summed_cross_entropy(rows, output.weight, output.bias, targets)
            return total / len(targets)
        log_probs = nn.functional.log_softmax(output(hidden), dim=-1)
        if policy.end is not None:
            log_probs = keep_ending(log_probs, has_ended(tokens, policy.end), policy.end)
        return _mean(log_probs, policy, tokens)

    return loss

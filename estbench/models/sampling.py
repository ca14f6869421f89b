"""Sampling an LSTM policy at a large vocabulary, without a graph.

What is constant is folded once: embedding and input layer into a table of gates, log2(e) into the
output layer, so that exp2 serves (several times as fast as exp on a CPU). The rest is one pass over
the vocabulary for each row, in chunks of rows whose logits stay in cache, and one uniform a token:
the inverse of the cumulative distribution is found among sums over blocks first, then inside one
block. Order and meaning are those of ``policy.inverse_cdf``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from estbench.models.lstm_generator import Generator

__all__ = ["LARGE", "Sampler"]

LARGE = 256
"""Vocabulary from which on this is the faster way."""

ROWS = 256  # of logits at a time: 5 MB at V = 5000, what a core's cache holds
SAFE = 90.0  # exponents of two that neither overflow nor vanish when V of them are added


class Sampler:
    """A generator's parameters as they are now, arranged for sampling.

    Args:
      policy: The generator.
      temperature: What logits are divided by.
    """

    @torch.no_grad()
    def __init__(self, policy: Generator, temperature: float = 1.0) -> None:
        H, V = policy.hidden, policy.vocabulary
        self.hidden, self.vocabulary, self.end = H, V, policy.end
        # tanh(x) = 2 sigmoid(2x) - 1: one call serves all four gates, and the sigmoid is faster.
        double = torch.ones(4 * H, dtype=policy.dtype, device=policy.device)
        double[2 * H : 3 * H] = 2.0
        self.table = (policy.input(policy.embedding.weight) + policy.recurrence.bias) * double
        self.recurrent = (policy.recurrence.weight * double.unsqueeze(1)).t().contiguous()
        self.block = max(16, 16 * round(math.sqrt(V) / 16))
        self.blocks = -(-V // self.block)
        weight, bias = policy.output.weight, policy.output.bias
        scale = math.log2(math.e) / temperature
        padded = self.blocks * self.block
        # The bias is a last row, for inputs that end with 1: one pass over the logits less.
        self.weight = weight.new_zeros(H + 1, padded)
        self.weight[:H, :V] = weight.t() * scale
        self.weight[H] = -torch.inf
        self.weight[H, :V] = bias * scale
        self.ones = weight.new_ones(ROWS, 1)
        # A hidden unit lies in (-1, 1), so that no logit is further from its bias than this.
        reach = weight.abs().sum(dim=1) * scale
        shifted = bias * scale
        extremes = torch.stack([(shifted + reach).max(), -(shifted - reach).max()])
        # Elsewhere the maximum of a row costs less than waiting for the answer.
        self.bounded = extremes.device.type == "cpu" and bool(extremes.max() < SAFE)
        self.buffer = weight.new_empty(ROWS, padded)

    def start(self, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the begin symbol ``[n]`` and zeros: hidden and cell state ``[n, H]``."""
        zeros = self.table.new_zeros(n, self.hidden)
        begin = torch.full((n,), self.vocabulary, dtype=torch.int64, device=zeros.device)
        return begin, zeros, zeros

    def advance(self, token: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Return hidden and cell state ``[n, H]`` after reading tokens int64 ``[n]``."""
        gates = self.table.index_select(0, token).addmm_(hidden, self.recurrent).sigmoid_()
        i, f, g, o = torch.split(gates, self.hidden, dim=1)
        cell = (cell * f).addcmul_(i, g.sub_(0.5), value=2)
        return (cell * 2).sigmoid_().sub_(0.5).mul_(o).mul_(2), cell

    def choose(self, hidden: Tensor, u: Tensor, previous: Tensor) -> Tensor:
        """Return the next tokens of every state, int64 ``[m, k]``.

        Args:
          hidden: ``[m, H]``.
          u: Uniforms ``[m, k]``: k tokens are drawn from each state's distribution.
          previous: What each row ended with, int64 ``[m]`` or ``[m, k]``; a sequence that has
            ended goes on ending.
        """
        rows = zip(torch.split(hidden, ROWS), torch.split(u, ROWS), strict=True)
        tokens = torch.cat([self._choose(h, part) for h, part in rows])
        if self.end is None:
            return tokens
        ended = previous if previous.dim() == 2 else previous.unsqueeze(1)
        return torch.where(ended == self.end, self.end, tokens)

    def _choose(self, hidden: Tensor, u: Tensor) -> Tensor:
        m = len(u)
        inputs = torch.cat([hidden, self.ones[:m]], dim=1)
        weights = torch.mm(inputs, self.weight, out=self.buffer[:m])
        if not self.bounded:
            weights -= weights.amax(dim=1, keepdim=True)
        weights.exp2_()
        by_block = weights.view(m, self.blocks, self.block)
        cumulative = by_block.sum(dim=2).cumsum_(dim=1)
        wanted = u * cumulative[:, -1:]
        # The last bounds are left out: rounded ones must not point past the last token.
        chosen = (cumulative[:, None, :-1] <= wanted.unsqueeze(2)).sum(dim=2)
        before = torch.cat([cumulative.new_zeros(m, 1), cumulative[:, :-1]], dim=1)
        row = torch.arange(m, device=u.device).unsqueeze(1)
        inside = by_block[row, chosen].cumsum_(dim=2)
        rest = wanted - before.gather(1, chosen)
        within = (inside[:, :, :-1] <= rest.unsqueeze(2)).sum(dim=2)
        return (chosen * self.block + within).clamp_max_(self.vocabulary - 1)

    def sample(self, uniforms: Tensor) -> Tensor:
        """Return sequences int64 ``[n, T]`` for uniforms ``[n, T]``."""
        n, T = uniforms.shape
        tokens = torch.empty(n, T, dtype=torch.int64, device=uniforms.device)
        previous, hidden, cell = self.start(1)
        hidden, cell = self.advance(previous, hidden, cell)
        # Every row begins in the same state: one distribution serves all first tokens.
        tokens[:, 0] = self.choose(hidden, uniforms[:, :1].t(), previous)[0]
        hidden, cell = hidden.expand(n, -1), cell.expand(n, -1)
        for t in range(1, T):
            previous = tokens[:, t - 1]
            hidden, cell = self.advance(previous, hidden, cell)
            tokens[:, t] = self.choose(hidden, uniforms[:, t : t + 1], previous)[:, 0]
        return tokens

    def continue_from(self, tokens: Tensor, uniforms: Tensor) -> Tensor:
        """See ``Policy.continue_from``: rollouts of every proper prefix, int64 ``[n, T-1, N, T]``.

        A slot holds the rollouts of one prefix. At position s a new one opens, for the sequences'
        own states, and all that are open advance together: T steps instead of T^2 / 2. A new
        slot's N rollouts share their first distribution.
        """
        n, T = tokens.shape
        N = uniforms.shape[1]
        completed = tokens[:, None, None, :].expand(n, T - 1, N, T).clone()
        hidden, cell = self.table.new_empty(2, (T - 1) * n * N, self.hidden)
        rolled = tokens.new_empty((T - 1) * n * N)
        own_token, own_hidden, own_cell = self.start(n)
        own_hidden, own_cell = self.advance(own_token, own_hidden, own_cell)
        size = n * N
        for s in range(1, T):
            open_ = (s - 1) * size
            own_token = tokens[:, s - 1]
            own_hidden, own_cell = self.advance(own_token, own_hidden, own_cell)
            fresh = self.choose(own_hidden, uniforms[:, :, s - 1, s], own_token)
            if open_:
                before = rolled[:open_]
                state = self.advance(before, hidden[:open_], cell[:open_])
                hidden[:open_], cell[:open_] = state
                u = uniforms[:, :, : s - 1, s].permute(2, 0, 1).reshape(-1, 1)
                rolled[:open_] = self.choose(hidden[:open_], u, before)[:, 0]
            now = slice(open_, open_ + size)
            hidden[now] = own_hidden.repeat_interleave(N, dim=0)
            cell[now] = own_cell.repeat_interleave(N, dim=0)
            rolled[now] = fresh.reshape(-1)
            completed[:, :s, :, s] = rolled[: s * size].view(s, n, N).transpose(0, 1)
        return completed

"""The generator: an LSTM policy (Yu et al. 2017; the paper's section 4)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from estbench.core import noise
from estbench.core.registry import Declared, register
from estbench.models.lstm_recurrence import LSTMRecurrence
from estbench.models.network import TokenEmbedding
from estbench.models.policy import Choose, Policy, has_ended, keep_ending
from estbench.models.sampling import LARGE, Sampler
from estbench.models.trees import State

__all__ = ["Generator", "TokenEmbedding"]


@register
class Generator(Policy):
    """Embedding, one LSTM layer, softmax output; starts from a begin symbol of its own.

    With 32 units and V = 5 it has the paper's 8,773 parameters and 32 for the begin symbol.

    Args:
      vocabulary: Number of tokens V.
      length: Sequence length T.
      embedding: Width of the embedding.
      hidden: Width of the LSTM.
      dtype: float32 or float64.
      truncation: Steps of backpropagation through time; 0 for all.
      end: The token that ends a sequence and fills it up; None where all have length T.
    """

    info = Declared(
        "lstm", "an embedding and one LSTM layer, 32 units (the paper's)", "Yu et al. 2017"
    )

    def __init__(
        self,
        vocabulary: int,
        length: int,
        embedding: int = 32,
        hidden: int = 32,
        dtype: torch.dtype = torch.float32,
        truncation: int = 0,
        end: int | None = None,
    ) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.length = length
        self.hidden = hidden
        self.truncation = truncation
        self.end = end
        self.embedding = TokenEmbedding(vocabulary, embedding, dtype)
        self.input = nn.Linear(embedding, 4 * hidden, dtype=dtype)
        self.recurrence = LSTMRecurrence(hidden, dtype)
        self.output = nn.Linear(hidden, vocabulary, dtype=dtype)

    @torch.no_grad()
    def initialise(self, law: str, scale: float, rng: torch.Generator) -> Generator:
        """Draw all parameters from uniform(-scale, scale) or normal(0, scale); return self."""
        for parameter in self.parameters():
            if law == "uniform":
                parameter.uniform_(-scale, scale, generator=rng)
            else:
                parameter.normal_(0, scale, generator=rng)
        return self

    def initial_state(self, n: int) -> State:
        """Return zeros, ``([n, H], [n, H])``, and what else has to be remembered.

        With truncation that is the position, int64 ``[n]``; with an end token whether the sequence
        has ended, bool ``[n]``, which comes last.
        """
        zeros = torch.zeros(n, self.hidden, dtype=self.dtype, device=self.device)
        state: tuple[Tensor, ...] = (zeros, zeros)
        if self.truncation:
            state += (torch.zeros(n, dtype=torch.int64, device=self.device),)
        if self.end is not None:
            state += (torch.zeros(n, dtype=torch.bool, device=self.device),)
        return state

    def step(self, previous: Tensor | None, state: State) -> tuple[Tensor, State]:
        hidden, cell = state[:2]
        if previous is None:
            previous = torch.full(
                (hidden.shape[0],), self.vocabulary, dtype=torch.int64, device=self.device
            )
        if self.truncation:
            cut = ((state[2] > 0) & (state[2] % self.truncation == 0)).unsqueeze(1)
            hidden = torch.where(cut, hidden.detach(), hidden)
            cell = torch.where(cut, cell.detach(), cell)
        gates = self.input(self.embedding(previous).unsqueeze(1))
        hs, _, cell = self.recurrence(gates, hidden, cell)
        hidden = hs[:, 0]
        log_probs = self.output(hidden).log_softmax(dim=-1)
        after: tuple[Tensor, ...] = (hidden, cell)
        if self.truncation:
            after += (state[2] + 1,)
        if self.end is not None:
            ended = state[-1]
            if not previous.is_floating_point():  # a relaxed future is not cut
                ended = ended | (previous == self.end)
            log_probs = keep_ending(log_probs, ended, self.end)
            after += (ended,)
        return log_probs, after

    def trace(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Policy.trace``; all positions go through the input and output layers together."""
        n = tokens.shape[0]
        start = torch.full((n, 1), self.vocabulary, dtype=torch.int64, device=tokens.device)
        previous = torch.cat([start, tokens[:, :-1]], dim=1)
        hidden, cell = self.initial_state(n)[:2]
        hs, cs, _ = self.recurrence(
            self.input(self.embedding(previous)), hidden, cell, self.truncation
        )
        log_probs = self.output(hs).log_softmax(dim=-1)
        if self.end is not None:
            log_probs = keep_ending(log_probs, has_ended(tokens, self.end), self.end)
        return log_probs, torch.cat([hs.detach(), cs.detach()], dim=-1)

    def embed(self, weights: Tensor) -> Tensor:
        return weights @ self.embedding.weight[:-1].detach()

    @torch.no_grad()
    def sample_by(self, n: int, choose: Choose) -> Tensor:
        """See ``Policy.sample_by``; embedding and input layer are folded into a table of gates."""
        advance = self._cell()
        hidden, cell = self.initial_state(n)[:2]
        tokens = torch.empty(n, self.length, dtype=torch.int64, device=self.device)
        previous = torch.full((n,), self.vocabulary, dtype=torch.int64, device=self.device)
        for t in range(self.length):
            hidden, cell = advance(previous, hidden, cell)
            log_probs = self.output(hidden).log_softmax(dim=-1)
            if self.end is not None:
                log_probs = keep_ending(log_probs, previous == self.end, self.end)
            previous = choose(t, log_probs)
            tokens[:, t] = previous
        return tokens

    @torch.no_grad()
    def sample_from(self, uniforms: Tensor) -> Tensor:
        """See ``Policy.sample_from``; large vocabularies take the path of ``sampling``."""
        if self.vocabulary < LARGE:
            return super().sample_from(uniforms)
        return Sampler(self).sample(uniforms)

    @torch.no_grad()
    def continue_from(self, tokens: Tensor, uniforms: Tensor) -> Tensor:
        if self.vocabulary < LARGE:
            return super().continue_from(tokens, uniforms)
        return Sampler(self).continue_from(tokens, uniforms)

    @torch.no_grad()
    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        """See ``Policy.sample``; rows that share a prefix are advanced as one.

        Early on there are few distinct prefixes, and on a grammar few for long: the network runs
        once for each, and every row draws its own token from its prefix's distribution.
        """
        V = self.vocabulary
        u = noise.uniform(rng, (n, self.length), self.dtype)
        if V >= LARGE:
            return Sampler(self).sample(u)
        advance = self._cell()
        hidden, cell = self.initial_state(1)[:2]
        upper = torch.ones(V, V, dtype=self.dtype, device=self.device).triu()
        tokens = torch.empty(n, self.length, dtype=torch.int64, device=self.device)
        previous = torch.full((1,), V, dtype=torch.int64, device=self.device)
        prefix = torch.zeros(n, dtype=torch.int64, device=self.device)  # each row's, of those alive
        for t in range(self.length):
            hidden, cell = advance(previous, hidden, cell)
            logits = self.output(hidden)
            # A product with a triangle of ones is a cumulative sum, and faster along a short axis.
            cumulative = (logits - logits.amax(dim=1, keepdim=True)).exp() @ upper
            # The last bound is left out: a rounded one must not point past the last token.
            bounds = (cumulative[:, :-1] / cumulative[:, -1:]).index_select(0, prefix)
            chosen = (bounds <= u[:, t : t + 1]).sum(dim=1)
            if self.end is not None:
                chosen = torch.where((previous == self.end)[prefix], self.end, chosen)
            tokens[:, t] = chosen
            if t + 1 < self.length:
                key = prefix * V + chosen
                alive = torch.bincount(key, minlength=len(previous) * V) > 0
                distinct = alive.nonzero().squeeze(1)
                prefix = (alive.cumsum(0) - 1).index_select(0, key)
                parent = distinct // V
                hidden, cell = hidden.index_select(0, parent), cell.index_select(0, parent)
                previous = distinct - parent * V
        return tokens

    def _cell(self) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return (token, hidden, cell) -> (hidden, cell) with everything constant folded in."""
        H = self.hidden
        # tanh(x) = 2 sigmoid(2x) - 1: one call serves all four gates, and the sigmoid is faster.
        double = torch.ones(4 * H, dtype=self.dtype, device=self.device)
        double[2 * H : 3 * H] = 2.0
        table = (self.input(self.embedding.weight) + self.recurrence.bias) * double
        weight = (self.recurrence.weight * double.unsqueeze(1)).t().contiguous()

        def advance(token: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
            gates = table.index_select(0, token).addmm_(hidden, weight).sigmoid_()
            i, f, g, o = torch.split(gates, H, dim=1)
            cell = (cell * f).addcmul_(i, g.sub_(0.5), value=2)
            return (cell * 2).sigmoid_().sub_(0.5).mul_(o).mul_(2), cell

        return advance

"""Small policies made of torch's own layers, for tests of the meter; all in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from estbench.models.policy import Policy
from estbench.models.trees import leaves
from estbench.proof.rewards import rng

V, T, WIDTH = 4, 5, 6


class Layered(Policy):
    """An embedding of tokens, hard or relaxed, and an output layer; the core is a subclass's.

    Args:
      whole: Whether ``trace`` runs over whole sequences; else it steps.
    """

    def __init__(self, core: nn.Module, whole: bool, seed: int = 6) -> None:
        super().__init__()
        self.vocabulary, self.length, self.whole = V, T, whole
        self.table = nn.Linear(V + 1, WIDTH, bias=False)
        self.core = core
        self.output = nn.Linear(WIDTH, V)
        self.double()
        with torch.no_grad():
            for p in self.parameters():
                p.normal_(0, 0.6, generator=rng(seed))

    def embedded(self, tokens: Tensor | None, n: int) -> Tensor:
        """Return ``[n, ..., WIDTH]``; None is the begin symbol."""
        if tokens is None:
            tokens = torch.full((n,), V)
        if tokens.is_floating_point():
            return self.table(nn.functional.pad(tokens, (0, 1)))
        return self.table(nn.functional.one_hot(tokens, V + 1).double())

    def shifted(self, tokens: Tensor) -> Tensor:
        """Return the embeddings ``[n, T, WIDTH]`` of what each position is given."""
        start = torch.full_like(tokens[:, :1], V)
        return self.embedded(torch.cat([start, tokens[:, :-1]], dim=1), tokens.shape[0])

    def trace(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        if not self.whole:
            return super().trace(tokens)
        hidden = self.over(self.shifted(tokens))
        return self.output(hidden).log_softmax(dim=-1), hidden.detach()

    def over(self, x: Tensor) -> Tensor:
        """Return the core's output ``[n, T, WIDTH]`` on whole sequences."""
        raise NotImplementedError


class Recurrent(Layered):
    """nn.LSTM, nn.GRU or nn.RNN."""

    def initial_state(self, n: int) -> list[Tensor]:
        states = 2 if isinstance(self.core, nn.LSTM) else 1
        return [torch.full((n, self.core.num_layers, WIDTH), 0.1).double()] * states

    def step(self, previous: Tensor | None, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        out, state = self.run(self.embedded(previous, state[0].shape[0]).unsqueeze(1), state)
        return self.output(out[:, 0]).log_softmax(dim=-1), state

    def over(self, x: Tensor) -> Tensor:
        return self.run(x, self.initial_state(x.shape[0]))[0]

    def run(self, x: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        hx: Any = tuple(s.transpose(0, 1).contiguous() for s in state)
        first = self.core.batch_first
        out, last = self.core(
            x if first else x.transpose(0, 1), hx if isinstance(self.core, nn.LSTM) else hx[0]
        )
        last = last if isinstance(last, tuple) else (last,)
        return out if first else out.transpose(0, 1), [s.transpose(0, 1) for s in last]


class Cell(Layered):
    """nn.LSTMCell, nn.GRUCell or nn.RNNCell; begins without a state."""

    def initial_state(self, n: int) -> dict[str, Any]:
        return {"begun": torch.zeros(n, 1)}

    def step(self, previous: Tensor | None, state: Any) -> tuple[Tensor, Any]:
        embedded = self.embedded(previous, leaves(state)[0].shape[0])
        found = self.core(embedded, state["h"]) if "h" in state else self.core(embedded)
        hidden = found[0] if isinstance(found, tuple) else found
        return self.output(hidden).log_softmax(dim=-1), {"h": found}


class Prefix(Layered):
    """A core that reads the whole prefix ``[n, t, WIDTH]`` at every step."""

    def initial_state(self, n: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(n, T, WIDTH).double(), torch.zeros(n, dtype=torch.int64)

    def step(
        self, previous: Tensor | None, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        x, count = state
        t = int(count[0])
        new = self.embedded(previous, x.shape[0]) + 0.1 * t
        x = torch.cat([x[:, :t], new.unsqueeze(1), x[:, t + 1 :]], dim=1)
        log_probs = self.output(self.read(x[:, : t + 1])[:, -1]).log_softmax(dim=-1)
        return log_probs, (x, count + 1)

    def over(self, x: Tensor) -> Tensor:
        positions = torch.arange(x.shape[1], dtype=x.dtype)
        return self.read(x + 0.1 * positions.unsqueeze(1))

    def read(self, x: Tensor) -> Tensor:
        """Return the core's output at every position, each of which sees those before it."""
        raise NotImplementedError


class Transformer(Prefix):
    """nn.TransformerEncoder or one layer of it, or nn.MultiheadAttention alone."""

    def read(self, x: Tensor) -> Tensor:
        t = x.shape[1]
        mask = torch.full((t, t), -math.inf, dtype=x.dtype).triu(1)
        first = attends(self.core).batch_first
        x = x if first else x.transpose(0, 1)
        if isinstance(self.core, nn.MultiheadAttention):
            x = x + self.core(x, x, x, attn_mask=mask)[0]
        else:
            x = self.core(x, mask, is_causal=True)
        return x if first else x.transpose(0, 1)


class Cache(Prefix):
    """nn.MultiheadAttention of the last position alone over a cached prefix."""

    def read(self, x: Tensor) -> Tensor:
        weights = self.core(x[:, -1:], x, x, need_weights=True)
        return x[:, -1:] + weights[0]


class Decoder(Prefix):
    """nn.TransformerDecoderLayer, whose memory is the prefix itself, twice."""

    def read(self, x: Tensor) -> Tensor:
        return self.core(x[:, -1:], torch.cat([x, 0.5 * x], dim=1))


class Kinds(Prefix):
    """Attention whose keys and values are of other widths than its queries."""

    def read(self, x: Tensor) -> Tensor:
        return x[:, -1:] + self.core(x[:, -1:], x[..., :4], x[..., :3], need_weights=False)[0]


class Convolution(Prefix):
    """Causal nn.Conv1d."""

    def read(self, x: Tensor) -> Tensor:
        window = self.core.dilation[0] * (self.core.kernel_size[0] - 1)
        padded = nn.functional.pad(x.transpose(1, 2), (window, 0))
        return torch.tanh(self.core(padded)).transpose(1, 2)


class Normalised(Prefix):
    """A layer that acts on each position by itself, between two others."""

    def read(self, x: Tensor) -> Tensor:
        return self.core(x.cumsum(dim=1).tanh())


class Channels(nn.Module):
    """Group normalisation, which wants the channels second."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(2, WIDTH, **options)

    def forward(self, x: Tensor) -> Tensor:
        n, t = x.shape[:2]
        return self.norm(x.reshape(n * t, WIDTH)).reshape(n, t, WIDTH)


class Matrix(nn.Module):
    """Layer normalisation of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm((2, WIDTH // 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.unflatten(-1, (2, -1))).flatten(-2)


def attends(core: nn.Module) -> nn.MultiheadAttention:
    """Return the first attention in it."""
    return next(m for m in core.modules() if isinstance(m, nn.MultiheadAttention))


def encoder_layer(**options: Any) -> nn.TransformerEncoderLayer:
    """Return a layer of two heads without dropout."""
    return nn.TransformerEncoderLayer(WIDTH, 2, 8, **{"dropout": 0.0, **options})


def encoder(**options: Any) -> nn.TransformerEncoder:
    """Return two layers and a last normalisation."""
    norm = nn.LayerNorm(WIDTH)
    return nn.TransformerEncoder(encoder_layer(**options), 2, norm=norm, enable_nested_tensor=False)


def _recurrent(kind: type[nn.RNNBase], **options: Any) -> Callable[[bool], Policy]:
    return lambda whole: Recurrent(kind(WIDTH, WIDTH, **options), whole)


POLICIES: dict[str, Callable[[bool], Policy]] = {
    "lstm": _recurrent(nn.LSTM, batch_first=True),
    "lstm, time first, two layers": _recurrent(nn.LSTM, num_layers=2),
    "lstm, no bias": _recurrent(nn.LSTM, bias=False, batch_first=True, num_layers=2),
    "gru": _recurrent(nn.GRU, batch_first=True),
    "gru, time first, two layers": _recurrent(nn.GRU, num_layers=2),
    "gru, no bias": _recurrent(nn.GRU, bias=False, batch_first=True),
    "rnn": _recurrent(nn.RNN, batch_first=True),
    "rnn, relu, two layers": _recurrent(nn.RNN, nonlinearity="relu", num_layers=2),
    "lstm cell": lambda whole: Cell(nn.LSTMCell(WIDTH, WIDTH), False),
    "gru cell": lambda whole: Cell(nn.GRUCell(WIDTH, WIDTH), False),
    "gru cell, no bias": lambda whole: Cell(nn.GRUCell(WIDTH, WIDTH, bias=False), False),
    "rnn cell": lambda whole: Cell(nn.RNNCell(WIDTH, WIDTH), False),
    "attention": lambda whole: Transformer(
        nn.MultiheadAttention(WIDTH, 2, batch_first=True), whole
    ),
    "attention, time first, no bias": lambda whole: Transformer(
        nn.MultiheadAttention(WIDTH, 3, bias=False), whole
    ),
    "attention over a cache": lambda whole: Cache(
        nn.MultiheadAttention(WIDTH, 2, batch_first=True), False
    ),
    "attention of other widths": lambda whole: Kinds(
        nn.MultiheadAttention(WIDTH, 2, batch_first=True, kdim=4, vdim=3), False
    ),
    "transformer layer": lambda whole: Transformer(encoder_layer(batch_first=True), whole),
    "transformer layer, time first, no bias": lambda whole: Transformer(
        encoder_layer(bias=False, norm_first=True), whole
    ),
    "transformer": lambda whole: Transformer(encoder(batch_first=True, activation="gelu"), whole),
    "transformer, time first": lambda whole: Transformer(encoder(), whole),
    "decoder layer": lambda whole: Decoder(
        nn.TransformerDecoderLayer(WIDTH, 2, 8, dropout=0.0, batch_first=True), False
    ),
    "convolution": lambda whole: Convolution(nn.Conv1d(WIDTH, WIDTH, 3), whole),
    "convolution, dilated": lambda whole: Convolution(
        nn.Conv1d(WIDTH, WIDTH, 2, dilation=2, bias=False), whole
    ),
    "layer norm": lambda whole: Normalised(nn.LayerNorm(WIDTH), whole),
    "layer norm, no bias": lambda whole: Normalised(nn.LayerNorm(WIDTH, bias=False), whole),
    "layer norm of matrices": lambda whole: Normalised(Matrix(), whole),
    "rms norm": lambda whole: Normalised(nn.RMSNorm(WIDTH), whole),
    "group norm": lambda whole: Normalised(Channels(), whole),
    "norm without parameters": lambda whole: Normalised(
        nn.LayerNorm(WIDTH, elementwise_affine=False), whole
    ),
}

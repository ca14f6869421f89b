"""The discriminator: an LSTM on one-hot or relaxed tokens (the paper's section 4)."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from estbench.core.registry import Declared, register
from estbench.models.reward import Discriminator

__all__ = ["DiscriminatorState", "LSTMDiscriminator"]

DiscriminatorState = tuple[Tensor, Tensor]
"""Hidden and cell state, ``[n, H]`` each: what an LSTM keeps of the tokens it has read."""


@register
class LSTMDiscriminator(Discriminator):
    """One LSTM layer on one-hot tokens; its last hidden state is read by two outputs.

    The outputs are "generated" and "real", and a softmax over them makes the probability. Only
    their difference, the logit of "real", is ever seen. At V = 5 and 32 units this is the paper's
    count: 5 * 128 input weights, 32 * 128 recurrent ones, two biases of 128 and 32 * 2 + 2 in the
    output layer, 5,058 in all (a single output would make 5,025).

    Tokens become one-hot weights before anything else happens, so that a relaxed sequence equal
    to a one-hot gives the token's output bit for bit. Nothing is random in it and no row sees
    another one (no dropout, no batch statistics), in training as in evaluation mode.

    Args:
      vocabulary: Number of tokens V.
      hidden: Width H of the LSTM.
      dtype: float32 or float64.
    """

    info = Declared("lstm", "one LSTM layer of 32 units on one-hot tokens (the paper's)")

    @classmethod
    def of(cls, vocabulary: int, length: int) -> Self:
        """Return one for sequences of any length."""
        return cls(vocabulary)

    def __init__(
        self, vocabulary: int, hidden: int = 32, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.hidden = hidden
        self.lstm = nn.LSTM(vocabulary, hidden, batch_first=True, dtype=dtype)
        self.output = nn.Linear(hidden, 2, dtype=dtype)

    @property
    def lstm_parameters(self) -> tuple[nn.Parameter, nn.Parameter, nn.Parameter, nn.Parameter]:
        """Input weights ``[4H, V]``, recurrent weights ``[4H, H]`` and their biases ``[4H]``."""
        w_input, w_hidden, b_input, b_hidden = self.lstm.parameters()
        return w_input, w_hidden, b_input, b_hidden

    @torch.no_grad()
    def initialise(self, rng: torch.Generator, scale: float = 0.02) -> LSTMDiscriminator:
        """Draw all parameters from normal(0, scale), the paper's .02 unless told; return self."""
        for parameter in self.parameters():
            parameter.normal_(0, scale, generator=rng)
        return self

    def forward(self, sequences: Tensor) -> Tensor:
        """Return the logit of "real", ``[n]``, differentiable in relaxed sequences.

        Args:
          sequences: Tokens int64 ``[n, T]``, or weights ``[n, T, V]``.
        """
        weights = self.one_hot(sequences)
        # cuDNN has no double backward, and no backward at all in evaluation mode: while this is a
        # reward and a gradient may be asked for, CUDA takes the native kernels, which have both.
        cudnn = self.training or not torch.is_grad_enabled()
        with torch.backends.cudnn.flags(enabled=cudnn):
            _, (hidden, _) = self.lstm(weights)
        return self._read(hidden[0])

    def initial_state(self, n: int) -> DiscriminatorState:
        """Return the state of n rows that have read nothing: zeros."""
        zeros = self.output.weight.new_zeros(n, self.hidden)
        return zeros, zeros

    def step(self, tokens: Tensor, state: DiscriminatorState) -> DiscriminatorState:
        """Return the state after one more token: int64 ``[n]``, or weights ``[n, V]``.

        Prefixes that several sequences share need to be read once only; ``read`` after T steps
        agrees with ``forward`` to rounding.
        """
        hidden, cell = state
        w_input, w_hidden, b_input, b_hidden = self.lstm_parameters
        gates = nn.functional.linear(self.one_hot(tokens), w_input, b_input)
        gates = gates + nn.functional.linear(hidden, w_hidden, b_hidden)
        i, f, g, o = gates.chunk(4, dim=1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        return o.sigmoid() * cell.tanh(), cell

    def read(self, state: DiscriminatorState) -> Tensor:
        """Return the logit of "real", ``[n]``, of what has been read so far."""
        return self._read(state[0])

    def one_hot(self, tokens: Tensor) -> Tensor:
        """Return weights ``[..., V]`` of int64 tokens ``[...]``; weights pass as they are."""
        if tokens.is_floating_point():
            return tokens
        shape = (*tokens.shape, self.vocabulary)
        weights = torch.zeros(shape, dtype=self.output.weight.dtype, device=tokens.device)
        return weights.scatter_(-1, tokens.unsqueeze(-1), 1.0)

    def _read(self, hidden: Tensor) -> Tensor:
        outputs: Tensor = self.output(hidden)
        return outputs[:, 1] - outputs[:, 0]

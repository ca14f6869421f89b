"""What generators that are networks share: tokens in, log-probabilities out, and the end token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from estbench.models.policy import Policy, has_ended, keep_ending
from estbench.models.trees import State

__all__ = ["NetworkPolicy", "TokenEmbedding"]


class TokenEmbedding(nn.Module):
    """Embedding of V tokens and a begin-of-sequence symbol; takes hard and relaxed tokens.

    The begin symbol is the last row, V.
    """

    def __init__(self, vocabulary: int, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocabulary + 1, width, dtype=dtype))
        nn.init.normal_(self.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return embeddings ``[..., width]`` of int64 tokens ``[...]`` or weights ``[..., V]``."""
        if tokens.is_floating_point():
            return tokens @ self.weight[:-1]
        return nn.functional.embedding(tokens, self.weight)


class NetworkPolicy(Policy):
    """An embedding of tokens, a core that is the subclass's, and an output layer.

    A state is a tuple: what the core keeps, and last, where there is an end token, whether each row
    has ended, bool ``[n]``.

    Args:
      vocabulary: Number of tokens V.
      length: Sequence length T.
      width: Width of the embedding and of the core's output.
      dtype: float32 or float64.
      truncation: Steps of backpropagation through time; 0 for all.
      end: The token that ends a sequence and fills it up; None where all have length T.
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        width: int = 32,
        dtype: torch.dtype = torch.float32,
        truncation: int = 0,
        end: int | None = None,
    ) -> None:
        super().__init__()
        self.vocabulary, self.length = vocabulary, length
        self.width = width
        self.truncation, self.end = truncation, end
        self.embedding = TokenEmbedding(vocabulary, width, dtype)
        self.output = nn.Linear(width, vocabulary, dtype=dtype)

    @torch.no_grad()
    def initialise(self, law: str, scale: float, rng: torch.Generator) -> NetworkPolicy:
        """Draw the parameters from uniform(-scale, scale) or normal(0, scale); return self.

        Layer norms start as the identity.
        """
        norms = {
            id(p) for m in self.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters()
        }
        for parameter in self.parameters():
            if id(parameter) in norms:
                continue
            if law == "uniform":
                parameter.uniform_(-scale, scale, generator=rng)
            else:
                parameter.normal_(0, scale, generator=rng)
        return self

    def core_state(self, n: int) -> tuple[Tensor, ...]:
        """Return what the core keeps of n rows before the first token."""
        raise NotImplementedError

    def advance(
        self, embedded: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the core's output ``[n, width]`` and state after one more token ``[n, width]``."""
        raise NotImplementedError

    def over(self, embedded: Tensor) -> Tensor:
        """Return the core's output on whole sequences, both ``[n, T, width]``."""
        raise NotImplementedError

    def initial_state(self, n: int) -> State:
        """Return the state before the first token, for n rows."""
        state = self.core_state(n)
        if self.end is not None:
            state += (torch.zeros(n, dtype=torch.bool, device=self.device),)
        return state

    def step(self, previous: Tensor | None, state: State) -> tuple[Tensor, State]:
        """Advance one position; see ``Policy.step``. A relaxed token ends no sequence."""
        core = state if self.end is None else state[:-1]
        if previous is None:
            n = state[0].shape[0]
            previous = torch.full((n,), self.vocabulary, dtype=torch.int64, device=self.device)
        hidden, core = self.advance(self.embedding(previous), core)
        log_probs: Tensor = self.output(hidden).log_softmax(dim=-1)
        if self.end is None:
            return log_probs, core
        ended = state[-1]
        if not previous.is_floating_point():
            ended = ended | (previous == self.end)
        return keep_ending(log_probs, ended, self.end), (*core, ended)

    def trace(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities ``[n, T, V]`` and the core's output ``[n, T, width]``."""
        if self.truncation:
            return super().trace(tokens)
        begin = torch.full_like(tokens[:, :1], self.vocabulary)
        hidden = self.over(self.embedding(torch.cat([begin, tokens[:, :-1]], dim=1)))
        log_probs = self.output(hidden).log_softmax(dim=-1)
        if self.end is not None:
            log_probs = keep_ending(log_probs, has_ended(tokens, self.end), self.end)
        return log_probs, hidden.detach()

    def embed(self, weights: Tensor) -> Tensor:
        """Return embeddings ``[..., width]`` of relaxed tokens ``[..., V]``."""
        return weights @ self.embedding.weight[:-1].detach()

"""The policy: an autoregressive categorical distribution over sequences of T tokens out of V.

A policy of one's own needs ``vocabulary``, ``length``, ``initial_state`` and ``step``; everything
else follows from them and may be overridden by something faster.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from estbench.core import noise
from estbench.core.registry import POLICIES, Declared, Registry
from estbench.models.contexts import Contexts
from estbench.models.trees import State, flatten_rows, insert_rows, map_rows, repeat_rows

__all__ = [
    "Policy",
    "at_tokens",
    "choose_by_gumbel",
    "choose_by_uniform",
    "has_ended",
    "keep_ending",
    "sequence_lengths",
]

Choose = Callable[[int, Tensor], Tensor]
"""(position, log-probabilities [n, V]) -> tokens int64 [n]."""


class Policy(nn.Module):
    """Base class of autoregressive categorical policies.

    One that is registered can be chosen by name as the generator of a task (``generator = "gru"``).
    It has an ``info``, is made as ``cls(vocabulary, length, truncation=..., end=...)``, and has
    ``initialise``.

    Attributes:
      vocabulary: Number of tokens V. The begin-of-sequence symbol is not one of them: at the first
        position ``step`` is given None and the policy knows how to start.
      length: Sequence length T.
      truncation: Backpropagation through time stops every this many steps; 0 means never. Any
        other value makes every estimator of the policy's gradient biased.
      end: The token that ends a sequence, or None. After it the same token fills the sequence up,
        with log-probability 0 and no gradient.
      contexts: What the sequences are conditioned on, row by row; None where that is nothing.
    """

    registry: ClassVar[Registry] = POLICIES
    info: ClassVar[Declared]

    vocabulary: int
    length: int
    truncation: int = 0
    end: int | None = None
    contexts: Contexts | None = None

    def initialise(self, *args: Any, **kwargs: Any) -> Policy:
        """Draw all parameters anew; return self.

        A generator is given ``(law, scale, rng)``: uniform(-scale, scale) or normal(0, scale).
        """
        raise NotImplementedError

    def initial_state(self, n: int) -> State:
        """Return the state before the first token, for n rows."""
        raise NotImplementedError

    def step(self, previous: Tensor | None, state: State) -> tuple[Tensor, State]:
        """Advance one position.

        Args:
          previous: None at the first position; then the previous token, int64 ``[n]``, or a
            relaxed one, weights ``[n, V]``.
          state: A state of n rows.

        Returns:
          Normalised log-probabilities ``[n, V]`` of the token at this position, and the state.
        """
        raise NotImplementedError

    def trace(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities ``[n, T, V]`` along given sequences, and what the policy knew.

        Position t is conditioned on ``tokens[:, :t]``. The second value, ``[n, T, F]``, is the
        state that position t was drawn from as plain numbers, detached: the input of critics and
        learned control variates.
        """
        state = self.initial_state(tokens.shape[0])
        previous, rows, features = None, [], []
        for t in range(tokens.shape[1]):
            log_probs, state = self.step(previous, state)
            rows.append(log_probs)
            features.append(flatten_rows(state).detach())
            previous = tokens[:, t]
        return torch.stack(rows, dim=1), torch.stack(features, dim=1)

    def log_probs(self, tokens: Tensor) -> Tensor:
        """Return log-probabilities ``[n, T, V]``; position t is given ``tokens[:, :t]``."""
        return self.trace(tokens)[0]

    def embed(self, weights: Tensor) -> Tensor | None:
        """Return embeddings ``[..., E]`` of relaxed tokens ``[..., V]``; None if there are none.

        What a learned control variate sees of a token at a large vocabulary: the policy's
        parameters are constants in it.
        """
        return None

    @torch.no_grad()
    def sample_by(self, n: int, choose: Choose) -> Tensor:
        """Return sequences int64 ``[n, T]`` whose tokens ``choose`` picks, position by position."""
        state = self.initial_state(n)
        previous, tokens = None, []
        for t in range(self.length):
            log_probs, state = self.step(previous, state)
            previous = choose(t, log_probs)
            tokens.append(previous)
        return torch.stack(tokens, dim=1)

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        """Return n independent sequences, int64 ``[n, T]``, without a graph."""
        return self.sample_from(noise.uniform(rng, (n, self.length), self.dtype))

    def sample_from(self, uniforms: Tensor) -> Tensor:
        """Return the sequences int64 ``[n, T]`` that uniforms ``[n, T]`` pick, one a token."""
        return self.sample_by(len(uniforms), choose_by_uniform(uniforms))

    @torch.no_grad()
    def greedy(self) -> Tensor:
        """Return the sequence of each step's likeliest token, int64 ``[1, T]``, without a graph.

        Of a policy that is conditioned on M contexts, one for each of them, ``[M, T]``.
        """
        state = self.initial_state(self.fewest_rows)
        previous, tokens = None, []
        for _ in range(self.length):
            log_probs, state = self.step(previous, state)
            previous = log_probs.argmax(dim=-1)
            tokens.append(previous)
        return torch.stack(tokens, dim=1)

    @torch.no_grad()
    def continue_from(self, tokens: Tensor, uniforms: Tensor) -> Tensor:
        """Return Monte-Carlo rollouts of every proper prefix, all advancing in one growing batch.

        Args:
          tokens: Sequences int64 ``[n, T]``.
          uniforms: Noise ``[n, N, T - 1, T]``; entry ``[i, r, t, s]`` picks token s of rollout r
            that continues ``tokens[i, :t + 1]``.

        Returns:
          Completed sequences int64 ``[n, T - 1, N, T]``: the first t + 1 tokens of entry
          ``[:, t]`` are the prefix.
        """
        # At position s the batch holds, for every sequence, one row that follows the sequence and
        # N rows for each prefix that has ended before s. The rows of a sequence are contiguous.
        n, T = tokens.shape
        N = uniforms.shape[1]
        completed = tokens[:, None, None, :].expand(n, T - 1, N, T).clone()
        _, state = self.step(None, self.initial_state(n))
        rolled = tokens.new_empty(n, 0)
        for s in range(1, T):
            own = map_rows(state, lambda x: x.reshape(n, -1, *x.shape[1:])[:, 0])
            state = insert_rows([state, repeat_rows(own, N)], n)
            following = tokens[:, s - 1 : s]
            fed = torch.cat([following, rolled, following.expand(n, N)], dim=1)
            log_probs, state = self.step(fed.reshape(-1), state)
            probs = log_probs.exp().reshape(n, 1 + s * N, -1)[:, 1:].reshape(n * s * N, -1)
            u = uniforms[:, :, :s, s].transpose(1, 2).reshape(-1)
            drawn = inverse_cdf(probs, u).reshape(n, s, N)
            completed[:, :s, :, s] = drawn
            rolled = drawn.reshape(n, s * N)
        return completed

    def relaxed_from(self, gumbel: Tensor, temperature: float) -> Tensor:
        """Return sequences relaxed throughout, each position fed the relaxed tokens before it.

        x_t = softmax((log p(. | x_{<t}) + gumbel_t) / temperature), with its graph.

        Args:
          gumbel: Noise ``[n, T, V]``.
          temperature: Above 0; towards 0 tokens become those of the Gumbel-max choice.

        Returns:
          Weights ``[n, T, V]``.
        """
        state = self.initial_state(gumbel.shape[0])
        previous, rows = None, []
        for t in range(gumbel.shape[1]):
            log_probs, state = self.step(previous, state)
            previous = ((log_probs + gumbel[:, t]) / temperature).softmax(dim=-1)
            rows.append(previous)
        return torch.stack(rows, dim=1)

    @property
    def fewest_rows(self) -> int:
        """The rows of the smallest call: one for each context, or one."""
        return 1 if self.contexts is None else self.contexts.count

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the parameters."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.parameters()).device


IMPOSSIBLE = -1e4
"""The log-probability of what cannot come: its exponential is 0, and no product with it is NaN."""


def at_tokens(values: Tensor, tokens: Tensor) -> Tensor:
    """Return the entries ``[n, T]`` of values ``[n, T, V]`` at tokens int64 ``[n, T]``."""
    return values.gather(2, tokens.unsqueeze(2)).squeeze(2)


def has_ended(tokens: Tensor, end: int) -> Tensor:
    """Return whether each position of sequences ``[n, T]`` comes after an end token, bool."""
    ended = (tokens == end).cummax(dim=1).values if tokens.shape[1] else tokens == end
    return nn.functional.pad(ended[:, :-1], (1, 0))


def sequence_lengths(tokens: Tensor, end: int | None) -> Tensor:
    """Return the lengths int64 ``[n]`` of sequences ``[n, T]``, the end token included."""
    if end is None:
        return torch.full_like(tokens[:, 0], tokens.shape[1])
    return (~has_ended(tokens, end)).sum(dim=1)


def keep_ending(log_probs: Tensor, ended: Tensor, end: int) -> Tensor:
    """Return log-probabilities ``[..., V]`` that are certain of the end token where ``ended``."""
    certain = log_probs.new_full(log_probs.shape[-1:], IMPOSSIBLE)
    certain[end] = 0.0
    return torch.where(ended.unsqueeze(-1), certain, log_probs)


@dataclass(frozen=True)
class _ByUniform:
    u: Tensor

    def __call__(self, t: int, log_probs: Tensor) -> Tensor:
        return inverse_cdf(log_probs.exp(), self.u[:, t])

    def at_once(self, log_probs: Tensor) -> Tensor:
        """Return the tokens ``[n, T]`` of all positions for log-probabilities ``[n, T, V]``."""
        probs = log_probs.exp().flatten(0, 1)
        return inverse_cdf(probs, self.u.reshape(-1)).view(self.u.shape)


@dataclass(frozen=True)
class _ByGumbel:
    g: Tensor

    def __call__(self, t: int, log_probs: Tensor) -> Tensor:
        return (log_probs + self.g[:, t]).argmax(dim=-1)

    def at_once(self, log_probs: Tensor) -> Tensor:
        """Return the tokens ``[n, T]`` of all positions for log-probabilities ``[n, T, V]``."""
        return (log_probs + self.g).argmax(dim=-1)


def choose_by_uniform(u: Tensor) -> Choose:
    """Return the inverse-CDF choice for uniforms ``[n, T]``: one number a token."""
    return _ByUniform(u)


def choose_by_gumbel(g: Tensor) -> Choose:
    """Return the Gumbel-max choice for Gumbel noise ``[n, T, V]``: argmax of log p + noise."""
    return _ByGumbel(g)


def inverse_cdf(probs: Tensor, u: Tensor) -> Tensor:
    """Return the tokens whose interval of the cumulative distribution holds ``u``.

    Args:
      probs: Probabilities ``[n, V]``; their sum need not be exactly 1.
      u: Uniforms ``[n]`` in [0, 1).
    """
    cumulative = probs.cumsum(dim=-1)
    # Scaling by the computed total keeps a rounded sum below 1 from pointing past the last token.
    threshold = u.unsqueeze(-1) * cumulative[:, -1:]
    return (cumulative <= threshold).sum(dim=-1).clamp_max(probs.shape[-1] - 1)

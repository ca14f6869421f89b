"""Tokens that are drawn together at every position of a sequence, and compared there.

At position t, after the sequence's own prefix s_t, K tokens are drawn together: the first goes on
as the sequence, the others are completed by rollouts (``branch``). The mean reward of completions
of (s_t, v) is an unbiased estimate of Q(s_t, v) whatever made v, because rollouts use noise of
their own. So is the sequence's own reward R for its own token: the noise of position t makes no
difference to what comes later. Hence

    grad E f = E sum_t grad_{l_t} sum_v p(v | s_t) Q(s_t, v)

falls into one problem of a single categorical a position, and whatever is unbiased for that is so
for sequences. Tokens are coupled within a position and never across: the tokens of a coupled
*sequence* would not follow the prefix that they are compared after.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from estbench.core import noise
from estbench.core.errors import UserError
from estbench.estimators.base import Estimator, Learned, Reward, Section, Surrogate
from estbench.models.policy import Policy, inverse_cdf
from estbench.models.trees import insert_rows, map_rows, repeat_rows

__all__ = ["PerStep", "branch", "declared_evals", "draw_options", "pooled"]

Choose = Callable[[int, Tensor], tuple[Tensor, Tensor]]
"""(position, log-probabilities [n, V]) -> tokens int64 [n, K], and what to remember [n, ...]."""


@torch.no_grad()
def draw_options(policy: Policy, draws: int, choose: Choose) -> tuple[Tensor, Tensor]:
    """Return K tokens at each position, int64 ``[n, T, K]``, and what ``choose`` remembers of them.

    The first of them are the sequence, and what all are drawn after.
    """
    state, previous = policy.initial_state(draws), None
    chosen, remembered = [], []
    for t in range(policy.length):
        log_probs, state = policy.step(previous, state)
        tokens, noted = choose(t, log_probs)
        previous = tokens[:, 0]
        chosen.append(tokens)
        remembered.append(noted)
    return torch.stack(chosen, dim=1), torch.stack(remembered, dim=1)


def pooled(tokens: Tensor, values: Tensor, vocabulary: int) -> Tensor:
    """Return values ``[n, T, m]`` averaged over those of the same token at the same position.

    Each is an unbiased estimate of the same Q(s_t, v), with a rollout of its own.
    """
    shape = (*tokens.shape[:2], vocabulary)
    total = values.new_zeros(shape).scatter_add(2, tokens, values)
    count = values.new_zeros(shape).scatter_add(2, tokens, torch.ones_like(values))
    return total.gather(2, tokens) / count.gather(2, tokens)


@torch.no_grad()
def branch(policy: Policy, tokens: Tensor, alternatives: Tensor, uniforms: Tensor) -> Tensor:
    """Return b_{<t}, an alternative at t, and a rollout after it, for every t and alternative.

    All branches advance together, in T steps: at position s the batch holds, for every sequence,
    one row that follows the sequence itself and M rows for each position before s. Rows of a
    sequence stand together.

    Args:
      policy: The policy that the rollouts follow.
      tokens: Sequences b, int64 ``[n, T]``.
      alternatives: Tokens int64 ``[n, T, M]`` in place of b_t.
      uniforms: Noise ``[n, T, M, T]``; entry ``[i, t, m, s]`` picks token s > t of a branch.

    Returns:
      Sequences int64 ``[n, T, M, T]``.
    """
    n, T, M = alternatives.shape
    completed = tokens[:, None, None, :].expand(n, T, M, T).clone()
    position = torch.arange(T, device=tokens.device)
    completed[:, position, :, position] = alternatives.transpose(0, 1)
    _, state = policy.step(None, policy.initial_state(n))
    rolled = tokens.new_empty(n, 0)
    for s in range(1, T):
        own = map_rows(state, lambda x: x.reshape(n, -1, *x.shape[1:])[:, 0])
        state = insert_rows([state, repeat_rows(own, M)], n)
        fed = torch.cat([tokens[:, s - 1 : s], rolled, alternatives[:, s - 1]], dim=1)
        log_probs, state = policy.step(fed.reshape(-1), state)
        V = log_probs.shape[-1]
        probs = log_probs.reshape(n, 1 + s * M, V)[:, 1:].exp()
        u = uniforms[:, :s, :, s].reshape(-1)
        rolled = inverse_cdf(probs.reshape(-1, V), u).reshape(n, s * M)
        completed[:, :s, :, s] = rolled.reshape(n, s, M)
    return completed


class PerStep(Estimator):
    """Base of estimators that draw K tokens together at every position and compare their values.

    Subclasses say how the tokens are drawn and what their values are worth.

    Args:
      rollouts: Completions N of each token; 0 for one.
    """

    section = Section.COUPLED
    hue = "arm"

    def __init__(self, rollouts: int = 0) -> None:
        self.rollouts = rollouts or 1

    def options(self, vocabulary: int) -> int:
        """Return the number of tokens K that are drawn together at a position."""
        raise NotImplementedError

    def noise(self, policy: Policy) -> tuple[int, ...]:
        """Return the shape of the uniforms that the tokens of one position take."""
        raise NotImplementedError

    def choose(self, log_probs: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens int64 ``[n, K]`` and what ``weights`` has to know ``[n, ...]``."""
        raise NotImplementedError

    def weights(
        self, log_probs: Tensor, options: Tensor, values: Tensor, remembered: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return log-probabilities ``[n, T, m]`` and their weights.

        Args:
          log_probs: l with its graph ``[n, T, V]``.
          options: Tokens ``[n, T, K]``.
          values: Estimates of their Q ``[n, T, K]``.
          remembered: What ``choose`` gave ``[n, T, ...]``.
        """
        raise NotImplementedError

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: Learned
    ) -> Surrogate:
        """A draw is one sequence and what branches off it."""
        T, V, N = policy.length, policy.vocabulary, self.rollouts
        if refusal := self.refusal(V, T):
            raise UserError(refusal)
        K = self.options(V)
        # The sequence itself is one completion of its own tokens.
        columns = [k for k in range(K) for _ in range(N if k else N - 1)]
        C = len(columns)
        rest = T if T > 1 else 0  # nothing comes after a single token
        shapes = {"options": (T, *self.noise(policy)), "rollouts": (T, C, rest)}
        u = noise.uniforms(rng, draws, shapes, policy.dtype)
        options, remembered = draw_options(
            policy, draws, lambda t, log_probs: self.choose(log_probs, u["options"][:, t])
        )
        tokens = options[:, :, 0].contiguous()
        index = torch.tensor([0, *columns], device=policy.device)
        valued = options[:, :, index]
        completed = branch(policy, tokens, valued[:, :, 1:], u["rollouts"])
        terminal = reward(tokens)
        earned = reward(completed.flatten(0, 2)).reshape(draws, T, C)
        own = terminal.view(draws, 1, 1).expand(draws, T, 1)
        values = pooled(valued, torch.cat([own, earned], dim=2), V)
        # The first completion of each option stands for it.
        first = [[0, *columns].index(k) for k in range(K)]
        log_probs, _ = policy.trace(tokens)
        chosen, weights = self.weights(log_probs, options, values[:, :, first], remembered)
        return Surrogate.of(chosen, weights, tokens, terminal)


def declared_evals(options: int, rollouts: int) -> str:
    """Return the hard evaluations of K options with N completions each, as a formula."""
    others = options * rollouts - 1
    return "1 + T" if others == 1 else f"1 + {others}T"

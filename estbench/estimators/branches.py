"""Other tokens at every position of a sequence, each with one rollout after it.

What a token is worth at a state s_t is estimated by a sequence that follows b up to t, takes that
token and goes on by the policy. All branches advance together, in T steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from estbench.models.policy import Policy, inverse_cdf
from estbench.models.trees import insert_rows, map_rows, repeat_rows

__all__ = ["branch"]


@torch.no_grad()
def branch(policy: Policy, tokens: Tensor, alternatives: Tensor, uniforms: Tensor) -> Tensor:
    """Return b_{<t}, an alternative at t, and a rollout after it, for every t and alternative.

    At position s the batch holds, for every sequence, one row that follows the sequence itself and
    M rows for each position before s. Rows of a sequence stand together.

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

"""Monte-Carlo rollouts of every prefix of a batch, in T steps instead of T^2 / 2."""

from __future__ import annotations

import torch
from torch import Tensor

from estbench.models.policy import Policy, inverse_cdf
from estbench.models.trees import insert_rows, map_rows, repeat_rows

__all__ = ["grow"]


def grow(policy: Policy, tokens: Tensor, uniforms: Tensor) -> Tensor:
    """Return rollouts of all proper prefixes; shapes as in ``Policy.continue_from``.

    At position s the batch holds, for every sequence, one row that follows the sequence itself
    and N rows for each prefix that has ended before s. Rows of a sequence stand together.
    """
    n, T = tokens.shape
    N = uniforms.shape[1]
    completed = tokens[:, None, None, :].expand(n, T - 1, N, T).clone()
    _, state = policy.step(None, policy.initial_state(n))
    rolled = tokens.new_empty(n, 0)
    for s in range(1, T):
        own = map_rows(state, lambda x: x.reshape(n, -1, *x.shape[1:])[:, 0])
        state = insert_rows([state, repeat_rows(own, N)], n)
        following = tokens[:, s - 1 : s]
        fed = torch.cat([following, rolled, following.expand(n, N)], dim=1)
        log_probs, state = policy.step(fed.reshape(-1), state)
        probs = log_probs.exp().reshape(n, 1 + s * N, -1)[:, 1:].reshape(n * s * N, -1)
        u = uniforms[:, :, :s, s].transpose(1, 2).reshape(-1)
        drawn = inverse_cdf(probs, u).reshape(n, s, N)
        completed[:, :s, :, s] = drawn
        rolled = drawn.reshape(n, s * N)
    return completed

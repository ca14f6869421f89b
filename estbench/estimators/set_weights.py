"""Probabilities of orders in which a set can have been drawn without replacement.

For a set S of k sequences with probabilities p_i, let H(U) be the sum, over the orders in which
S - U can follow once U is drawn, of the product of 1 / (1 - p(U) - what has been drawn since).
Then p(S) = H({}) prod_i p_i, and p^{D-U}(S-U) = H(U) prod_i p_i over those not in U, so that the
ratios of the unordered set estimator (Kool et al. 2020) are ratios of H:

    p(s) R(S, s)         = H({s}) / H({}),            the probability that s came first;
    p(s') R^{D-s}(S, s') = H({s, s'}) / H({s}),       that s' came next.

The p_i themselves, far too small for floating-point numbers where sequences are long, drop out.
H is found for all 2^k subsets, the full one first: H(U) = sum_{i not in U} H(U + i) / (1 - p(U)).
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

__all__ = ["order_probabilities"]


def order_probabilities(log_p: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probabilities of who came first, and of who came second given the first.

    Args:
      log_p: Log-probabilities of distinct sequences, float64 ``[n, k]``; -inf where there were
        fewer than k to draw from.

    Returns:
      ``[n, k]``, and ``[n, k, k]`` with the first along rows. The diagonal of the second holds p(s)
      itself, which is what the others of a row lack of 1.
    """
    p = log_p.exp()
    k = p.shape[1]
    members = _members(k).to(p.device, p.dtype)
    left = (1 - p @ members.t()).clamp_min(torch.finfo(p.dtype).eps)
    orders = torch.zeros_like(left)
    orders[:, -1] = 1.0
    for subsets, following in _levels(k):
        orders[:, subsets] = orders[:, following].sum(dim=2) / left[:, subsets]
    singles = 1 << torch.arange(k)
    first = orders[:, singles] / orders[:, :1]
    second = orders[:, singles.unsqueeze(1) | singles] / orders[:, singles].unsqueeze(2)
    second = second.diagonal_scatter(p, dim1=1, dim2=2)
    # A set of everything says nothing about who came first or next but what p says.
    everything = (log_p == -torch.inf).any(dim=1)
    first = torch.where(everything.unsqueeze(1), p, first)
    second = torch.where(everything.view(-1, 1, 1), p.unsqueeze(1), second)
    return first, second


@cache
def _members(k: int) -> Tensor:
    """Return who is in each subset, bool ``[2^k, k]``; a subset's number is a bit a member."""
    return (torch.arange(1 << k).unsqueeze(1) >> torch.arange(k) & 1).bool()


@cache
def _levels(k: int) -> list[tuple[Tensor, Tensor]]:
    """Return subsets ``[m]`` by size, the largest first, with those of one more ``[m, k']``."""
    members = _members(k)
    sizes = members.sum(dim=1)
    found = []
    for size in range(k - 1, -1, -1):
        subsets = (sizes == size).nonzero().squeeze(1)
        following = [
            [int(u) | 1 << i for i in range(k) if not members[u, i]] for u in subsets.tolist()
        ]
        found.append((subsets, torch.tensor(following)))
    return found

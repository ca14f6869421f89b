"""Couplings: K tokens that are each drawn from p, and rarely the same.

For tokens z_1..z_K of which each has the law p and each pair the joint law p(z, z'),

    g = 1 / (K (K - 1)) sum_{i != j} r_ij (Q_i - Q_j) grad l(z_i),
    r_ij = p(z_i) p(z_j) / p(z_i, z_j),

has the mean of the leave-one-out estimator from independent tokens, as long as every pair of
different tokens can come (Dong, Mnih and Tucker 2021, section 3, for K = 2; Dimitriev and Zhou
2021b for more). A pair that never comes is missing from the sum, and g is biased.

**Antithetic stick-breaking.** Tokens are put in ascending order of probability; a token is the
first stick k that breaks, each with probability beta_k = p_k / (p_k + ... + p_V). The K tokens'
sticks of one place are jointly antithetic: with (d_1..d_K) uniform on the simplex, stick i breaks
if d_i > c, c = 1 - beta^(1 / (K - 1)) (the Dirichlet copula of Dimitriev and Zhou 2021a). Then

    P(i breaks) = beta,  P(both) = max(0, 2 beta^(1 / (K - 1)) - 1)^(K - 1),

and for K = 2 the sticks break at u > 1 - beta and 1 - u > 1 - beta. What comes after the first
break of a pair is one token's alone, so that r depends on the place k of that break:

    r = beta_k (1 - beta_k) / (beta_k - P_k(both)) prod_{j < k} (1 - beta_j)^2 / P_j(neither).

In ascending order beta_k <= 1 / (V - k + 1): beta is at most 1/2, P(neither) is positive wherever
two or more tokens are left to tell apart, and no pair is lost. In another order a stick of more
than 1/2 may stand early; of two antithetic ones one always breaks, and pairs behind it never come.

**Inverse CDF.** The pair from u and 1 - u has such gaps as soon as there are three tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from estbench.core import noise
from estbench.models.policy import inverse_cdf

__all__ = ["antithetic_sticks", "inverse_cdf_pair", "simplex"]


def simplex(uniforms: Tensor, count: int) -> Tensor:
    """Return points ``[..., K]`` uniform on the simplex.

    Args:
      uniforms: ``[..., 1]`` for K = 2, where they are u and 1 - u; else ``[..., K]``.
      count: K.
    """
    if count == 2:
        return torch.cat([uniforms, 1 - uniforms], dim=-1)
    parts = noise.exponential(uniforms)
    return parts / parts.sum(dim=-1, keepdim=True)


def antithetic_sticks(log_probs: Tensor, uniforms: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Draw K jointly antithetic tokens, and their ratios r.

    Args:
      log_probs: Normalised ``[n, V]``.
      uniforms: ``[n, V - 1, 1]`` for K = 2, else ``[n, V - 1, K]``.
      count: K.

    Returns:
      Tokens int64 ``[n, K]`` and r ``[n, K, K]``, 0 where two tokens are the same.
    """
    probs, order = log_probs.exp().sort(dim=1, stable=True)
    left = probs.flip(1).cumsum(dim=1).flip(1)
    beta = (probs[:, :-1] / left[:, :-1]).clamp_max(0.5)
    root = beta ** (1 / (count - 1))
    breaks = simplex(uniforms, count) > (1 - root).unsqueeze(2)
    last = torch.ones_like(breaks[:, :1])
    place = torch.cat([breaks, last], dim=1).to(torch.uint8).argmax(dim=1)
    both = (2 * root - 1).clamp_min(0) ** (count - 1)
    one = (1 - beta) / (1 - both / beta.clamp_min(torch.finfo(beta.dtype).tiny))
    # The last stick tells the last two tokens apart: nobody is left behind it.
    passed = (1 - beta[:, :-1]) ** 2 / (1 - 2 * beta[:, :-1] + both[:, :-1])
    before = torch.cat([torch.ones_like(beta[:, :1]), passed], dim=1).cumprod(dim=1)
    ratio = torch.nn.functional.pad(one * before, (0, 1))
    first = torch.minimum(place.unsqueeze(1), place.unsqueeze(2))
    r = ratio.gather(1, first.flatten(1)).view_as(first)
    differ = place.unsqueeze(1) != place.unsqueeze(2)
    return order.gather(1, place), torch.where(differ, r, torch.zeros_like(r))


def inverse_cdf_pair(log_probs: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Draw the tokens that u and 1 - u pick, and their ratios r; pairs are missing for V > 2.

    Args:
      log_probs: Normalised ``[n, V]``.
      uniforms: ``[n, 1]``.

    Returns:
      Tokens int64 ``[n, 2]`` and r ``[n, 2, 2]``, 0 where the two are the same.
    """
    probs = log_probs.exp()
    u = uniforms[:, 0]
    tokens = torch.stack([inverse_cdf(probs, u), inverse_cdf(probs, 1 - u)], dim=1)
    above = probs.cumsum(dim=1)
    below = above - probs
    low, high = below.gather(1, tokens), above.gather(1, tokens)
    # u lies in the first token's interval, and 1 - u in the second's.
    joint = torch.minimum(high[:, 0], 1 - low[:, 1]) - torch.maximum(low[:, 0], 1 - high[:, 1])
    product = (high - low).prod(dim=1)
    found = joint > torch.finfo(joint.dtype).eps
    r = torch.where(found, product / joint.clamp_min(torch.finfo(joint.dtype).tiny), 0)
    r = torch.where(tokens[:, 0] != tokens[:, 1], r, 0)
    off = 1 - torch.eye(2, dtype=r.dtype, device=r.device)
    return tokens, r.view(-1, 1, 1) * off

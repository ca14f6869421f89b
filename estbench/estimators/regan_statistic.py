"""The paper's own statistic: the variance of one element of the gradient over one batch.

The element is the generator's output bias of the token x, and the variance is over the sequences of
a batch (arXiv 1805.02788, section 7.3, and its public code). It sees nothing of the other elements,
and nothing of noise that all sequences of a batch share.
"""

from __future__ import annotations

import math

from torch import Tensor

__all__ = ["PAPER_TOKEN", "element_gradients", "element_variance"]

PAPER_TOKEN = 0  # x


def element_gradients(weights: Tensor, log_probs: Tensor, token: int = PAPER_TOKEN) -> Tensor:
    """Return each sequence's gradient with respect to the output bias of one token, ``[n]``.

    That is sum_t sum_v w_t(v) d l_t(v) / d bias, and d l_t(v) / d bias(token) = 1[v = token] -
    p_t(token): the bias acts on every position's own distribution and, tokens given, on nothing
    else. So no backward pass is needed, nor a draw of one sequence.

    Args:
      weights: What multiplies the log-probabilities in each sequence's surrogate, ``[n, T, V]``.
      log_probs: Log-probabilities ``[n, T, V]`` of a policy with an output bias.
      token: The token.
    """
    weights, log_probs = weights.detach(), log_probs.detach()
    probability = log_probs[..., token].exp()
    return (weights[..., token] - weights.sum(dim=-1) * probability).sum(dim=-1)


def element_variance(
    weights: Tensor, log_probs: Tensor, batch: int | None = None, token: int = PAPER_TOKEN
) -> float:
    """Return the element's sample variance over the sequences of a batch (n - 1 in the divisor).

    Args:
      weights: See ``element_gradients``.
      log_probs: See ``element_gradients``.
      batch: Sequences in a batch, which are consecutive; the mean over batches is returned. All
        sequences are one batch if None.
      token: The token.

    Returns:
      The variance; NaN for batches of a single sequence.
    """
    elements = element_gradients(weights, log_probs, token).double()
    batch = batch or len(elements)
    if batch < 2:
        return math.nan
    return float(elements.reshape(-1, batch).var(dim=1).mean())

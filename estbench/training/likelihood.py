"""Negative log-likelihood of tokens at a large vocabulary, with its gradient in the same pass.

Written out plainly, logits, log-softmax, loss and their gradients are many passes over a matrix of
[rows, V], which no cache holds. Here a chunk of rows goes from logits to gradients before the next
one begins: three matrix products and an exponential in place. Biases and normalising sums are a
row and a column of those products, and what belongs to the targets alone is added at the end.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["summed_cross_entropy"]

ROWS = 256  # of logits at a time: 5 MB at V = 5000, what a core's cache holds
SAFE = 90.0  # exponents of two that neither overflow nor vanish when V of them are added


def summed_cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """Return the sum over rows of -log softmax(hidden @ weight' + bias)[target].

    Differentiable once in hidden, weight and bias.

    Args:
      hidden: ``[m, H]``.
      weight: ``[V, H]``.
      bias: ``[V]``.
      targets: int64 ``[m]``.
    """
    loss: Tensor = _CrossEntropy.apply(hidden, weight, bias, targets)  # type: ignore[no-untyped-call]
    return loss


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        # exp2 is several times as fast as exp on a CPU: log2(e) goes into the weights.
        scale = math.log2(math.e)
        inputs = torch.cat([hidden, hidden.new_ones(len(hidden), 1)], dim=1)
        into = torch.cat([weight.t(), bias.unsqueeze(0)]) * scale
        reach = (inputs.abs().amax(dim=0) @ into.abs()).max()
        # Elsewhere the maximum of a row costs less than waiting for the answer.
        bounded = reach.device.type == "cpu" and bool(reach < SAFE)
        buffer = hidden.new_empty(ROWS, len(weight))
        returned, total = torch.empty_like(hidden), hidden.new_empty(len(hidden), 1)
        d_into, tops = torch.zeros_like(into), []
        for start in range(0, len(inputs), ROWS):
            rows = slice(start, start + ROWS)
            h = inputs[rows]
            weights = torch.mm(h, into, out=buffer[: len(h)])
            if not bounded:
                tops.append(weights.amax(dim=1))
                weights -= tops[-1].unsqueeze(1)
            weights.exp2_()
            torch.sum(weights, dim=1, keepdim=True, out=total[rows])
            torch.mm(weights, weight, out=returned[rows])
            # [H + 1, V] takes three fifths of the time of [V, H + 1].
            d_into.addmm_((h / total[rows]).t(), weights)
        own = weight.index_select(0, targets)
        chosen = (hidden * own).sum(dim=1) + bias.index_select(0, targets)
        log_total = total.squeeze(1).log()
        if not bounded:
            log_total = log_total + torch.cat(tops) / scale
        d_weight, d_bias = d_into[:-1].t().contiguous(), d_into[-1]
        ctx.save_for_backward(
            returned / total - own,
            d_weight.index_add(0, targets, hidden, alpha=-1),
            d_bias.index_add(0, targets, inputs[:, -1], alpha=-1),
        )
        return (log_total - chosen).sum()

    @staticmethod
    def backward(ctx: Any, sent: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, d_weight, d_bias = ctx.saved_tensors
        return d_hidden * sent, d_weight * sent, d_bias * sent, None

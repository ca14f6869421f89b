"""Negative log-likelihood of tokens at a large vocabulary, with its gradient in the same pass.

Written out plainly, logits, log-softmax, loss and their gradients are five passes over a matrix of
[rows, V], which no cache holds. Here a chunk of rows goes from logits to gradients before the next
one begins, and nothing of size [rows, V] is kept.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["summed_cross_entropy"]

ROWS = 256


def summed_cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """Return the sum over rows of -log softmax(hidden @ weight' + bias)[target].

    Differentiable once in hidden, weight and bias.

    Args:
      hidden: ``[m, H]``.
      weight: ``[V, H]``.
      bias: ``[V]``.
      targets: int64 ``[m]``.
    """
    found: Tensor = _CrossEntropy.apply(hidden, weight, bias, targets)  # type: ignore[no-untyped-call]
    return found


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        learning = any(ctx.needs_input_grad)
        # exp2 is several times as fast as exp on a CPU: log2(e) goes into the weights.
        scale = math.log2(math.e)
        by_input, offset = (weight * scale).t().contiguous(), bias * scale
        loss = hidden.new_zeros(())
        d_hidden = torch.empty_like(hidden)
        d_input, d_bias = torch.zeros_like(by_input), torch.zeros_like(bias)
        for start in range(0, len(hidden), ROWS):
            rows = slice(start, start + ROWS)
            h, target = hidden[rows], targets[rows].unsqueeze(1)
            logits = torch.addmm(offset, h, by_input)
            top = logits.amax(dim=1, keepdim=True)
            chosen = logits.gather(1, target)
            weights = logits.sub_(top).exp2_()
            total = weights.sum(dim=1, keepdim=True)
            loss += ((total.log2() + top - chosen) / scale).sum()
            if learning:
                d_logits = weights.div_(total)
                d_logits.scatter_add_(1, target, d_logits.new_full((1, 1), -1.0).expand_as(target))
                torch.mm(d_logits, weight, out=d_hidden[rows])
                d_input.addmm_(h.t(), d_logits)
                d_bias += d_logits.sum(dim=0)
        ctx.save_for_backward(d_hidden, d_input, d_bias)
        return loss

    @staticmethod
    def backward(ctx: Any, sent: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, d_input, d_bias = ctx.saved_tensors
        return d_hidden * sent, d_input.t() * sent, d_bias * sent, None

"""One stage of a batched LSTM on tokens, forward and backward, in buffers that are made once.

Columns are sequences (or prefixes that several share) and rows are units, so that every gate is a
contiguous block. Gates are in the order output, cell, forget, input: then input gate, old cell
and cell gate are neighbours too, and those are the factors of the gradients of cell, forget and
input gate. tanh(x) is 2 sigmoid(2x) - 1, because torch's sigmoid is three times as fast as its
tanh on CPUs without AVX-512; so what is stored is

    half_g = tanh(cell gate) / 2,  double_c = 2 cell,  half_tanh = tanh(cell) / 2,
    half_h = hidden / 2,

and the factors go into scaled copies of the weights. They are powers of two: nothing is rounded.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from estbench.training.prefixes import Stretch

__all__ = ["BACKWARD_SCALE", "FORWARD_SCALE", "GATES", "HIDDEN_SCALE", "Columns"]

GATES = ("o", "g", "f", "i")
FORWARD_SCALE = (1.0, 2.0, 1.0, 1.0)
"""By gate: what pre-activations are multiplied by, so that a sigmoid serves all four."""
BACKWARD_SCALE = (2.0, 4.0, 0.5, 2.0)
"""By gate: the gradient of a pre-activation over what ``gates_gradient`` stores."""
HIDDEN_SCALE = 2.0
"""The hidden state over what ``inputs`` stores."""

PADDING = 16  # columns between the rows of wide buffers, or their stride would thrash the cache
_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input


class _Step(NamedTuple):
    """Views of one position's buffers: rows of H units (or as said), n columns."""

    inputs: Tensor  # [rows, n], what the weights multiply
    gates: Tensor  # [4H, n]
    o: Tensor
    g: Tensor  # sigmoid of twice the cell gate's pre-activation
    f: Tensor
    i: Tensor
    double_c: Tensor  # from the position before
    half_g: Tensor
    factors: Tensor  # [3, H, n]: i, double_c, half_g
    next_double_c: Tensor
    sigmoid_c: Tensor  # sigmoid(2 cell) = (1 + tanh(cell)) / 2
    half_tanh: Tensor
    next_half_h: Tensor
    gates_gradient: Tensor  # [4H, n]


class Columns:
    """A stage of U updates: ``forward`` then ``backward``, update by update.

    Args:
      stage: Tokens and parents of its columns.
      hidden: Units H.
      rows: Rows of the weights: H recurrent, V input, two for the biases, and what fills up.
      vocabulary: Number of tokens V.

    Attributes:
      inputs: ``[rows, L * n]``: half_h, one-hot tokens and two rows of ones, of every position.
      gates_gradient: ``[4H, L * n]``, before ``BACKWARD_SCALE``.
      end: ``[2H, n]``: half_h and double_c after the last position.
      end_gradient: ``[2H, n]``: the loss's gradient with respect to hidden state and cell after
        the last position; ``backward`` leaves in it the gradient before the first one.
    """

    def __init__(self, stage: Stretch, hidden: int, rows: int, vocabulary: int) -> None:
        L, n, H, dtype = stage.steps, stage.width, hidden, stage.tokens.dtype
        self.tokens = stage.tokens.flatten(1)
        self.parents = stage.parents
        self.inputs = torch.zeros(rows, L * n + PADDING, dtype=dtype)[:, : L * n]
        self.inputs[H + vocabulary : H + vocabulary + 2] = 1
        self.one_hot = self.inputs[H : H + vocabulary]
        self.alphabet = torch.arange(vocabulary, dtype=dtype).unsqueeze(1)
        self.gates_gradient = torch.zeros(4 * H, L * n + PADDING, dtype=dtype)[:, : L * n]
        self.end, self.end_gradient = torch.zeros(2, 2 * H, n, dtype=dtype)
        self.product = torch.zeros(4 * H, n, dtype=dtype)
        self.dtanh = torch.zeros(H, n, dtype=dtype)
        self.half = torch.tensor(0.5, dtype=dtype)

        blocks = torch.zeros(L, 6 * H, n, dtype=dtype)
        self.start_half_h, self.start_double_c = self.inputs[:H, :n], blocks[0, 4 * H : 5 * H]
        halves_h = [*torch.split(self.inputs[:H], n, dim=1)[1:], self.end[:H]]
        doubles_c = [*blocks[1:, 4 * H : 5 * H], self.end[H:]]
        self.steps = [
            _Step(
                self.inputs[:, t * n : (t + 1) * n],
                block[: 4 * H],
                block[:H],
                block[H : 2 * H],
                block[2 * H : 3 * H],
                block[3 * H : 4 * H],
                block[4 * H : 5 * H],
                block[5 * H :],
                block[3 * H :].view(3, H, n),
                doubles_c[t],
                torch.zeros(H, n, dtype=dtype),
                torch.zeros(H, n, dtype=dtype),
                halves_h[t],
                self.gates_gradient[:, t * n : (t + 1) * n],
            )
            for t, block in enumerate(blocks)
        ]

    def forward(self, update: int, before: Columns | None, weight: Tensor) -> None:
        """Fill ``end``, starting from zeros or from the columns of the stage before.

        Args:
          update: Which of the U updates.
          before: The stage before, already advanced; None for the first.
          weight: ``[4H, rows]``, times ``FORWARD_SCALE`` and ``HIDDEN_SCALE``.
        """
        # A comparison of floats written as floats: several times faster than any other one-hot.
        torch.eq(self.tokens[update], self.alphabet, out=self.one_hot)
        if before is not None and self.parents is not None:
            H, parents = self.dtanh.shape[0], self.parents[update]
            torch.index_select(before.end[:H], 1, parents, out=self.start_half_h)
            torch.index_select(before.end[H:], 1, parents, out=self.start_double_c)
        for s in self.steps:
            torch.mm(weight, s.inputs, out=s.gates)
            s.gates.sigmoid_()
            torch.sub(s.g, self.half, out=s.half_g)
            torch.mul(s.f, s.double_c, out=s.next_double_c).addcmul_(s.i, s.half_g, value=4)
            torch.sigmoid(s.next_double_c, out=s.sigmoid_c)
            torch.sub(s.sigmoid_c, self.half, out=s.half_tanh)
            torch.mul(s.o, s.half_tanh, out=s.next_half_h)

    def backward(self, update: int, before: Columns | None, weight: Tensor) -> None:
        """Fill ``gates_gradient`` from ``end_gradient``, and that of the stage before.

        Args:
          update: Which of the U updates.
          before: The stage before; None for the first.
          weight: Recurrent weights ``[H, 4H]``, times ``BACKWARD_SCALE``.
        """
        H = self.dtanh.shape[0]
        dh, dc = self.end_gradient[:H], self.end_gradient[H:]
        each_dc, product, dtanh = dc.unsqueeze(0), self.product, self.dtanh
        product_o, product_gfi = product[:H], product[H:].view(3, H, -1)
        for t in range(len(self.steps) - 1, -1, -1):
            s = self.steps[t]
            torch.mul(dh, s.o, out=dtanh)
            _sigmoid_backward(dtanh, s.sigmoid_c, grad_input=dtanh)
            dc.add_(dtanh, alpha=4)
            torch.mul(dh, s.half_tanh, out=product_o)
            torch.mul(s.factors, each_dc, out=product_gfi)
            _sigmoid_backward(product, s.gates, grad_input=s.gates_gradient)
            if t or before is not None:
                dc.mul_(s.f)
                torch.mm(weight, s.gates_gradient, out=dh)
        if before is not None and self.parents is not None:
            before.end_gradient.zero_().index_add_(1, self.parents[update], self.end_gradient)

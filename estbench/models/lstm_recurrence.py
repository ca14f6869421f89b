"""An LSTM recurrence whose gradient with respect to its gates is exposed.

Per-draw gradients need, at every step, the gradient of the gates' pre-activations; a fused LSTM
does not give it away. Here the input's share of the pre-activations is an argument, so that the
gradient with respect to it *is* that quantity. The backward pass is written out by hand (fewer
and larger operations than autograd's), and so is its own derivative with respect to the incoming
gradient, which is what the training of a learned control variate differentiates. Second
derivatives with respect to inputs and weights go through a plain loop instead: slower, as exact.

Gates are in torch's order: input, forget, cell, output.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["LSTMRecurrence"]

Outputs = tuple[Tensor, Tensor, Tensor]


class LSTMRecurrence(nn.Module):
    """The part of an LSTM layer that goes from step to step.

    Args:
      hidden: Width H.
      dtype: Floating-point type.
    """

    def __init__(self, hidden: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(4 * hidden, hidden, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(4 * hidden, dtype=dtype))
        bound = 1 / math.sqrt(hidden)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, gates: Tensor, hidden: Tensor, cell: Tensor, truncation: int = 0) -> Outputs:
        """Return hidden states ``[n, T, H]``, cell states ``[n, T, H]`` and the last cell.

        Args:
          gates: The input's share of the pre-activations, ``[n, T, 4H]``.
          hidden: Hidden state before the first step, ``[n, H]``.
          cell: Cell state before the first step, ``[n, H]``.
          truncation: No gradient passes from step t to t - 1 where t is a positive multiple of
            this; 0 for full backpropagation through time.

        Under autocast the recurrence is still computed in the type of its weights.
        """
        kind = gates.device.type
        if torch.is_autocast_enabled(kind):
            with torch.autocast(kind, enabled=False):
                gates, hidden, cell = (x.to(self.weight.dtype) for x in (gates, hidden, cell))
                return self.forward(gates, hidden, cell, truncation)
        if torch.is_grad_enabled():
            weight, bias = self.weight.view_as(self.weight), self.bias.view_as(self.bias)
            hs, cs = _Forward.apply(gates, weight, bias, hidden, cell, truncation)  # type: ignore[no-untyped-call]
        else:
            hs, cs = plain(gates, self.weight, self.bias, hidden, cell, truncation)
        return hs, cs, cs[:, -1]


def plain(
    gates: Tensor, weight: Tensor, bias: Tensor, hidden: Tensor, cell: Tensor, truncation: int
) -> tuple[Tensor, Tensor]:
    """The recurrence as anybody would write it: the definition that the rest is checked against."""
    H = hidden.shape[-1]
    hs, cs = [], []
    for t in range(gates.shape[1]):
        if truncation and t and t % truncation == 0:
            hidden, cell = hidden.detach(), cell.detach()
        a = torch.addmm(gates[:, t] + bias, hidden, weight.t())
        i, f = a[:, : 2 * H].sigmoid().chunk(2, dim=1)
        g, o = a[:, 2 * H : 3 * H].tanh(), a[:, 3 * H :].sigmoid()
        cell = torch.addcmul(f * cell, i, g)
        hidden = o * cell.tanh()
        hs.append(hidden)
        cs.append(cell)
    return torch.stack(hs, dim=1), torch.stack(cs, dim=1)


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        gates: Tensor,
        weight: Tensor,
        bias: Tensor,
        hidden: Tensor,
        cell: Tensor,
        truncation: int,
    ) -> tuple[Tensor, Tensor]:
        n, T, H = gates.shape[0], gates.shape[1], hidden.shape[-1]
        # tanh(x) = 2 sigmoid(2x) - 1: one call serves all four gates, and the sigmoid is faster.
        double = bias.new_ones(4 * H)
        double[2 * H : 3 * H] = 2.0
        a = gates.new_empty(T, n, 4 * H)
        torch.add(gates.transpose(0, 1), bias, out=a).mul_(double)
        hs = gates.new_empty(T + 1, n, H)
        cs = gates.new_empty(T + 1, n, H)
        tanh_c = gates.new_empty(T, n, H)
        hs[0], cs[0] = hidden, cell
        wt = (weight * double.unsqueeze(1)).t()
        for t in range(T):
            at = a[t].addmm_(hs[t], wt).sigmoid_()
            g = at[:, 2 * H : 3 * H].mul_(2).sub_(1)
            c = torch.mul(at[:, H : 2 * H], cs[t], out=cs[t + 1]).addcmul_(at[:, :H], g)
            torch.mul(c, 2, out=tanh_c[t]).sigmoid_().mul_(2).sub_(1)
            torch.mul(at[:, 3 * H :], tanh_c[t], out=hs[t + 1])
        ctx.save_for_backward(gates, weight, bias, hidden, cell)
        ctx.saved = (a, hs, cs, tanh_c)
        ctx.truncation = truncation
        return hs[1:].transpose(0, 1), cs[1:].transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, grad_h: Tensor, grad_c: Tensor) -> tuple[Tensor | None, ...]:
        grads = _Backward.apply(  # type: ignore[no-untyped-call]
            grad_h, grad_c, *ctx.saved_tensors, ctx.saved, ctx.truncation
        )
        return (*grads, None)


class _Backward(torch.autograd.Function):
    """The backward pass as a function of the incoming gradients, itself differentiable."""

    @staticmethod
    def forward(
        ctx: Any,
        grad_h: Tensor,
        grad_c: Tensor,
        gates: Tensor,
        weight: Tensor,
        bias: Tensor,
        hidden: Tensor,
        cell: Tensor,
        saved: tuple[Tensor, Tensor, Tensor, Tensor],
        truncation: int,
    ) -> tuple[Tensor, ...]:
        a, hs, cs, tanh_c = saved
        T, n, H = tanh_c.shape
        slope, through = _slopes(a, cs, tanh_c)
        delta = torch.empty_like(a)
        dh = grad_h.new_zeros(n, H)
        dc = grad_c.new_zeros(n, H)
        grad_h, grad_c = grad_h.transpose(0, 1), grad_c.transpose(0, 1)
        for t in reversed(range(T)):
            dh = dh + grad_h[t]
            dc = torch.addcmul(dc + grad_c[t], dh, through[t])
            torch.mul(
                dc.unsqueeze(1),
                slope[t, :, : 3 * H].view(n, 3, H),
                out=delta[t, :, : 3 * H].view(n, 3, H),
            )
            torch.mul(dh, slope[t, :, 3 * H :], out=delta[t, :, 3 * H :])
            if truncation and t and t % truncation == 0:
                dh, dc = torch.zeros_like(dh), torch.zeros_like(dc)
            else:
                dc = dc * a[t, :, H : 2 * H]
                dh = delta[t] @ weight
        flat = delta.reshape(T * n, 4 * H)
        ctx.save_for_backward(grad_h, grad_c, gates, weight, bias, hidden, cell)
        ctx.saved = (a, hs, slope, through)
        ctx.truncation = truncation
        ctx.set_materialize_grads(False)
        return (
            # A copy here, once, or one by each of those who use it.
            delta.transpose(0, 1).contiguous(),
            flat.t() @ hs[:-1].reshape(T * n, H),
            flat.sum(dim=0),
            dh,
            dc,
        )

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        grad_h, grad_c, gates, weight, bias, hidden, cell = ctx.saved_tensors
        if _wanted(ctx, range(2, 7)):
            return _by_autograd(
                (grad_h.transpose(0, 1), grad_c.transpose(0, 1), gates, weight, bias, hidden, cell),
                cotangents,
                ctx.needs_input_grad[:7],
                ctx.truncation,
            )
        a, hs, slope, through = ctx.saved
        v_delta, v_weight, v_bias, v_h, v_c = cotangents
        T, n, H = through.shape
        # The adjoint of the loop above, run in the order of time.
        e = torch.zeros_like(a) if v_delta is None else v_delta.transpose(0, 1).clone()
        if v_weight is not None:
            e += (hs[:-1].reshape(T * n, H) @ v_weight.t()).view(T, n, 4 * H)
        if v_bias is not None:
            e += v_bias
        out_h, out_c = torch.empty_like(through), torch.empty_like(through)
        p = through.new_zeros(n, H) if v_h is None else v_h
        q = through.new_zeros(n, H) if v_c is None else v_c
        wt = weight.t()
        for t in range(T):
            et = e[t]
            if ctx.truncation and t and t % ctx.truncation == 0:
                q = torch.zeros_like(q)
            else:
                et.addmm_(p, wt)
                q = q * a[t, :, H : 2 * H]
            et.mul_(slope[t])
            q = q + et[:, : 3 * H].view(n, 3, H).sum(dim=1)
            out_c[t] = q
            p = torch.addcmul(et[:, 3 * H :], q, through[t])
            out_h[t] = p
        return (out_h.transpose(0, 1), out_c.transpose(0, 1), *(None,) * 7)


def _wanted(ctx: Any, positions: range) -> bool:
    """Return whether the pass that is running needs the gradient of any of these inputs.

    ``needs_input_grad`` tells what could be asked for, not what is; the engine knows. Where torch
    does not say, the answer is yes: slower and as exact.
    """
    ask = getattr(torch._C, "_will_engine_execute_node", None)
    if ask is None:
        return any(ctx.needs_input_grad[i] for i in positions)
    nodes = [ctx.next_functions[i][0] for i in positions if ctx.needs_input_grad[i]]
    # The engine does not answer for leaves, which is why the module hands over views of its own.
    return any(hasattr(node, "variable") or ask(node) for node in nodes)


def _slopes(a: Tensor, cs: Tensor, tanh_c: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives of one step: d(cell or hidden)/d(pre-activations), and d(hidden)/d(cell)."""
    H = tanh_c.shape[-1]
    i, f, g, o = torch.split(a, H, dim=-1)
    # torch's own kernels for y (1 - y) times a factor and (1 - y^2) times a factor: one pass each.
    by_sigmoid, by_tanh = torch.ops.aten.sigmoid_backward, torch.ops.aten.tanh_backward
    slope = torch.empty_like(a)
    by_sigmoid(g, i, grad_input=slope[..., :H])
    by_sigmoid(cs[:-1], f, grad_input=slope[..., H : 2 * H])
    by_tanh(i, g, grad_input=slope[..., 2 * H : 3 * H])
    by_sigmoid(tanh_c, o, grad_input=slope[..., 3 * H :])
    return slope, by_tanh(o, tanh_c)


def _by_autograd(
    inputs: tuple[Tensor, ...],
    cotangents: tuple[Tensor | None, ...],
    needed: tuple[bool, ...],
    truncation: int,
) -> tuple[Tensor | None, ...]:
    """Second derivatives of everything, by differentiating the plain loop twice."""
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in inputs]
        gates, weight, bias, hidden, cell = leaves[2:]
        hs, cs = plain(gates, weight, bias, hidden, cell, truncation)
        first = torch.autograd.grad((hs, cs), leaves[2:], leaves[:2], create_graph=True)
        pairs = [
            (g, v)
            for g, v in zip(first, cotangents, strict=True)
            if v is not None and g.requires_grad
        ]
        wanted = [x for x, need in zip(leaves, needed, strict=True) if need]
        found = iter(
            torch.autograd.grad(
                [g for g, _ in pairs], wanted, [v for _, v in pairs], allow_unused=True
            )
        )
    return (*(next(found) if need else None for need in needed), None, None)

"""Torch's recurrent layers, unrolled: equal results, and pre-activations that can be tapped.

torch computes a whole ``nn.LSTM`` in one call and gives away no gradient from inside it. While a
tape listens these functions stand in for the layers' forward passes. What they do not cover
(both directions, packed sequences, projections, dropout that is active) they decline, and the
layer runs as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from estbench.meter.taps import Declined, Part, Record, Tap, affine_parts, require_gradient
from estbench.models.lstm_recurrence import LSTMRecurrence

__all__ = ["cell", "layers"]

States = tuple[Tensor, ...]
"""Hidden states ``[n, H]``; an LSTM's cell states beside them."""

with torch.device("meta"):  # weights are lent to it at every call
    _RECURRENCE = LSTMRecurrence(1)


class _Weights(NamedTuple):
    """One layer's parameters: for its input and for its hidden state, biases or None."""

    input: Tensor
    hidden: Tensor
    input_bias: Tensor | None
    hidden_bias: Tensor | None


_Run = Callable[[_Weights, Tensor, States, Record], tuple[Tensor, States]]
"""(weights, x [n, T, I], states, record) -> (hidden states [n, T, H], last states)."""


def layers(layer: nn.RNNBase, record: Record, input: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
    """Run ``nn.LSTM``, ``nn.GRU`` or ``nn.RNN``, one layer upon the other.

    States are ``[layers, n, H]``, whatever comes first.
    """
    kind = f"nn.{layer.mode.split('_')[0]}"
    if layer.bidirectional:
        raise Declined(f"{kind} in both directions has no rule")
    if layer.proj_size:
        raise Declined(f"{kind} with proj_size has no rule")
    if layer.dropout and layer.training and layer.num_layers > 1:
        raise Declined(f"{kind} with active dropout has no rule: policy.eval() turns it off")
    if not isinstance(input, Tensor) or input.dim() != 3:
        raise Declined(f"{kind} of packed sequences or of a single one has no rule")
    x = input if layer.batch_first else input.transpose(0, 1)
    run, count = _run_of(layer)
    states = _states(hx, count, x.new_zeros(layer.num_layers, x.shape[0], layer.hidden_size))
    last: list[States] = []
    for k in range(layer.num_layers):
        names = [f"weight_ih_l{k}", f"weight_hh_l{k}", f"bias_ih_l{k}", f"bias_hh_l{k}"]
        weights = _Weights(*(getattr(layer, name, None) for name in names))  # type: ignore[arg-type]
        x, after = run(weights, x, tuple(h[k] for h in states), record)
        last.append(after)
    joined = tuple(torch.stack(parts) for parts in zip(*last, strict=True))
    return x if layer.batch_first else x.transpose(0, 1), joined if count > 1 else joined[0]


def cell(layer: nn.RNNCellBase, record: Record, input: Tensor, hx: Any = None) -> Any:
    """Take one step of ``nn.LSTMCell``, ``nn.GRUCell`` or ``nn.RNNCell``."""
    if input.dim() != 2:
        raise Declined(f"nn.{type(layer).__name__} without a dimension of rows has no rule")
    run, count = _run_of(layer)
    states = _states(hx, count, input.new_zeros(input.shape[0], layer.hidden_size))
    weights = _Weights(layer.weight_ih, layer.weight_hh, layer.bias_ih, layer.bias_hh)
    after = run(weights, input.unsqueeze(1), states, record)[1]
    return after if count > 1 else after[0]


def _run_of(layer: nn.Module) -> tuple[_Run, int]:
    """Return what runs a layer, and how many states it has."""
    if isinstance(layer, nn.LSTM | nn.LSTMCell):
        return _lstm, 2
    if isinstance(layer, nn.GRU | nn.GRUCell):
        return _gru, 1
    return _elman(str(layer.nonlinearity)), 1


def _states(hx: Any, count: int, zeros: Tensor) -> States:
    if hx is None:
        return (zeros,) * count
    return (hx,) if isinstance(hx, Tensor) else tuple(hx)


def _lstm(w: _Weights, x: Tensor, states: States, record: Record) -> tuple[Tensor, States]:
    hidden, cell = states
    gates = functional.linear(x, w.input, w.input_bias)
    require_gradient(gates, w.hidden, w.hidden_bias)
    bias = gates.new_zeros(gates.shape[-1]) if w.hidden_bias is None else w.hidden_bias
    hs, _, cell = functional_call(
        _RECURRENCE, {"weight": w.hidden, "bias": bias}, (gates, hidden, cell)
    )
    # Both matrices and both biases are sent the same gradient.
    record(Tap(gates, (*affine_parts(w.input, w.input_bias, x), *_recurrent_parts(w, hidden, hs))))
    return hs, (hs[:, -1], cell)


def _gru(w: _Weights, x: Tensor, states: States, record: Record) -> tuple[Tensor, States]:
    (hidden,) = start = states
    inputs = functional.linear(x, w.input, w.input_bias)
    # What the state adds is sent another gradient than what the input adds: the reset gate stands
    # between. A zero that is added to it at every step makes it one tensor with one gradient.
    added = require_gradient(torch.zeros_like(inputs).detach(), w.hidden, w.hidden_bias)
    hs = []
    for a, zero in zip(inputs.unbind(1), added.unbind(1), strict=True):
        b = functional.linear(hidden, w.hidden, w.hidden_bias) + zero
        (a_reset, a_update, a_new), (b_reset, b_update, b_new) = a.chunk(3, 1), b.chunk(3, 1)
        new = torch.tanh(a_new + torch.sigmoid(a_reset + b_reset) * b_new)
        hidden = new + torch.sigmoid(a_update + b_update) * (hidden - new)
        hs.append(hidden)
    out = torch.stack(hs, dim=1)
    record(Tap(inputs, affine_parts(w.input, w.input_bias, x)))
    record(Tap(added, _recurrent_parts(w, start[0], out)))
    return out, (hidden,)


def _elman(nonlinearity: str) -> _Run:
    activate = torch.tanh if nonlinearity == "tanh" else torch.relu

    def run(w: _Weights, x: Tensor, states: States, record: Record) -> tuple[Tensor, States]:
        (hidden,) = start = states
        inputs = functional.linear(x, w.input, w.input_bias)
        require_gradient(inputs, w.hidden, w.hidden_bias)
        hs = []
        for a in inputs.unbind(1):
            hidden = activate(a + functional.linear(hidden, w.hidden, w.hidden_bias))
            hs.append(hidden)
        out = torch.stack(hs, dim=1)
        parts = affine_parts(w.input, w.input_bias, x)
        record(Tap(inputs, (*parts, *_recurrent_parts(w, start[0], out))))
        return out, (hidden,)

    return run


def _recurrent_parts(w: _Weights, start: Tensor, hs: Tensor) -> tuple[Part, ...]:
    """Return the parts of what acts on the hidden state before each step."""
    before = torch.cat([start.detach().unsqueeze(1), hs.detach()[:, :-1]], dim=1)
    return affine_parts(w.hidden, w.hidden_bias, before)

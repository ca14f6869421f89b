"""The recurrence: its hand-written derivatives are those of the loop anybody would write."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from estbench.models import lstm_recurrence as lstm
from estbench.models.lstm_recurrence import LSTMRecurrence, plain

N, T, H = 3, 5, 2
Outputs = tuple[Tensor, Tensor]


def inputs(seed: int = 0) -> list[Tensor]:
    noise = torch.Generator().manual_seed(seed)
    shapes = [(N, T, 4 * H), (4 * H, H), (4 * H,), (N, H), (N, H)]
    return [
        torch.randn(shape, generator=noise, dtype=torch.float64).requires_grad_()
        for shape in shapes
    ]


def by_hand(truncation: int) -> Callable[..., Outputs]:
    # Views, as the module hands over: torch's engine does not answer questions about leaves.
    def run(*given: Tensor) -> Outputs:
        outputs: Outputs = lstm._Forward.apply(*(x.view_as(x) for x in given), truncation)
        return outputs

    return run


@pytest.mark.parametrize("truncation", [0, 2])
def test_values_and_first_derivatives_equal_the_loops(truncation: int) -> None:
    given = inputs()
    mine, loops = by_hand(truncation)(*given), plain(*given, truncation)
    sent = [torch.randn_like(x) for x in loops]
    for a, b in zip(mine, loops, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)
    for a, b in zip(
        torch.autograd.grad(mine, given, sent), torch.autograd.grad(loops, given, sent), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


@pytest.mark.parametrize("truncation", [0, 2])
@pytest.mark.parametrize("wanted", ["sent", "inputs", "both"])
def test_second_derivatives_equal_the_loops(truncation: int, wanted: str) -> None:
    given = inputs(1)
    sent = [torch.randn(N, T, H, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    asked = {"sent": sent, "inputs": given, "both": [*sent, *given]}[wanted]
    found = []
    for function in (by_hand(truncation), lambda *x: plain(*x, truncation)):
        first = torch.autograd.grad(function(*given), given, sent, create_graph=True)
        noise = torch.Generator().manual_seed(2)
        weights = [torch.randn(g.shape, generator=noise, dtype=g.dtype) for g in first]
        total = sum((g**2 * w).sum() for g, w in zip(first, weights, strict=True))
        found.append(torch.autograd.grad(total, asked))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


def test_the_fast_second_derivative_runs_where_only_the_incoming_gradient_is_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Training a control variate needs no second derivative of the policy."""
    calls = []
    slow = lstm._by_autograd
    monkeypatch.setattr(lstm, "_by_autograd", lambda *a: calls.append(1) or slow(*a))
    layer = LSTMRecurrence(H, torch.float64)
    start = torch.zeros(N, H, dtype=torch.float64)
    gates = torch.randn(N, T, 4 * H, dtype=torch.float64, requires_grad=True)
    phi = torch.randn(N, T, H, dtype=torch.float64, requires_grad=True)
    parameters = [gates, layer.weight, layer.bias]

    def total() -> Tensor:
        hidden = layer(gates * 1, start, start)[0]
        grads = torch.autograd.grad(hidden, parameters, phi, create_graph=True)
        return sum((g**2).sum() for g in grads)

    torch.autograd.grad(total(), phi)
    assert not calls
    torch.autograd.grad(total(), [phi, gates])
    assert calls


def test_no_gradient_crosses_a_cut() -> None:
    given = inputs(3)
    hidden, _ = by_hand(2)(*given)
    (found,) = torch.autograd.grad(hidden[:, 3].sum(), given[0])
    assert float(found[:, :2].abs().sum()) == 0
    assert float(found[:, 2].abs().sum()) > 0

"""Per-draw gradients by one backward pass a draw: slow, for any policy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from estbench.estimators.base import Component, Surrogate
from estbench.meter.taps import at_least_float32

__all__ = ["gradients", "gram", "gram_by_tensor", "mean_squared_norm"]


def gradients(
    surrogate: Surrogate, parameters: Sequence[Tensor], names: Sequence[str]
) -> list[Tensor]:
    """Return the gradients of all draws, ``[n, *shape]`` for each parameter; the graph is kept."""
    rows = []
    for i, value in enumerate(surrogate.values):
        row = torch.autograd.grad(
            value, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        for term in surrogate.tensor_terms:
            part = term.component
            more = _draw(surrogate, i, part.weights.detach(), part.pathwise, parameters)
            factors = [term.coefficients.get(name, 0.0) for name in names]
            row = tuple(a + c * b for a, b, c in zip(row, more, factors, strict=True))
        rows.append(row)
    return [_widened(torch.stack(parts)) for parts in zip(*rows, strict=True)]


def gram(
    surrogate: Surrogate, components: Sequence[Component], parameters: Sequence[Tensor]
) -> Tensor:
    """See ``estbench.estimators.base.PerDrawGradients.gram``; the graph is kept."""
    found = []
    for i in range(surrogate.log_probs.shape[0]):
        rows = [_draw(surrogate, i, c.weights.detach(), c.pathwise, parameters) for c in components]
        stacked = _widened(torch.stack([torch.cat([g.flatten() for g in row]) for row in rows]))
        found.append(stacked @ stacked.t())
    return torch.stack(found)


def gram_by_tensor(
    surrogate: Surrogate, components: Sequence[Component], parameters: Sequence[Tensor]
) -> list[Tensor]:
    """See ``estbench.estimators.base.PerDrawGradients.gram_by_tensor``; the graph is kept."""
    found: list[list[Tensor]] = [[] for _ in parameters]
    for i in range(surrogate.log_probs.shape[0]):
        rows = [_draw(surrogate, i, c.weights.detach(), c.pathwise, parameters) for c in components]
        for tensor, parts in zip(found, zip(*rows, strict=True), strict=True):
            stacked = _widened(torch.stack([part.flatten() for part in parts]))
            tensor.append(stacked @ stacked.t())
    return [torch.stack(each) for each in found]


def mean_squared_norm(
    surrogate: Surrogate, weights: Tensor, pathwise: Tensor | None, parameters: Sequence[Tensor]
) -> Tensor:
    norms = []
    for i in range(surrogate.log_probs.shape[0]):
        row = _draw(surrogate, i, weights, pathwise, parameters, create_graph=True)
        norms.append(torch.stack([(_widened(g) ** 2).sum() for g in row]).sum())
    return torch.stack(norms).mean()


def _widened(gradient: Tensor) -> Tensor:
    return gradient.to(at_least_float32(gradient.dtype))


def _draw(
    surrogate: Surrogate,
    i: int,
    weights: Tensor,
    pathwise: Tensor | None,
    parameters: Sequence[Tensor],
    create_graph: bool = False,
) -> tuple[Tensor, ...]:
    outputs, sent = [surrogate.log_probs[i]], [weights[i]]
    if pathwise is not None:
        outputs.append(pathwise[i])
        sent.append(torch.ones_like(pathwise[i]))
    return torch.autograd.grad(
        outputs,
        parameters,
        sent,
        retain_graph=True,
        create_graph=create_graph,
        allow_unused=True,
        materialize_grads=True,
    )

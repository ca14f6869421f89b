"""The small networks of critics and learned control variates."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from estbench.models.control_variate import StateNetwork

T, V, F, N = 5, 4, 3, 6


def network(relaxed: bool, disturbed: bool = True) -> StateNetwork:
    generator = torch.Generator().manual_seed(0)
    found = StateNetwork(F, T, V, V if relaxed else 0, rng=generator).double()
    if disturbed:
        with torch.no_grad():
            for parameter in found.parameters():
                parameter += torch.randn(
                    parameter.shape, generator=generator, dtype=parameter.dtype
                )
    return found


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(N, T, F, generator=generator, dtype=torch.float64)
    tokens = torch.randint(V, (N, T), generator=generator)
    relaxed = torch.rand(N, T, V, generator=generator, dtype=torch.float64).softmax(dim=-1)
    return features, tokens, relaxed


@pytest.mark.parametrize("relaxed", [False, True])
def test_it_is_zero_at_the_start(relaxed: bool) -> None:
    features, tokens, seen = inputs()
    value = network(relaxed, disturbed=False)(features, tokens, seen if relaxed else None)
    assert torch.equal(value, torch.zeros(N, T, dtype=torch.float64))


@pytest.mark.parametrize("relaxed", [False, True])
@pytest.mark.parametrize("position", range(T))
def test_a_position_sees_the_tokens_before_it_and_no_other(relaxed: bool, position: int) -> None:
    features, tokens, seen = inputs()
    given = seen if relaxed else None
    made = network(relaxed)
    before = made(features, tokens, given)
    changed = tokens.clone()
    changed[:, position] = (changed[:, position] + 1) % V
    after = made(features, changed, given)
    assert torch.equal(after[:, : position + 1], before[:, : position + 1])
    if position + 1 < T:
        assert ((after - before)[:, position + 1 :].abs() > 1e-6).all()


def test_a_position_sees_its_own_relaxed_token_and_no_other() -> None:
    features, tokens, seen = inputs()
    seen.requires_grad_()
    value = network(relaxed=True)(features, tokens, seen)
    for t in range(T):
        (slope,) = torch.autograd.grad(value[:, t].sum(), seen, retain_graph=True)
        others = [s for s in range(T) if s != t]
        assert bool((slope[:, t] != 0).all())
        assert not slope[:, others].any()


def test_the_scores_learn_an_additive_value_from_few_sequences() -> None:
    """Least squares against what the prefix has earned: the first updates must find most of it."""
    generator = torch.Generator().manual_seed(2)
    truth = torch.randn(T, V, generator=generator, dtype=torch.float64)
    made = network(relaxed=False, disturbed=False)
    optimiser = made.optimiser(1e-2, scores=5e-2)
    errors = []
    for _ in range(60):
        tokens = torch.randint(V, (128, T), generator=generator)
        features = torch.randn(128, T, F, generator=generator, dtype=torch.float64)
        earned = truth[torch.arange(T), tokens]
        target = earned.cumsum(dim=1) - earned - (truth.mean(dim=1).cumsum(0) - truth.mean(dim=1))
        loss = ((made(features, tokens) - target) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        errors.append(float(loss.detach()))
    assert errors[-1] < 0.05 * errors[0]

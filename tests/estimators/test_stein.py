"""Stein operators and double control variates: means of 0 by enumeration, and variances of 0."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from estbench.estimators.double_cv import DoubleControl
from estbench.estimators.stein import (
    Rodeo,
    _kernel,
    _spread,
    neighbours,
    others,
    score_neighbours,
)
from estbench.meter.exact import enumerate_sequences
from estbench.meter.gradients import Tape
from estbench.models.sequence_network import SequenceNetwork
from estbench.proof.problems import Problem, named, tiny
from estbench.proof.rewards import rng


def log_p(given: Problem, sequences: Tensor) -> Tensor:
    flat = sequences.reshape(-1, given.policy.length)
    found = given.policy.log_probs(flat).gather(2, flat.unsqueeze(2)).sum(dim=(1, 2))
    return found.reshape(sequences.shape[:-1])


def test_neighbours_differ_at_one_position() -> None:
    tokens = torch.tensor([[0, 2, 1]])
    found = neighbours(tokens, 3)
    assert found.shape == (1, 3, 2, 3)
    rows = {tuple(row) for row in found.reshape(-1, 3).tolist()}
    assert len(rows) == 6
    assert all(sum(a != b for a, b in zip(row, (0, 2, 1), strict=True)) == 1 for row in rows)


def test_neighbours_are_scored_by_what_differs() -> None:
    given = tiny()
    T, V = given.policy.length, given.policy.vocabulary
    sequences = enumerate_sequences(V, T)
    own, rest = score_neighbours(given.policy, sequences)
    chosen = own.gather(2, sequences.unsqueeze(2)).squeeze(2)
    before = chosen.cumsum(dim=1) - chosen
    found = before.unsqueeze(2) + own.gather(2, others(sequences, V)) + rest
    torch.testing.assert_close(found, log_p(given, neighbours(sequences, V)))


def test_the_stein_operator_has_mean_zero_for_any_function() -> None:
    """Of a number h and of the vector h grad log p, by enumeration of all sequences."""
    given = tiny()
    T, V = given.policy.length, given.policy.vocabulary
    sequences = enumerate_sequences(V, T)
    all_ = torch.cat([sequences.unsqueeze(1), neighbours(sequences, V).flatten(1, 2)], dim=1)
    h = torch.randn(len(sequences), generator=rng(3), dtype=torch.float64)
    index = (all_ * torch.tensor([V**2, V, 1])).sum(dim=2)
    own, rest = score_neighbours(given.policy, sequences)
    weights = _kernel(own.detach(), rest.detach(), sequences) * h[index]
    p = log_p(given, sequences).detach().exp()
    assert float(p.sum()) == pytest.approx(1)
    assert abs(float(p @ weights.sum(dim=1))) < 1e-14
    scored = torch.cat([own.flatten(1), rest.flatten(1)], dim=1)
    spread = _spread(weights.unsqueeze(1), sequences.unsqueeze(1), V)
    # The same number, of which the one is written as log p of whole sequences.
    for_one = (scored * spread).sum(dim=1)
    torch.testing.assert_close(for_one, (log_p(given, all_) * weights).sum(dim=1))
    gradient = torch.autograd.grad((p * for_one).sum(), list(given.policy.parameters()))
    assert max(float(g.abs().max()) for g in gradient) < 1e-14
    # A function and a kernel that were always 0 would pass as well.
    assert float(weights.abs().mean()) > 0.1


class Known(nn.Module):
    """The reward itself in the network's place."""

    def __init__(self, given: Problem) -> None:
        super().__init__()
        self.given = given

    def forward(self, tokens: Tensor) -> Tensor:
        flat = tokens.reshape(-1, tokens.shape[-1])
        found: Tensor = self.given.reward(flat).reshape(tokens.shape[:-1])
        return found


@pytest.mark.parametrize("kind", ["linear", "quadratic", "rough"])
def test_rodeo_with_the_reward_as_h_has_the_exact_gradient_of_one_token(kind: str) -> None:
    """The operator then averages over all tokens: no variance is left."""
    given = named(f"categorical-{kind}")
    method = Rodeo()
    state = method.initial_state(given.policy, rng())
    state["network"] = Known(given)
    state["coefficients"]["values"] = (1.0, 1.0)
    with Tape(given.policy) as tape:
        surrogate = method.surrogate(given.policy, given.reward, 40, rng(), state)
    rows = torch.cat(list(tape.differentiate(surrogate).chunks()))
    truth = torch.cat([g.flatten() for g in given.gradient])
    torch.testing.assert_close(rows, truth.expand_as(rows), atol=1e-13, rtol=0)


@pytest.mark.parametrize("method", [Rodeo(), DoubleControl()])
def test_without_coefficients_both_are_leave_one_out(method: Rodeo | DoubleControl) -> None:
    given = tiny()
    state = method.initial_state(given.policy, rng())
    with Tape(given.policy) as tape:
        surrogate = method.surrogate(given.policy, given.reward, 6, rng(), state)
    rows = torch.cat(list(tape.differentiate(surrogate).chunks()))
    with Tape(given.policy) as tape:
        chosen = log_p(given, surrogate.tokens)
    rewards = surrogate.rewards
    weights = (rewards - rewards.mean(dim=1, keepdim=True)) / (rewards.shape[1] - 1)
    expected = [
        torch.autograd.grad(value, tape.parameters, retain_graph=True)
        for value in (chosen * weights).sum(dim=1)
    ]
    truth = torch.stack([torch.cat([g.flatten() for g in parts]) for parts in expected])
    torch.testing.assert_close(rows, truth, atol=1e-13, rtol=0)


def test_double_control_has_no_variance_for_a_linear_reward_of_one_token() -> None:
    given = named("categorical-linear")
    method = DoubleControl()
    state = method.initial_state(given.policy, rng())
    state["coefficients"]["values"] = (1.0,)
    with Tape(given.policy) as tape:
        surrogate = method.surrogate(given.policy, given.reward, 40, rng(), state)
    rows = torch.cat(list(tape.differentiate(surrogate).chunks()))
    truth = torch.cat([g.flatten() for g in given.gradient])
    torch.testing.assert_close(rows, truth.expand_as(rows), atol=1e-13, rtol=0)


def test_rodeo_refuses_more_neighbours_than_it_can_score() -> None:
    assert Rodeo().refusal(5, 15) == ""
    said = Rodeo().refusal(5000, 20)
    assert said.startswith("rodeo scores T(V - 1) = 99,980 neighbours of every sequence")


def test_a_sequence_network_begins_at_zero_and_learns_every_tensor() -> None:
    network = SequenceNetwork(3, 4, rng()).double()
    tokens = torch.randint(3, (64, 5, 4), generator=rng(1))
    assert not bool(network(tokens).any())
    optimiser = network.optimiser(1e-2, 1e-2)
    target = tokens.double().prod(dim=-1)
    before = [p.detach().clone() for p in network.parameters()]
    first = float(target.square().mean())
    for _ in range(60):
        loss = nn.functional.mse_loss(network(tokens), target)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    assert float(loss.detach()) < 0.2 * first
    assert all(not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))

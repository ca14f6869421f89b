"""A policy that the meter cannot read is measured draw by draw to the last chunk."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from estbench.cli.checks import Progress
from estbench.estimators import make
from estbench.estimators.base import Component, Surrogate, TensorTerm
from estbench.meter import measuring, notices, rules
from estbench.meter.exact import exact
from estbench.meter.gradients import Tape
from estbench.meter.moments import Reference
from estbench.models.lstm_generator import Generator
from estbench.models.policy import Policy
from estbench.models.reward import FunctionReward


class Independent(Policy):
    """Independent tokens from one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.vocabulary, self.length = 3, 2
        self.linear = nn.Linear(1, 3, dtype=torch.float64)
        with torch.no_grad():
            for p in self.linear.parameters():
                p.normal_(0, 0.6, generator=torch.Generator().manual_seed(1))

    def initial_state(self, n: int) -> Tensor:
        return torch.ones(n, 1, dtype=torch.float64)

    def step(self, previous: Tensor | None, state: Tensor) -> tuple[Tensor, Any]:
        return self.logits(state).log_softmax(dim=1), state

    def logits(self, state: Tensor) -> Tensor:
        return self.linear(state)


class Scaled(Independent):
    """Its scale is a parameter that no layer of the meter's rules holds."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64))

    def logits(self, state: Tensor) -> Tensor:
        return self.linear(state) * self.scale


def reward() -> FunctionReward:
    return FunctionReward(lambda tokens: tokens.double().sum(dim=1) - 2)


def by_loop(policy: Policy) -> tuple[Tensor, Tensor]:
    """Return probabilities and f(b) S for all nine sequences, one backward pass each."""
    every = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    log_p = policy.log_probs(every).gather(2, every.unsqueeze(2)).sum(dim=(1, 2))
    f, parameters = reward()(every), list(policy.parameters())
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(x, parameters, retain_graph=True)])
        for x in log_p
    ]
    return log_p.exp().detach(), f.unsqueeze(1) * torch.stack(rows)


def test_exact_moments_of_a_policy_without_rules() -> None:
    policy = Scaled()
    p, draws = by_loop(policy)
    found = exact(policy, reward(), chunk=4)
    mean = p @ draws
    variance = float(p @ (draws**2).sum(dim=1) - (mean**2).sum())
    assert found.reinforce_variance(0.0) == pytest.approx(variance)


def test_every_chunk_of_a_measurement_goes_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "CHUNK", 64)
    policy = Scaled()
    truth = exact(policy, reward())
    method, rng = make("reinforce"), torch.Generator().manual_seed(0)
    state = method.initial_state(policy, rng)
    row = measuring.measure(
        method, policy, reward(), 1024, rng, state, Reference(truth.gradient, 0.0)
    )
    assert "scale" in row["info"]["meter_fault"]
    assert row["by_tensor"]["scale"] > 0
    assert row["variance_low"] < truth.reinforce_variance(0.0) < row["variance_high"]
    assert sum(row["by_tensor"].values()) == pytest.approx(row["total_variance"], rel=1e-6)


class Shortcut(Independent):
    """It computes short batches without calling its layer."""

    def logits(self, state: Tensor) -> Tensor:
        if len(state) >= 64:
            return self.linear(state)
        return state @ self.linear.weight.t() + self.linear.bias


def test_a_fault_of_the_last_chunk_alone_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "CHUNK", 64)
    rows = []
    for policy in (Shortcut(), Independent()):
        truth, rng = exact(policy, reward(), chunk=4), torch.Generator().manual_seed(0)
        method, reference = make("reinforce"), Reference(truth.gradient, 0.0)
        state = method.initial_state(policy, rng)
        rows.append(measuring.measure(method, policy, reward(), 80, rng, state, reference))
    assert rows[0]["info"]["meter_fault"].startswith("linear.weight: the draws do not add up")
    for column in ("draws", "total_variance", "relative_bias", "hard_evals_per_draw"):
        assert rows[0][column] == pytest.approx(rows[1][column], rel=1e-9), column


def test_an_enumeration_whose_last_chunk_has_a_fault_is_right() -> None:
    policy = Shortcut()
    policy.length = 4  # 81 sequences: a whole chunk and one that is short
    found, expected = exact(policy, reward(), chunk=64), exact(policy, reward(), chunk=81)
    assert found.score_moment == pytest.approx(expected.score_moment, rel=1e-9)


class Shift(nn.Module):
    """Adds a number."""

    def __init__(self) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.by


class Shifted(Independent):
    def __init__(self) -> None:
        super().__init__()
        self.shift = Shift()

    def logits(self, state: Tensor) -> Tensor:
        return self.shift(self.linear(state)) ** 3  # a sum alone would not move the softmax


def test_a_rule_that_does_not_fit_a_scalar_leaves_the_draws_to_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its own rule says that the gradient is the sum over rows: three numbers, not one."""

    def rule(layer: Shift, inputs: Any, output: Tensor) -> rules.Tap:
        return rules.Tap(output, (rules.Part(layer.by, None),))

    monkeypatch.setitem(rules.RULES, Shift, rule)
    policy = Shifted()
    found = exact(policy, reward())
    p, draws = by_loop(policy)
    torch.testing.assert_close(
        torch.cat([g.flatten() for g in found.gradient]), p @ draws, atol=1e-9, rtol=1e-9
    )
    mean = p @ draws
    variance = float(p @ (draws**2).sum(dim=1) - (mean**2).sum())
    assert found.reinforce_variance(0.0) == pytest.approx(variance)


def test_weights_that_all_but_cancel_are_no_fault() -> None:
    """As those of a control variate that fits: little is left beside the weights' rounding."""
    noise = torch.Generator().manual_seed(3)
    policy = Generator(5, 15).initialise("uniform", 0.3, noise)
    tokens = policy.sample(512, noise)
    with Tape(policy) as tape:
        log_probs = policy.log_probs(tokens)
    remainder = torch.randn(log_probs.shape, generator=noise)
    # The scores of all tokens, weighted by their probabilities, add up to nothing.
    weights = 0.7 * log_probs.detach().exp() + 1e-4 * remainder
    surrogate = Surrogate(
        log_probs.flatten(1), weights.flatten(1), tokens.unsqueeze(1), torch.zeros(512, 1)
    )
    tape.differentiate(surrogate)
    assert tape.fault == ""


def test_terms_that_all_but_cancel_are_no_fault() -> None:
    """Where a coefficient a tensor fits well, the sum of the terms is small beside each of them."""
    noise = torch.Generator().manual_seed(3)
    policy = Generator(5, 15).initialise("uniform", 0.3, noise)
    tokens = policy.sample(512, noise)
    with Tape(policy) as tape:
        log_probs = policy.log_probs(tokens).flatten(1)
    weights = torch.randn(log_probs.shape, generator=noise)
    alike = weights * (1 + 1e-6 * torch.randn(weights.shape, generator=noise))
    term = TensorTerm(Component("relaxed", alike), dict.fromkeys(tape.names, -1.0))
    surrogate = Surrogate(
        log_probs, weights, tokens.unsqueeze(1), torch.zeros(512, 1), tensor_terms=(term,)
    )
    tape.differentiate(surrogate)
    assert tape.fault == ""


def slow() -> notices.Slow:
    return notices.Slow("positions (Embedding)", "all rows share one call of it", "mend it", 0.3)


def test_a_worker_says_at_once_why_it_is_slow_and_each_estimator_once() -> None:
    told, heard = [], threading.Event()

    def tell(estimator: str, notice: notices.Slow) -> None:
        told.append((estimator, notice.where))
        heard.set()

    with notices.relayed(tell) as address:
        for estimator in ("one", "one", "two"):
            with notices.sending(address, estimator):
                for _ in range(2):
                    notices.announce("positions", "shared", "mend it", lambda: 0.1)
        assert heard.wait(5)  # before the work ends
    assert told == [("one", "positions"), ("two", "positions")]


def test_the_check_shows_it_as_one_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    Progress(quiet=False).slow("mine", slow())
    assert capsys.readouterr().err == (
        "mine: slow: positions (Embedding): all rows share one call of it, so each draw is "
        "differentiated by itself, about 5 min for 1000 draws. Faster: mend it\n"
    )


def test_nobody_listens_and_nothing_is_said(recwarn: pytest.WarningsRecorder) -> None:
    exact(Scaled(), reward(), chunk=4)
    assert not recwarn


def test_a_rule_that_fails_leaves_the_draws_to_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> Any:
        raise RuntimeError("no such shape")

    monkeypatch.setitem(rules.RULES, nn.Linear, broken)
    policy = Scaled()
    with Tape(policy) as tape:
        policy.log_probs(torch.zeros(1, 2, dtype=torch.int64))
    assert tape.declined["linear"] == "the rule for Linear failed with RuntimeError: no such shape"
    found = exact(policy, reward())
    p, draws = by_loop(policy)
    torch.testing.assert_close(
        torch.cat([g.flatten() for g in found.gradient]), p @ draws, atol=1e-9, rtol=1e-9
    )

"""What a step gains, against enumeration written out by hand and the theory of small steps."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from estbench import estimators
from estbench.estimators.base import Surrogate
from estbench.estimators.score_function import LeaveOneOut
from estbench.meter.gains import Gains, gradient_blocks, moved, parameters
from estbench.meter.progress import Z95, Adam, Ground, Source, exact_steps, progress
from estbench.models.enumeration import enumerate_sequences
from estbench.models.factorised import FactorisedPolicy
from estbench.models.policy import Policy
from estbench.models.reward import FunctionReward
from estbench.proof.problems import Problem, tiny
from estbench.proof.rewards import rng
from tests.tasks import tiny_autoencoder

RATE = 0.05


def hand_enumerated(problem: Problem) -> float:
    """Return J, a sum over all sequences of the product of their tokens' probabilities."""
    policy, total = problem.policy, 0.0
    every = enumerate_sequences(policy.vocabulary, policy.length)
    with torch.no_grad():
        p = policy.log_probs(every).exp().tolist()
    for x, rows, reward in zip(every.tolist(), p, problem.reward(every).tolist(), strict=True):
        total += math.prod(row[token] for row, token in zip(rows, x, strict=True)) * reward
    return total


def fresh_adam(policy: Policy, rate: float = RATE) -> Adam:
    return Adam.resumed(None, parameters(policy), rate)


def ground(problem: Problem, rates: tuple[float, ...] = (1.0,), rate: float = RATE) -> Ground:
    policy, reward = problem.policy, problem.reward
    adam = fresh_adam(policy, rate)
    steps = exact_steps(policy, reward, adam, rates, 64, rng(1))
    return Ground.made(Gains(policy, reward, 64, rng(2)), steps, adam)


def source(name: str, problem: Problem, seed: int = 3) -> Source:
    method = estimators.make(name)
    learned = method.initial_state(problem.policy, rng(0))
    return Source(method, problem.policy, problem.reward, learned, rng(seed))


def cell(rows: list[dict], **chosen: object) -> dict:
    (found,) = (row for row in rows if all(row[k] == v for k, v in chosen.items()))
    return found


class TestGains:
    def test_the_gain_of_the_exact_step_is_that_of_enumeration_by_hand(self) -> None:
        problem = tiny()
        for exact in ground(problem, (0.25, 1.0)).steps:
            before = hand_enumerated(problem)
            with moved(problem.policy, exact.moved):
                after = hand_enumerated(problem)
            assert exact.gain == pytest.approx(after - before, rel=1e-9)
            assert exact.error == 0.0

    def test_sampled_sequences_give_the_same_within_their_noise(self) -> None:
        problem = tiny()
        step = 0.3 * gradient_blocks(problem.policy, problem.reward, 64, rng())[0]
        truth = Gains(problem.policy, problem.reward, 64, rng())(step).value
        sampled = Gains(problem.policy, problem.reward, 8192, rng(), listed=False)
        found = sampled(step)
        # To first order the sample says what its own gradient says; the rest is what is left.
        first = float(step @ sampled.gradient())
        exact_first = float(step @ gradient_blocks(problem.policy, problem.reward, 64, rng())[0])
        rest = found.value - first
        assert rest == pytest.approx(truth - exact_first, abs=5 * found.error)
        assert found.error < 0.1 * truth

    def test_where_weights_are_useless_sequences_are_drawn_again(self) -> None:
        problem = tiny()
        step = 40 * gradient_blocks(problem.policy, problem.reward, 64, rng())[0]
        truth = Gains(problem.policy, problem.reward, 64, rng())(step).value
        found = Gains(problem.policy, problem.reward, 4096, rng(5), listed=False)(step)
        assert found.drawn_again
        assert found.value == pytest.approx(truth, abs=4 * found.error)

    def test_counters_and_parameters_are_left_alone(self) -> None:
        problem = tiny()
        here = parameters(problem.policy)
        evals = problem.reward.hard_evals
        Gains(problem.policy, problem.reward, 64, rng())(torch.ones_like(here))
        assert torch.equal(parameters(problem.policy), here)
        assert problem.reward.hard_evals == evals

    @pytest.mark.parametrize("listed", [True, False])
    def test_of_an_autoencoder_it_is_the_bound_that_rises(self, listed: bool) -> None:
        """The reward holds -log q, and so changes with the encoder."""
        reward = tiny_autoencoder.tiny(3)
        before = tiny_autoencoder.bound(reward).mean()
        gains = Gains(reward.encoder, reward, 6000, rng(1), listed=listed)
        step = 0.2 * gradient_blocks(reward.encoder, reward, 64, rng())[0]
        found = gains(step)
        with moved(reward.encoder, step):
            after = tiny_autoencoder.bound(reward).mean()
        noise = 0.0 if listed else 0.08 * float((after - before).detach())
        assert found.value == pytest.approx(float(after - before), rel=1e-9, abs=noise)


class TestOptimisers:
    def test_adam_is_torch_s(self) -> None:
        weight = torch.nn.Parameter(torch.randn(7, generator=rng()))
        theirs = torch.optim.Adam([weight], lr=0.01)
        mine = Adam.resumed(None, weight.detach(), 0.01)
        here = weight.detach().clone()
        for seed in range(6):
            gradient = torch.randn(7, generator=rng(seed))
            weight.grad = -gradient
            theirs.step()
            delta, mine = mine.step(gradient)
            here += delta
            torch.testing.assert_close(here, weight.detach(), rtol=1e-6, atol=1e-7)

    def test_it_goes_on_from_what_a_snapshot_keeps(self) -> None:
        from estbench.meter.adam import moments_of

        weight = torch.nn.Parameter(torch.zeros(3))
        theirs = torch.optim.Adam([weight], lr=0.1)
        policy = torch.nn.ParameterList([weight])
        assert moments_of(theirs, policy) is None
        for seed in range(3):
            weight.grad = torch.randn(3, generator=rng(seed))
            theirs.step()
        mine = Adam.resumed(moments_of(theirs, policy), weight.detach(), 0.5)
        here = weight.detach().clone()
        weight.grad = torch.tensor([1.0, -2.0, 0.5])
        theirs.step()
        delta, _ = mine.step(torch.tensor([-1.0, 2.0, -0.5]))
        torch.testing.assert_close(here + delta, weight.detach())

    def test_sgd_s_step_is_as_long_as_adam_s(self) -> None:
        steps = ground(tiny()).steps
        sgd, adam = (next(s for s in steps if s.optimiser == o) for o in ("sgd", "adam"))
        assert float(sgd.moved.norm()) == pytest.approx(float(adam.moved.norm()))


def three_coins() -> tuple[FactorisedPolicy, FunctionReward]:
    """Return three independent coins, a logit each, and a reward of how they fall together."""
    policy = FactorisedPolicy(2, 3, bias=False, dtype=torch.float64)
    with torch.no_grad():
        policy.logits.weight.copy_(torch.tensor([[0.3], [-0.5], [0.2]]))
    return policy, FunctionReward(three_coins_reward)


def three_coins_reward(tokens: Tensor) -> Tensor:
    x = tokens.double()
    return x @ torch.tensor([0.5, -1.0, 0.8], dtype=torch.float64) + 2 * x.prod(dim=1)


class Halved(LeaveOneOut):
    """RLOO whose every draw is half as large: a bias, and less noise."""

    def surrogate(self, *args: Any) -> Surrogate:
        found = super().surrogate(*args)
        return replace(found, weights=found.weights / 2)


class TestProgress:
    def test_an_unbiased_step_gains_the_first_order_less_what_noise_costs(self) -> None:
        """gain = r |g|^2 + r^2 / 2 (g'Hg + tr(H Sigma)), all of it by autograd on a formula."""
        policy, reward = three_coins()
        x = enumerate_sequences(2, 3).double()
        f = three_coins_reward(x)

        def p(logits: Tensor) -> Tensor:
            heads = logits.sigmoid()
            return (heads * x + (1 - heads) * (1 - x)).prod(dim=1)

        here, batch = parameters(policy), 4
        g = torch.autograd.functional.jacobian(lambda v: (p(v) * f).sum(), here)
        H = torch.autograd.functional.hessian(lambda v: (p(v) * f).sum(), here)
        draws = f.unsqueeze(1) * (x - here.sigmoid())  # reward times score
        sigma = (draws.T @ (p(here).unsqueeze(1) * draws) - torch.outer(g, g)) / batch

        adam = fresh_adam(policy)
        steps = exact_steps(policy, reward, adam, (1.0,), 64, rng(1))
        shared = Ground.made(Gains(policy, reward, 64, rng(2)), steps, adam)
        method = estimators.make("reinforce")
        one = Source(method, policy, reward, method.initial_state(policy, rng()), rng(3))
        row = cell(progress(one, shared, [batch], 2000, 1), optimiser="sgd", steps=1)
        r = row["learning_rate"]
        first, curved = r * float(g @ g), r**2 / 2 * float(g @ H @ g)
        lost = r**2 / 2 * float((H * sigma).sum())
        assert row["gain_exact"] == pytest.approx(first + curved, rel=0.01)
        error = (row["high"] - row["low"]) / (2 * Z95) * row["gain_exact"]
        assert row["gain"] == pytest.approx(first + curved + lost, abs=4 * error)
        variance = float(sigma.trace())
        assert row["useful_share"] == pytest.approx(
            float(g @ g) / (float(g @ g) + variance), rel=0.1
        )

    def test_more_batches_leave_less_noise(self) -> None:
        problem = tiny()
        shared = ground(problem)
        widths = []
        for replicates in (8, 128):
            rows = progress(source("reinforce", problem), shared, [32], replicates, 1)
            row = cell(rows, optimiser="sgd", steps=1)
            assert row["replicates"] == replicates
            widths.append(row["high"] - row["low"])
        assert 2 < widths[0] / widths[1] < 8

    def test_the_exact_estimator_gains_what_the_exact_gradient_gains(self) -> None:
        problem = tiny()
        count = problem.policy.vocabulary**problem.policy.length
        rows = progress(source("exact", problem), ground(problem), [count], 2, count)
        assert {row["steps"] for row in rows} == {1, 8}
        for row in rows:
            assert row["ratio"] == pytest.approx(1.0, abs=1e-6)
            assert row["useful_share"] == pytest.approx(1.0)

    def test_a_batch_that_pays_for_no_draw_has_no_rows(self) -> None:
        problem = tiny()
        assert progress(source("exact", problem), ground(problem), [2], 2, 2) == []

    def test_draws_given_whole_are_followed_too(self) -> None:
        problem = tiny()
        rows = progress(source("evolution-strategies", problem), ground(problem), [32], 8, 32)
        assert len(rows) == 4
        assert all(math.isfinite(row["gain"]) for row in rows)

    def test_half_of_the_gradient_gains_half_at_a_small_rate(self) -> None:
        problem = tiny()
        shared, one = ground(problem, rate=1e-4), source("rloo", problem)
        one.method = Halved(8)
        row = cell(progress(one, shared, [64], 32, 1), optimiser="sgd", steps=1)
        error = (row["high"] - row["low"]) / (2 * Z95)
        assert row["ratio"] == pytest.approx(0.5, abs=4 * error)
        assert row["high"] < 0.9

    def test_costs_that_draws_share_are_counted_once(self) -> None:
        """MuProp pays one relaxed evaluation a call, REBAR one a draw; RLOO's draws hold eight."""
        problem = tiny()
        draws = {
            name: source(name, problem).draws(64)
            for name in ("reinforce", "muprop", "rebar", "rloo")
        }
        assert draws == {"reinforce": 64, "muprop": 63, "rebar": 32, "rloo": 8}

    def test_each_batch_has_data_of_its_own_and_all_estimators_the_same(self) -> None:
        reward = tiny_autoencoder.tiny(3, images=4)
        encoder = reward.encoder
        images, asked = encoder.contexts.values.clone(), []

        def data(batch: int, replicate: int, draws: int) -> Tensor:
            asked.append((batch, replicate, draws))
            order = torch.randperm(len(images), generator=rng(replicate))
            return images[order.repeat(draws)[:draws]]

        adam = fresh_adam(encoder)
        steps = exact_steps(encoder, reward, adam, (1.0,), 64, rng(1))
        shared = Ground.made(Gains(encoder, reward, 64, rng(2)), steps, adam)
        for name, draws in (("reinforce", 8), ("rloo", 1)):
            asked.clear()
            method = estimators.make(name)
            learned = method.initial_state(encoder, rng())
            one = Source(method, encoder, reward, learned, rng(3), data)
            rows = progress(one, shared, [8], 4, 8)
            assert asked[:4] == [(8, replicate, draws) for replicate in range(4)]
            assert all(math.isfinite(row["gain"]) for row in rows)
        assert torch.equal(encoder.contexts.values, images)

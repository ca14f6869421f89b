"""The discrete autoencoder: its bound and both gradients against every code listed one by one."""

from __future__ import annotations

import copy

import pytest
import torch
from tasks.tiny_autoencoder import bound, rng, tiny

from estbench.estimators import make
from estbench.meter.bias import Centred
from estbench.meter.exact import exact
from estbench.meter.measuring import adapt_once, measure
from estbench.meter.truth import true_gradient
from estbench.tasks.digits import evidence
from estbench.training.autoencoder import decoder_step

ESTIMATORS = [
    "reinforce-ema",
    "reinforce-constant",
    "reinforce-critic",
    "rloo",
    "rebar",
    "rebar-soft",
    "rebar-independent",
    "relax",
    "relax-rebar",
    "seqgan-rollouts-ema",
]


@pytest.mark.parametrize("vocabulary", [2, 3])
class TestBound:
    def test_the_expected_reward_is_the_bound(self, vocabulary: int) -> None:
        reward = tiny(vocabulary)
        listed = bound(reward)
        for i, x in enumerate(reward.encoder.contexts.values):
            with reward.encoder.contexts.given(x.unsqueeze(0)):
                mean = exact(reward.encoder, reward).mean_reward
            assert mean == pytest.approx(listed[i].item())

    def test_its_gradient_needs_no_term_for_the_reward_itself(self, vocabulary: int) -> None:
        reward = tiny(vocabulary)
        parameters = list(reward.encoder.parameters())
        whole = torch.autograd.grad(bound(reward).mean(), parameters)
        truth = true_gradient(reward.encoder, reward, 2, rng())
        assert truth.noise == 0
        for mine, theirs in zip(truth.gradient, whole, strict=True):
            torch.testing.assert_close(mine, theirs)

    def test_reconstruction_less_rate_is_the_bound(self, vocabulary: int) -> None:
        reward = tiny(vocabulary)
        images = reward.encoder.contexts.values
        reconstruction, rate = evidence(reward, images, rng(), codes=40_000)
        assert reconstruction - rate == pytest.approx(bound(reward).mean().item(), abs=0.02)
        likelihood, minus_rate = (
            part.mean().item()
            for part in reward.terms(reward.one_hot(reward.encoder.sample(30_000, rng(1))))
        )
        assert likelihood == pytest.approx(reconstruction, abs=0.05)
        assert -minus_rate == pytest.approx(rate, abs=0.05)
        assert rate > 0

    def test_relaxed_codes_meet_hard_ones_at_the_corners(self, vocabulary: int) -> None:
        reward = tiny(vocabulary)
        tokens = torch.randint(vocabulary, (12, 3), generator=rng())
        assert torch.equal(reward(tokens), reward.relaxed(reward.one_hot(tokens)))
        assert (reward.hard_evals, reward.relaxed_evals) == (12, 12)

    def test_a_relaxed_reward_moves_as_its_gradient_says(self, vocabulary: int) -> None:
        reward = tiny(vocabulary)
        weights = torch.randn(6, 3, vocabulary, generator=rng(), dtype=torch.float64).softmax(2)
        assert torch.autograd.gradcheck(reward.relaxed, weights.requires_grad_())
        reward.relaxed(weights).sum().backward()
        owned = [*reward.encoder.parameters(), *reward.decoder.parameters()]
        assert all(p.grad is None and p.requires_grad for p in owned)


@pytest.mark.parametrize("vocabulary", [2, 3])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_mean_of_draws_is_the_gradient_of_the_bound(name: str, vocabulary: int) -> None:
    reward = tiny(vocabulary)
    encoder = reward.encoder
    truth = true_gradient(encoder, reward, 2, rng())
    # The same gradient, with less noise to find it in.
    centred = Centred(reward, bound(reward).mean().item())
    method, noise = make(name), rng(6)
    with encoder.contexts.given(encoder.contexts.values[:1]):  # widths are asked of a single row
        learned = method.initial_state(encoder, rng(5))
    for _ in range(20):
        adapt_once(method, encoder, centred, 33, noise, learned)
    row = measure(method, encoder, centred, 8_000 * method.info.group, noise, learned, truth)
    assert row["info"]["meter_fault"] == ""
    assert row["bias_low"] == 0
    assert row["bias_high"] < 0.15


def test_the_decoder_goes_up_the_gradient_of_the_joint_likelihood() -> None:
    reward = tiny(2)
    decoder = reward.decoder
    before = copy.deepcopy(decoder)
    tokens = torch.randint(2, (3, 5, 3), generator=rng())  # five codes of each of three images
    decoder_step(reward, tokens, torch.optim.SGD(decoder.parameters(), lr=1.0))
    total = 0
    log_p = before.prior.log_softmax(dim=1)
    for x, codes in zip(reward.encoder.contexts.values, tokens, strict=True):
        for b in codes:
            on = (before.pixels.weight @ (2.0 * b.double() - 1) + before.pixels.bias).sigmoid()
            total += (x * on.log() + (1 - x) * (1 - on).log()).sum() + log_p[range(3), b].sum()
    wanted = torch.autograd.grad(total / 15, list(before.parameters()))
    for new, old, step in zip(decoder.parameters(), before.parameters(), wanted, strict=True):
        torch.testing.assert_close(new - old, step)


def test_the_decoders_step_is_on_average_up_the_bound() -> None:
    reward = tiny(2)
    parameters = list(reward.decoder.parameters())
    wanted = torch.autograd.grad(bound(reward).mean(), parameters)
    tokens = reward.encoder.sample(60_000, rng()).view(3, 20_000, 3)
    before = [p.detach().clone() for p in parameters]
    decoder_step(reward, tokens, torch.optim.SGD(parameters, lr=1.0))
    for new, old, step in zip(parameters, before, wanted, strict=True):
        moved = new.detach() - old
        assert float((moved - step).norm()) < 0.03 * float(step.norm())

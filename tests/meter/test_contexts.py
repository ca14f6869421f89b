"""Variance of draws that are conditioned on data: within contexts, never between them."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from tasks.tiny_autoencoder import bound, rng, tiny

from estbench.estimators import make
from estbench.meter.bias import Centred
from estbench.meter.contexts import portions, within_contexts
from estbench.meter.exact import exact
from estbench.meter.measuring import measure
from estbench.meter.truth import true_gradient
from estbench.models.autoencoder import Encoder


def centred(images: int) -> tuple[Encoder, Centred]:
    """Return an encoder and the bound less its mean, whose draws are not mostly the reward's."""
    reward = tiny(2, images)
    return reward.encoder, Centred(reward, bound(reward).mean().item())


def exact_variances(images: int, correction: int = 0) -> tuple[float, float]:
    """Return REINFORCE's variance within images, averaged, and what between them would add.

    With a correction of 1 the second is unbiased for all data that the images are some of.
    """
    encoder, reward = centred(images)
    contexts = encoder.contexts
    within, gradients = [], []
    for x in contexts.values:
        with contexts.given(x.unsqueeze(0)):
            found = exact(encoder, reward)
        within.append(found.reinforce_variance())
        gradients.append(torch.cat([g.flatten() for g in found.gradient]))
    between = torch.stack(gradients).var(dim=0, correction=correction).sum().item()
    return sum(within) / images, between


class TestMeasured:
    def test_variance_is_the_exact_one_within_contexts(self) -> None:
        wanted, between = exact_variances(3)
        encoder, reward = centred(3)
        truth = true_gradient(encoder, reward, 2, rng())
        method = make("reinforce")
        learned = method.initial_state(encoder, rng())
        row = measure(method, encoder, reward, 60_000, rng(1), learned, truth)
        assert row["draws"] == 60_000
        assert row["total_variance"] == pytest.approx(wanted, rel=0.02)
        assert sum(row["by_tensor"].values()) == pytest.approx(row["total_variance"], rel=1e-6)
        assert between > 0.05 * wanted  # or this test could not tell the two apart
        assert row["hard_evals_per_draw"] == 1
        assert row["bias_low"] == 0

    @pytest.mark.parametrize("sequences", [600, 60_000])
    def test_variance_between_contexts_is_given_beside_it(self, sequences: int) -> None:
        """Few draws of each context are noisy: that noise is no difference between contexts."""
        _, between = exact_variances(3, correction=1)
        encoder, reward = centred(3)
        truth = true_gradient(encoder, reward, 2, rng())
        for name in ("reinforce", "rloo"):
            method = make(name)
            found = []
            for seed in range(60_000 // sequences):
                learned = method.initial_state(encoder, rng())
                row = measure(method, encoder, reward, sequences, rng(seed), learned, truth)
                found.append(row["between_variance"])
            assert sum(found) / len(found) == pytest.approx(between, rel=0.05)

    def test_in_a_metric_variance_is_within_contexts_too(self) -> None:
        encoder, reward = centred(3)
        truth = true_gradient(encoder, reward, 2, rng())
        P = [torch.full_like(g, 3.0) for g in truth.gradient]
        truth = replace(truth, metric=P)
        method = make("rloo")
        row = measure(method, encoder, reward, 2400, rng(1), {}, truth)
        assert row["adam_variance"] == pytest.approx(3 * row["total_variance"])

    def test_one_context_has_no_variance_between(self) -> None:
        reward = tiny(2, 1)
        truth = true_gradient(reward.encoder, reward, 2, rng())
        row = measure(make("rloo"), reward.encoder, reward, 240, rng(1), {}, truth)
        assert row["between_variance"] == 0

    def test_no_bias_is_seen_where_gradients_of_contexts_differ(self) -> None:
        """The reference has the same contexts: else their difference would look like bias."""
        reward = tiny(2, 3)
        truth = true_gradient(reward.encoder, reward, 2, rng())
        with reward.encoder.contexts.given(reward.encoder.contexts.values[:2]):
            method = make("rloo")
            row = measure(method, reward.encoder, reward, 60_000, rng(1), {}, truth)
        assert row["bias_low"] > 0

    def test_a_sampled_reference_knows_its_noise(self, monkeypatch: pytest.MonkeyPatch) -> None:
        reward = tiny(2, 3)
        truth = true_gradient(reward.encoder, reward, 2, rng())
        monkeypatch.setattr("estbench.meter.truth.enumerable", lambda policy: False)
        P = [torch.full_like(g, 3.0) for g in truth.gradient]
        gaps, noises = [], []
        for seed in range(40):
            found = true_gradient(reward.encoder, reward, 480, rng(seed), P)
            noises.append(found.noise)
            assert found.metric_noise == pytest.approx(3 * found.noise)
            pairs = zip(found.gradient, truth.gradient, strict=True)
            gaps.append(sum(float(((a - b) ** 2).sum()) for a, b in pairs))
        assert sum(gaps) / 40 == pytest.approx(sum(noises) / 40, rel=0.4)


@pytest.mark.parametrize("name", ["reinforce", "rloo", "relax"])
def test_the_numbers_are_those_of_a_plain_loop(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three contexts, four draws of each in a pass, two passes: one backward pass a draw."""
    encoder, reward = centred(3)
    truth, method = true_gradient(encoder, reward, 2, rng()), make(name)
    group = method.info.group
    monkeypatch.setattr("estbench.meter.measuring.CHUNK", 12 * group)
    state = method.initial_state(encoder, rng())
    row = measure(method, encoder, reward, 24 * group, rng(1), state, truth)
    noise, parameters, each = rng(1), list(encoder.parameters()), [[], [], []]
    for _ in range(2):
        values = method.surrogate(encoder, reward, 12, noise, state).values
        for i, value in enumerate(values):
            found = torch.autograd.grad(
                value, parameters, retain_graph=True, materialize_grads=True
            )
            each[i // 4].append([g.flatten() for g in found])
    draws = torch.stack(
        [torch.stack([torch.cat(draw) for draw in context]) for context in each]
    )  # [contexts, draws of each, parameters]
    assert draws.shape[:2] == (3, 8)
    passes = draws.reshape(3, 2, 4, -1)
    within = passes.var(dim=2).mean(dim=(0, 1))
    assert row["draws"] == 24
    assert row["total_variance"] == pytest.approx(within.sum().item())
    sizes = [p.numel() for p in parameters]
    by_tensor = [part.sum().item() for part in torch.split(within, sizes)]
    assert list(row["by_tensor"].values()) == pytest.approx(by_tensor)
    between = passes.mean(dim=2).var(dim=0).sum(dim=1).mean().item() - within.sum().item() / 4
    assert row["between_variance"] == pytest.approx(max(between, 0))
    gap = draws.mean(dim=(0, 1)) - torch.cat([g.flatten() for g in truth.gradient])
    noise2 = within.sum().item() / 24
    wanted = max(gap.square().sum().item() - noise2, 0) / truth.squared_norm
    assert row["relative_bias"] == pytest.approx(wanted**0.5)


class TestOwnTrajectory:
    def test_two_draws_of_each_context_are_enough(self) -> None:
        wanted, _ = exact_variances(8)
        encoder, reward = centred(8)
        contexts = encoder.contexts
        contexts.values = contexts.values.repeat(1000, 1)  # a batch of 8,000 images
        method, evals = make("reinforce"), reward.hard_evals
        learned = method.initial_state(encoder, rng())
        found = within_contexts(method, encoder, reward, 8000, rng(1), learned)
        assert found == pytest.approx(wanted, rel=0.05)
        assert reward.hard_evals == evals

    def test_a_batch_of_one_draw_has_a_variance_too(self) -> None:
        reward = tiny(2, 1)
        found = within_contexts(make("rloo"), reward.encoder, reward, 1, rng(), {})
        assert found > 0


@pytest.mark.parametrize(
    ("contexts", "draws", "at_once"),
    list(itertools.product([1, 2, 32], [2, 7, 100, 333], [1, 64, 128])),
)
def test_passes_hold_every_context_at_least_twice(contexts: int, draws: int, at_once: int) -> None:
    policy = tiny(2, contexts).encoder
    sizes = list(portions(policy, draws, at_once))
    assert all(size % contexts == 0 for size in sizes)
    if contexts == 1:
        assert sum(sizes) == draws
        assert max(sizes) <= at_once
    else:
        assert min(sizes) >= 2 * contexts
        assert sum(sizes) == contexts * max(2, draws // contexts)
        assert max(sizes) <= contexts * (max(2, at_once // contexts) + 1)

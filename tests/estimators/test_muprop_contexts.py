"""MuProp on a policy with contexts: f at each context's own mean field is subtracted."""

from __future__ import annotations

import itertools

import pytest
import torch
from tasks.tiny_autoencoder import LENGTH, bound, rng, tiny
from torch import Tensor

from estbench import noise
from estbench.estimators.base import Surrogate
from estbench.estimators.muprop import MuProp
from estbench.estimators.returns import rollout_noise, token_returns
from estbench.meter.gradients import Tape
from estbench.models.autoencoder import EvidenceBound

IMAGES = 3


def every_code(vocabulary: int) -> Tensor:
    """Return all codes once for each image, draw-major, int64 ``[IMAGES V^T, T]``."""
    codes = torch.tensor(list(itertools.product(range(vocabulary), repeat=LENGTH)))
    return codes.repeat(IMAGES, 1)


def drawn(
    reward: EvidenceBound, tokens: Tensor, method: MuProp, coefficients: tuple[float, float]
) -> tuple[Surrogate, Tensor]:
    """Return what ``method`` makes of these codes, and its draws ``[n, P]``."""
    encoder = reward.encoder
    state = method.initial_state(encoder, rng())
    state["coefficients"]["values"] = coefficients
    object.__setattr__(encoder, "sample_from", lambda uniforms: tokens)
    try:
        with Tape(encoder) as tape:
            surrogate = method.surrogate(encoder, reward, len(tokens), rng(7), state)
        draws = torch.cat(list(tape.differentiate(surrogate).chunks()))
    finally:
        object.__delattr__(encoder, "sample_from")
    assert tape.fault == ""
    return surrogate, draws


def probabilities(reward: EvidenceBound, tokens: Tensor) -> Tensor:
    """Return q(b | x) ``[n]`` of each code given its image."""
    with torch.no_grad():
        chosen = reward.encoder.table(len(tokens)).gather(2, tokens.unsqueeze(2))
    return chosen.sum(dim=(1, 2)).exp()


def at_mean_fields(reward: EvidenceBound) -> Tensor:
    """Return f at the mean field of each image ``[IMAGES]``, one image at a time."""
    contexts, found = reward.encoder.contexts, []
    for image in contexts.values:
        with contexts.given(image.unsqueeze(0)), torch.no_grad():
            found.append(reward.relaxed(reward.encoder.table(1).exp()))
    return torch.cat(found)


@pytest.mark.parametrize("vocabulary", [2, 3])
@pytest.mark.parametrize("coefficients", [(0.0, 0.0), (0.3, 0.7)])
class TestEveryCode:
    def test_the_expected_draw_is_the_gradient_of_the_bound(
        self, vocabulary: int, coefficients: tuple[float, float]
    ) -> None:
        """Of each image alone, so that no image makes up for another."""
        reward, tokens = tiny(vocabulary, IMAGES), every_code(vocabulary)
        _, draws = drawn(reward, tokens, MuProp(), coefficients)
        p = probabilities(reward, tokens).view(IMAGES, -1, 1)
        found = (p * draws.view(IMAGES, -1, draws.shape[1])).sum(dim=1)
        parameters = list(reward.encoder.parameters())
        for mine, own in zip(found, bound(reward), strict=True):
            wanted = torch.autograd.grad(own, parameters, retain_graph=True)
            torch.testing.assert_close(mine, torch.cat([g.flatten() for g in wanted]))

    def test_each_draw_loses_f_at_its_own_mean_field(
        self, vocabulary: int, coefficients: tuple[float, float]
    ) -> None:
        """The scores' component, and the number that stands for it where b is tuned."""
        reward, tokens = tiny(vocabulary, IMAGES), every_code(vocabulary)
        surrogate, _ = drawn(reward, tokens, MuProp(), coefficients)
        earned = reward(tokens)
        assert torch.equal(surrogate.rewards[:, 0], earned)
        each = at_mean_fields(reward).repeat_interleave(len(tokens) // IMAGES)
        score, constant, _ = surrogate.components
        wanted = (earned - each).view(-1, 1) * reward.one_hot(tokens).flatten(1)
        torch.testing.assert_close(score.weights, wanted)
        assert score.scale is not None
        torch.testing.assert_close(score.scale.unsqueeze(1) * constant.weights, score.weights)


@pytest.mark.parametrize("vocabulary", [2, 3])
def test_action_values_lose_it_too(vocabulary: int) -> None:
    reward, tokens, method = tiny(vocabulary, IMAGES), every_code(vocabulary), MuProp(rollouts=2)
    surrogate, _ = drawn(reward, tokens, method, (0.0, 0.0))
    shapes = {"tokens": (LENGTH,), **rollout_noise(reward.encoder, 2)}
    u = noise.uniforms(rng(7), len(tokens), shapes, torch.float64)
    values, _ = token_returns(reward.encoder, reward, tokens, u)
    each = at_mean_fields(reward).repeat_interleave(len(tokens) // IMAGES)
    found = surrogate.weights.view(len(tokens), LENGTH, -1).sum(dim=2)
    torch.testing.assert_close(found, values - each.unsqueeze(1))


@pytest.mark.parametrize("draws_each", [1, 5])
def test_counted_evaluations_are_those_declared(draws_each: int) -> None:
    """Declared of a call: 1 hard a draw; 1/n relaxed, n being the draws of a context."""
    reward = tiny(2, IMAGES)
    method = MuProp()
    state = method.initial_state(reward.encoder, rng())
    draws = IMAGES * draws_each
    method.surrogate(reward.encoder, reward, draws, rng(), state)
    assert (method.info.hard_evals, method.info.relaxed_evals) == ("1", "1/n")
    assert reward.hard_evals == draws
    assert reward.relaxed_evals / draws == 1 / draws_each

"""MuProp on a policy with contexts: f and its tangent at each context's own mean field."""

from __future__ import annotations

import itertools

import pytest
import torch
from tasks.tiny_autoencoder import LENGTH, bound, rng, tiny
from torch import Tensor

from estbench.core import noise
from estbench.estimators.base import Reward, Surrogate
from estbench.estimators.gumbel import one_hot
from estbench.estimators.muprop import MuProp
from estbench.estimators.returns import rollout_noise, token_returns
from estbench.meter.gradients import Tape
from estbench.models.autoencoder import EvidenceBound
from estbench.models.contexts import Contexts
from estbench.models.policy import Policy
from estbench.models.reward import FunctionReward
from estbench.proof.rewards import function_reward

IMAGES = 3


def every_code(vocabulary: int) -> Tensor:
    """Return all codes once for each image, draw-major, int64 ``[IMAGES V^T, T]``."""
    codes = torch.tensor(list(itertools.product(range(vocabulary), repeat=LENGTH)))
    return codes.repeat(IMAGES, 1)


def drawn(
    policy: Policy,
    reward: Reward,
    tokens: Tensor,
    method: MuProp,
    coefficients: tuple[float, float],
) -> tuple[Surrogate, Tensor]:
    """Return what ``method`` makes of these codes, and its draws ``[n, P]``."""
    state = method.initial_state(policy, rng())
    state["coefficients"]["values"] = coefficients
    object.__setattr__(policy, "sample_from", lambda uniforms: tokens)
    try:
        with Tape(policy) as tape:
            surrogate = method.surrogate(policy, reward, len(tokens), rng(7), state)
        draws = torch.cat(list(tape.differentiate(surrogate).chunks()))
    finally:
        object.__delattr__(policy, "sample_from")
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
        _, draws = drawn(reward.encoder, reward, tokens, MuProp(), coefficients)
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
        surrogate, _ = drawn(reward.encoder, reward, tokens, MuProp(), coefficients)
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
    surrogate, _ = drawn(reward.encoder, reward, tokens, method, (0.0, 0.0))
    shapes = {"tokens": (LENGTH,), **rollout_noise(reward.encoder, 2)}
    u = noise.uniforms(rng(7), len(tokens), shapes, torch.float64)
    values, _ = token_returns(reward.encoder, reward, tokens, u)
    each = at_mean_fields(reward).repeat_interleave(len(tokens) // IMAGES)
    found = surrogate.weights.view(len(tokens), LENGTH, -1).sum(dim=2)
    torch.testing.assert_close(found, values - each.unsqueeze(1))


def test_the_tangent_looks_as_far_ahead_as_the_return() -> None:
    """An action value knows nothing of the sample's later tokens, and they would only add noise."""
    reward, tokens = tiny(3, IMAGES), every_code(3)
    for rollouts, knows in ((0, True), (2, False)):
        method = MuProp(rollouts)
        surrogate, _ = drawn(reward.encoder, reward, tokens, method, (0.0, 0.0))
        (eta,) = (c.weights for c in surrogate.components if c.name == "eta")
        first = eta.view(IMAGES, 3, -1, LENGTH, 3)[:, :, :, 0]  # what follows the first token
        assert torch.allclose(first, first[:, :, :1].expand_as(first)) is not knows


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


class Chain(Policy):
    """Tokens that depend on the one before and on the context: a policy with both."""

    def __init__(self, vocabulary: int, length: int, contexts: Tensor) -> None:
        super().__init__()
        self.vocabulary, self.length, self.contexts = vocabulary, length, Contexts(contexts)
        width = contexts.shape[1] + vocabulary
        self.logits = torch.nn.Linear(width, vocabulary, dtype=torch.float64)
        with torch.no_grad():
            self.logits.weight.normal_(generator=rng(8))

    def initial_state(self, n: int) -> Tensor:
        return self.contexts.rows(n)

    def step(self, previous: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
        if previous is None:
            previous = state.new_zeros(len(state), self.vocabulary)
        elif not previous.is_floating_point():
            previous = one_hot(previous, self.vocabulary, state.dtype)
        return self.logits(torch.cat([state, previous], dim=1)).log_softmax(dim=1), state


@pytest.mark.parametrize("coefficients", [(0.0, 0.0), (0.3, 0.7)])
def test_tokens_may_depend_on_those_before(coefficients: tuple[float, float]) -> None:
    """Later positions' part has mean 0 about p at the hard prefix, not about the mean field."""
    contexts = torch.randn(IMAGES, 2, generator=rng(9), dtype=torch.float64)
    policy, reward = Chain(3, LENGTH, contexts), function_reward(3, LENGTH, 2)
    tokens = every_code(3)
    _, draws = drawn(policy, reward, tokens, MuProp(), coefficients)
    chosen = policy.log_probs(tokens).gather(2, tokens.unsqueeze(2)).sum(dim=(1, 2))
    p = chosen.exp().view(IMAGES, -1)
    found = (p.detach().unsqueeze(2) * draws.view(IMAGES, -1, draws.shape[1])).sum(dim=1)
    expected = (p * reward(tokens).view(IMAGES, -1)).sum(dim=1)
    for mine, own in zip(found, expected, strict=True):
        wanted = torch.autograd.grad(own, list(policy.parameters()), retain_graph=True)
        torch.testing.assert_close(mine, torch.cat([g.flatten() for g in wanted]))


def test_no_variance_is_left_of_a_linear_reward() -> None:
    """Of all positions together: at eta = 1 a draw is the gradient itself, whatever was drawn."""
    worth = torch.randn(LENGTH, 3, generator=rng(6), dtype=torch.float64)
    reward = FunctionReward(
        lambda b: (torch.nn.functional.one_hot(b, 3) * worth).sum(dim=(1, 2)),
        lambda b: (b * worth).sum(dim=(1, 2)),
    )
    _, draws = drawn(tiny(3, IMAGES).encoder, reward, every_code(3), MuProp(), (0.0, 1.0))
    each = draws.view(IMAGES, -1, draws.shape[1])
    torch.testing.assert_close(each, each[:, :1].expand_as(each))
    assert (each[0, 0] - each[1, 0]).norm() > 0.1

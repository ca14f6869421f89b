"""Rewards count what they are asked, and leave the discriminator as it was."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import kstest

from estbench.core.errors import UserError
from estbench.models.lstm_discriminator import LSTMDiscriminator
from estbench.models.reward import FunctionReward, Reward, UninformedReward, rollout_rewards
from estbench.models.text_cnn import TextCNN

TOKENS = torch.tensor([[0, 1, 0], [2, 2, 2], [4, 3, 1]])
WEIGHTS = torch.nn.functional.one_hot(TOKENS, 5).float()


def discriminator() -> LSTMDiscriminator:
    return LSTMDiscriminator(5).initialise(torch.Generator().manual_seed(0), 0.5)


def text_cnn(vocabulary: int = 5, length: int = 3) -> TextCNN:
    return TextCNN(vocabulary, length).initialise(torch.Generator().manual_seed(0))


def rollouts(tokens: torch.Tensor, N: int) -> torch.Tensor:
    """Completions ``[n, T - 1, N, T]`` of all prefixes by uniform tokens."""
    n, T = tokens.shape
    rng = torch.Generator().manual_seed(1)
    completed = torch.randint(5, (n, T - 1, N, T), generator=rng)
    for t in range(T - 1):
        completed[:, t, :, : t + 1] = tokens[:, None, : t + 1]
    return completed


@pytest.mark.parametrize(
    ("transform", "of_p"),
    [
        ("p", lambda p: p),
        ("log_p", math.log),
        ("logit", lambda p: math.log(p / (1 - p))),
        ("exp_p", math.exp),
    ],
)
def test_a_transform_is_what_its_name_says(transform: str, of_p) -> None:  # type: ignore[no-untyped-def]
    model = discriminator()
    reward = Reward(model, transform)
    with torch.no_grad():
        outputs = model.output(model.lstm(WEIGHTS)[1][0][0])
    expected = [of_p(p) for p in outputs.softmax(dim=1)[:, 1].tolist()]
    assert reward(TOKENS).tolist() == pytest.approx(expected, rel=1e-5)
    assert reward.relaxed(WEIGHTS).tolist() == pytest.approx(expected, rel=1e-5)


def test_hard_and_relaxed_evaluations_are_counted_apart_by_row() -> None:
    reward = Reward(discriminator())
    reward(TOKENS)
    reward(TOKENS[:1])
    reward.relaxed(WEIGHTS[:2])
    assert (reward.hard_evals, reward.relaxed_evals) == (4, 2)


def test_no_gradient_reaches_the_discriminator() -> None:
    model = discriminator()
    reward = Reward(model)
    weights = WEIGHTS.clone().requires_grad_()
    assert not reward(TOKENS).requires_grad
    reward.relaxed(weights).sum().backward()
    assert weights.grad is not None
    assert weights.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.parameters())
    assert all(p.requires_grad for p in model.parameters())


def test_a_constant_relaxed_sequence_makes_no_graph() -> None:
    assert not Reward(discriminator()).relaxed(WEIGHTS).requires_grad


@pytest.mark.parametrize("n", [3, 1500])
def test_a_one_hot_has_its_tokens_reward_bit_for_bit_in_any_mode(n: int) -> None:
    reward = Reward(discriminator())
    tokens = torch.randint(5, (n, 15), generator=torch.Generator().manual_seed(0))
    weights = torch.nn.functional.one_hot(tokens, 5).float().requires_grad_()
    hard = reward(tokens)
    relaxed = reward.relaxed(weights)
    assert relaxed.requires_grad
    assert torch.equal(hard, relaxed)
    with torch.no_grad():
        assert torch.equal(hard, reward(tokens))
        assert torch.equal(hard, reward.relaxed(weights))
        assert not reward.relaxed(weights).requires_grad


def test_dropout_is_off_while_a_reward_is_evaluated_and_on_again_afterwards() -> None:
    class Noisy(LSTMDiscriminator):
        def forward(self, sequences):  # type: ignore[no-untyped-def]
            logits = super().forward(sequences)
            return torch.nn.functional.dropout(logits, 0.5, self.training)

    model = Noisy(5).initialise(torch.Generator().manual_seed(0), 0.5)
    model.output.eval()
    reward = Reward(model)
    assert torch.equal(reward(TOKENS), reward(TOKENS))
    assert torch.equal(reward.relaxed(WEIGHTS), reward(TOKENS))
    assert model.training
    assert not model.output.training


def test_an_error_inside_leaves_the_discriminator_trainable() -> None:
    model = discriminator()
    with pytest.raises((RuntimeError, IndexError)):
        Reward(model)(torch.tensor([[7]]))
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


def test_an_unknown_transform_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match="did you mean 'log_p'"):
        Reward(discriminator(), "log-p")


def test_a_function_is_a_reward() -> None:
    hard = FunctionReward(lambda tokens: tokens.sum(dim=1).float())
    assert hard(TOKENS).tolist() == [1, 6, 8]
    assert hard.hard_evals == 3
    assert not hard.is_relaxed
    with pytest.raises(TypeError, match="tokens only"):
        hard.relaxed(WEIGHTS)
    both = FunctionReward(hard.function, lambda weights: (weights @ torch.arange(5.0)).sum(dim=1))
    assert both.is_relaxed
    assert both.relaxed(WEIGHTS).tolist() == both(TOKENS).tolist()
    assert (both.hard_evals, both.relaxed_evals) == (3, 3)


@pytest.mark.parametrize("transform", ["p", "log_p", "logit", "exp_p"])
@pytest.mark.parametrize("make", [discriminator, text_cnn])
def test_rollouts_have_the_rewards_of_their_sequences(make, transform: str) -> None:  # type: ignore[no-untyped-def]
    reward = Reward(make(), transform)
    completed = rollouts(TOKENS, 4)
    found = reward.of_rollouts(TOKENS, completed)
    assert found.shape == (3, 2, 4)
    assert not found.requires_grad
    assert (reward.hard_evals, reward.relaxed_evals) == (24, 0)
    plain = reward(completed.reshape(-1, 3)).reshape(3, 2, 4)
    torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-5)
    assert torch.equal(found, rollout_rewards(reward, TOKENS, completed))
    if make is discriminator:
        assert torch.equal(found, plain)


def test_rollouts_have_rewards_where_the_reward_knows_nothing_of_them() -> None:
    reward = FunctionReward(lambda tokens: tokens.sum(dim=1).float())
    completed = rollouts(TOKENS, 4)
    found = rollout_rewards(reward, TOKENS, completed)
    assert torch.equal(found, completed.sum(dim=3).float())
    assert reward.hard_evals == 24


@pytest.mark.parametrize("n", [3, 4000])
def test_the_text_cnn_is_one_reward_of_hard_and_relaxed_tokens(n: int) -> None:
    reward = Reward(text_cnn(length=8))
    tokens = torch.randint(5, (n, 8), generator=torch.Generator().manual_seed(0))
    weights = torch.nn.functional.one_hot(tokens, 5).float().requires_grad_()
    hard, relaxed = reward(tokens), reward.relaxed(weights)
    assert not hard.requires_grad
    torch.testing.assert_close(hard, relaxed, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        assert torch.equal(hard, reward(tokens))
    relaxed.sum().backward()
    assert weights.grad is not None
    assert all(p.grad is None for p in reward.discriminator.parameters())
    assert all(p.requires_grad for p in reward.discriminator.parameters())


def test_rollouts_leave_the_discriminator_trainable() -> None:
    model = text_cnn().train()
    Reward(model).of_rollouts(TOKENS, rollouts(TOKENS, 2))
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


# Control arms ------------------------------------------------------------------------------------


def test_a_constant_reward_is_a_half_and_flat() -> None:
    reward = UninformedReward(discriminator(), "constant", 5, 3)
    weights = WEIGHTS.clone().requires_grad_()
    (slope,) = torch.autograd.grad(reward.relaxed(weights).sum(), weights)
    assert reward(TOKENS).tolist() == [0.5, 0.5, 0.5]
    assert not slope.any()
    assert (reward.hard_evals, reward.relaxed_evals) == (3, 3)


def test_a_random_reward_is_uniform_and_a_function_of_the_sequence_alone() -> None:
    every = torch.cartesian_prod(*[torch.arange(20)] * 3)
    rewards = UninformedReward(discriminator(), "random", 20, 3)(every)
    assert kstest(rewards.numpy(), "uniform").pvalue > 0.001
    again = UninformedReward(text_cnn(), "random", 20, 3)
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(0))
    assert torch.equal(again(every[order]), rewards[order])


def test_a_random_reward_says_nothing_of_neighbours() -> None:
    every = torch.cartesian_prod(*[torch.arange(20)] * 3)
    rewards = UninformedReward(discriminator(), "random", 20, 3)(every).view(20, 20, 20)
    for axis in range(3):
        alike = rewards.movedim(axis, 0)
        correlation = torch.corrcoef(torch.stack([alike[0].flatten(), alike[1].flatten()]))[0, 1]
        assert abs(float(correlation)) < 4 / 20
        # No token is better than another at any position: the mean of 400 uniforms is 0.5.
        assert (alike.flatten(1).mean(1) - 0.5).abs().max() < 4 * (1 / 12 / 400) ** 0.5


def test_a_random_reward_takes_no_weights() -> None:
    with pytest.raises(TypeError, match="tokens only"):
        UninformedReward(discriminator(), "random", 5, 3).relaxed(WEIGHTS)


def test_rollouts_have_the_random_reward_of_their_sequence() -> None:
    reward = UninformedReward(discriminator(), "random", 5, 3)
    completed = rollouts(TOKENS, 4)
    assert torch.equal(
        rollout_rewards(reward, TOKENS, completed).flatten(), reward(completed.flatten(0, 2))
    )

"""Estimators of language-model trainers: what they weigh by length, token, prompt and past."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from estbench import estimators
from estbench.core.errors import UserError
from estbench.core.seeding import stream
from estbench.estimators.base import Surrogate
from estbench.estimators.score_function import _mixed
from estbench.estimators.straight_through import Step, gumbel_rao, reinmax, relaxed_token
from estbench.estimators.trainers import weighted_mean
from estbench.meter.bias import bias_test
from estbench.meter.measuring import adapt_once
from estbench.models.factorised import FactorisedPolicy
from estbench.models.lstm_generator import Generator
from estbench.models.policy import sequence_lengths
from estbench.models.reward import FunctionReward
from estbench.proof.problems import named, tiny
from estbench.proof.rewards import function_reward, rng
from estbench.proof.states import learned

END = 2
K = 8


def ending() -> Generator:
    made = Generator(3, 4, embedding=4, hidden=4, dtype=torch.float64, end=END)
    return made.initialise("normal", 0.7, rng(1))


def group(name: str, draws: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Draws of sequences that end: weights ``[n, K, T]``, rewards and lengths ``[n, K]``."""
    method, policy = estimators.make(name), ending()
    found = method.surrogate(policy, function_reward(3, 4, 2), draws, rng(), {})
    assert isinstance(found, Surrogate)
    lengths = sequence_lengths(found.tokens.flatten(0, 1), END).reshape(found.rewards.shape)
    return found.weights.reshape(*lengths.shape, -1), found.rewards, lengths


def test_a_length_counts_the_end_token_and_nothing_after_it() -> None:
    tokens = torch.tensor([[0, END, END, END], [END, END, END, END], [0, 1, 0, 1], [0, 1, 0, END]])
    assert sequence_lengths(tokens, END).tolist() == [2, 1, 4, 4]
    assert sequence_lengths(tokens, None).tolist() == [4, 4, 4, 4]


@pytest.mark.parametrize("name", ["grpo", "grpo-published", "dapo"])
def test_grpo_and_its_kin_differ_in_what_a_sequence_counts(name: str) -> None:
    weights, rewards, lengths = group(name)
    advantages = (rewards - rewards.mean(1, keepdim=True)) / rewards.std(1, keepdim=True)
    counts = {
        "grpo": torch.full_like(lengths, K),
        "grpo-published": K * lengths,
        "dapo": lengths.sum(dim=1, keepdim=True).expand_as(lengths),
    }
    assert len(set(lengths.flatten().tolist())) > 2
    torch.testing.assert_close(weights[..., 0], advantages / counts[name])


def test_reinforce_plus_plus_subtracts_by_prompt_and_divides_by_batch() -> None:
    weights, rewards, _ = group("reinforce-plus-plus-baseline")
    gaps = rewards.reshape(5, 8, 8) - rewards.reshape(5, 8, 8).mean(2, keepdim=True)
    expected = (gaps / gaps.flatten(1).std(1).view(5, 1, 1)).reshape(5, 64) / 64
    torch.testing.assert_close(weights[..., 0], expected)
    with pytest.raises(UserError, match="must be a multiple of 8"):
        estimators.make("reinforce-plus-plus-baseline-12")


@pytest.mark.parametrize("own", [True, False])
def test_opo_weighs_rewards_by_length(own: bool) -> None:
    weights, rewards, lengths = group("opo-published" if own else "opo", draws=1)
    for i in range(K):
        counted = [j for j in range(K) if own or j != i]
        total = sum(float(rewards[0, j] * lengths[0, j]) for j in counted)
        baseline = total / sum(float(lengths[0, j]) for j in counted)
        assert float(weights[0, i, 0]) == pytest.approx((float(rewards[0, i]) - baseline) / K)


def test_where_nothing_has_a_weight_all_count_alike() -> None:
    rewards = torch.tensor([1.0, 2.0, 6.0]).view(1, 3, 1)
    found = weighted_mean(rewards, torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1), own=False)
    assert found.flatten().tolist() == pytest.approx([4.0, 1.0, 1.0])


def test_the_energy_is_the_squared_norm_of_the_scores_of_the_logits() -> None:
    method, policy = estimators.make("token-baseline"), ending()
    found = method.surrogate(policy, function_reward(3, 4, 2), 2, rng(), {})
    assert isinstance(found, Surrogate)
    tokens = found.tokens.flatten(0, 1)
    logits = policy.log_probs(tokens).detach().requires_grad_()
    chosen = logits.log_softmax(dim=2).gather(2, tokens.unsqueeze(2))
    (scores,) = torch.autograd.grad(chosen.sum(), logits)
    energy = scores.square().sum(dim=2).cumsum(dim=1).reshape(2, K, 4)
    rewards = found.rewards.unsqueeze(2).expand(2, K, 4)
    expected = (rewards - weighted_mean(rewards, energy, own=False)) / K
    torch.testing.assert_close(found.weights, expected.flatten(1))


class TestShrinkage:
    def draws(self, past: float, within: float, between: float) -> tuple[Surrogate, Surrogate]:
        problem = tiny()
        state = {"past": {"weight": 1.0, "sum": past, "squares": 0.0}}
        state |= {"within": within, "between": between}
        method = estimators.make("rloo-shrunk")
        shrunk = method.surrogate(problem.policy, problem.reward, 3, rng(), state)
        plain = estimators.make("rloo-4").surrogate(problem.policy, problem.reward, 3, rng(), {})
        assert isinstance(shrunk, Surrogate)
        assert isinstance(plain, Surrogate)
        return shrunk, plain

    def test_before_anything_was_seen_it_is_rloo(self) -> None:
        shrunk, plain = self.draws(0.0, 0.0, 0.0)
        torch.testing.assert_close(shrunk.weights, plain.weights)

    def test_where_prompts_differ_more_than_their_noise_it_hardly_shrinks(self) -> None:
        shrunk, plain = self.draws(0.3, 0.3, 1e6)
        torch.testing.assert_close(shrunk.weights, plain.weights, atol=1e-6, rtol=1e-5)

    def test_half_way_it_is_the_mean_of_both_baselines(self) -> None:
        shrunk, plain = self.draws(0.3, 0.6, 0.2)  # 0.6 / (K - 1) is as much as 0.2
        past = (shrunk.rewards - 0.3).repeat_interleave(3, dim=1) / 4
        torch.testing.assert_close(shrunk.weights, (plain.weights + past) / 2)

    def test_one_prompt_is_shrunk_nearly_to_the_past(self) -> None:
        problem, method = tiny(), estimators.make("rloo-shrunk")
        state = method.initial_state(problem.policy, rng())
        for k in range(40):
            adapt_once(method, problem.policy, problem.reward, 64, rng(k), state)
        found = method.surrogate(problem.policy, problem.reward, 3, rng(), state)
        assert found.info["shrinkage"] > 0.9


def test_a_prompt_that_comes_again_is_remembered() -> None:
    contexts = torch.tensor([[1.0, 0.5, 0.2], [-1.0, 0.3, 0.8]], dtype=torch.float64)
    policy = FactorisedPolicy(2, 3, 3, contexts, dtype=torch.float64)
    policy.initialise(1.0, rng(1))
    method = estimators.make("single-stream")
    state = method.initial_state(policy, rng())

    def levels(tokens: Tensor) -> Tensor:
        assert policy.contexts is not None
        return policy.contexts.rows(len(tokens))[:, 0]

    reward = FunctionReward(levels)
    for k in range(60):
        adapt_once(method, policy, reward, 8, rng(k), state)
    found = method.surrogate(policy, reward, 4, rng(), state)
    assert isinstance(found, Surrogate)
    assert found.rewards.flatten().tolist() == [1.0, 1.0, -1.0, -1.0]
    # Four rewards a batch, of which each batch forgets a tenth, and one for all prompts together.
    left = torch.full((4, 3), 1 / 41, dtype=torch.float64)
    torch.testing.assert_close(found.weights.abs(), left, rtol=0.01, atol=0)
    with policy.contexts.given(contexts.flip(0)):
        again = method.surrogate(policy, reward, 4, rng(), state)
    assert isinstance(again, Surrogate)
    torch.testing.assert_close(again.weights.abs(), left, rtol=0.01, atol=0)


def test_generalised_advantages_mix_what_came_with_the_critics_word() -> None:
    values, reward, mix = torch.tensor([[0.2, 0.5, -0.4]]), 1.0, 0.7
    deltas = [0.5 - 0.2, -0.4 - 0.5, reward + 0.4]
    expected = [sum(mix ** (u - t) * deltas[u] for u in range(t, 3)) for t in range(3)]
    assert _mixed(reward - values, mix)[0].tolist() == pytest.approx(expected)
    torch.testing.assert_close(_mixed(reward - values, 1.0), reward - values)


def test_generalised_advantages_are_biased_where_the_critic_is_wrong() -> None:
    problem, method = tiny(), estimators.make("gae")
    state, noise = learned(method, problem, "arbitrary"), stream("generalised advantages")
    result = bias_test(method, problem.policy, problem.reward, problem.gradient, noise, state)
    assert result.verdict == "biased"


def test_averaged_over_the_last_token_there_is_less_variance_and_the_same_mean() -> None:
    problem = named("autoregressive")
    T = problem.policy.length
    found = {}
    for name in ("last-token", "reinforce-ema"):
        method = estimators.make(name)
        state = method.initial_state(problem.policy, rng())
        draws = method.surrogate(problem.policy, problem.reward, 4000, rng(5), state)
        assert isinstance(draws, Surrogate)
        found[name] = draws
    first, plain = found["last-token"], found["reinforce-ema"]
    assert torch.equal(first.tokens, plain.tokens)
    assert first.weights.shape[1] == T - 1 + problem.policy.vocabulary
    gap = first.weights[:, 0] - plain.weights[:, 0]
    assert float(first.weights[:, 0].var()) < float(plain.weights[:, 0].var())
    assert abs(float(gap.mean())) < 4 * float(gap.std()) / 4000**0.5


def test_reinmax_is_the_limit_of_gumbel_rao_without_temperature() -> None:
    """Shekhovtsov 2023 calls the limit ZGR."""
    log_probs = torch.tensor([[0.2, -1.0, 0.7, 0.1]], dtype=torch.float64).log_softmax(1)
    token, K = torch.tensor([2]), 400_000
    noise = torch.rand(1, K, 4, generator=rng(), dtype=torch.float64)
    step = Step(log_probs, torch.eye(4, dtype=torch.float64)[token], token, noise)

    def jacobian(rule: object, temperature: float) -> Tensor:
        given = log_probs.clone().requires_grad_()
        value = relaxed_token(rule, given, step, temperature)  # type: ignore[arg-type]
        rows = [torch.autograd.grad(value[0, v], given, retain_graph=True)[0] for v in range(4)]
        return torch.cat(rows)

    torch.testing.assert_close(
        jacobian(gumbel_rao, 0.05), jacobian(reinmax, 1.0), atol=0.01, rtol=0
    )


@pytest.mark.parametrize("name", ["remax", "reinforce-plus-plus", "vargrad", "zgr"])
def test_another_name_of_the_same_thing_says_which(name: str) -> None:
    with pytest.raises(UserError, match=rf"^{name} is (\S+) here: write \1$") as caught:
        estimators.make(name)
    estimators.make(str(caught.value).rpartition(" ")[2])

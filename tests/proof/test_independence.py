"""Faults of conduct that people really make are found; right estimators in any style pass."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from estbench.estimators.base import Estimator, EstimatorInfo, Reward, Surrogate
from estbench.models.policy import Policy, choose_by_uniform
from estbench.proof.checking import CheckResult, check_one, started
from estbench.proof.independence import OWN_REWARD
from estbench.proof.judging import BiasFinding, judge, plan_for
from estbench.proof.rules import conduct
from estbench.proof.variance import judge_variance

State = dict[str, Any]


class Plain(Estimator):
    """REINFORCE with hooks: how tokens are drawn, and what a sequence's weight is."""

    info = EstimatorInfo("plain", "a test's", "none")

    def tokens(self, policy: Policy, n: int, rng: torch.Generator, state: State) -> Tensor:
        return policy.sample(n, rng)

    def weights(self, rewards: Tensor, rng: torch.Generator) -> Tensor:
        return rewards

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: State
    ) -> Surrogate:
        tokens = self.tokens(policy, draws, rng, state)
        rewards = reward(tokens)
        chosen = policy.log_probs(tokens).gather(2, tokens.unsqueeze(2)).squeeze(2)
        weights = self.weights(rewards, rng).unsqueeze(1).expand_as(chosen)
        return Surrogate(chosen, weights, tokens.unsqueeze(1), rewards.unsqueeze(1))


class Again(Plain):
    """A second call of the generator, for whoever needs it."""

    def second(self, policy: Policy, reward: Reward, n: int, rng: torch.Generator) -> Tensor:
        return reward(policy.sample(n, rng))


# Wrong in their conduct, right in their mean.


class MicroBatches(Plain):
    """Leave-one-out inside micro-batches of 32."""

    def weights(self, rewards: Tensor, rng: torch.Generator) -> Tensor:
        parts = torch.split(rewards, 32)
        means = [(p.sum() - p) / max(1, len(p) - 1) for p in parts]
        return rewards - torch.cat(means)


class MicroBatchesByStep(MicroBatches):
    """The same, with noise step by step, so that no draw is the same when others are added."""

    def tokens(self, policy: Policy, n: int, rng: torch.Generator, state: State) -> Tensor:
        return _by_step(policy, n, rng)


class BatchMean(Plain):
    def weights(self, rewards: Tensor, rng: torch.Generator) -> Tensor:
        return rewards - rewards.mean()


class BatchMeanAsALoss(BatchMean):
    def surrogate(self, *given: Any) -> Surrogate:
        return _as_ratio(super().surrogate(*given))


class OneBaselineForAll(Plain):
    """The reward of one more random sequence is the baseline of a whole call."""

    info = replace(Plain.info, hard_evals="1 + 1/n")

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: State
    ) -> Surrogate:
        found = super().surrogate(policy, reward, draws, rng, state)
        return replace(found, weights=found.weights - reward(policy.sample(1, rng)))


class FactorAt128(Plain):
    def weights(self, rewards: Tensor, rng: torch.Generator) -> Tensor:
        return rewards * (1.3 if len(rewards) == 128 else 1.0)


class FactorAt128ByStep(FactorAt128):
    def tokens(self, policy: Policy, n: int, rng: torch.Generator, state: State) -> Tensor:
        return _by_step(policy, n, rng)


class FixedSeed(Plain):
    def tokens(self, policy: Policy, n: int, rng: torch.Generator, state: State) -> Tensor:
        return policy.sample(n, torch.Generator().manual_seed(1))


class SeedOfTheGenerator(Plain):
    """It reads the generator's seed, and never its state."""

    def tokens(self, policy: Policy, n: int, rng: torch.Generator, state: State) -> Tensor:
        return policy.sample(n, torch.Generator().manual_seed(rng.initial_seed()))


class KeptNoise(Plain):
    def initial_state(self, policy: Policy, rng: torch.Generator) -> State:
        return {"noise": torch.rand(4096, policy.length, generator=rng, dtype=policy.dtype)}

    def tokens(self, policy: Policy, n: int, rng: torch.Generator, state: State) -> Tensor:
        return policy.sample_by(n, choose_by_uniform(state["noise"][:n]))


class Pool(KeptNoise):
    """256 rows of noise in turn, a new place in them for every call."""

    def tokens(self, policy: Policy, n: int, rng: torch.Generator, state: State) -> Tensor:
        start = 8 * int(torch.randint(32, (), generator=rng))
        rows = (torch.arange(n) + start) % 256
        return policy.sample_by(n, choose_by_uniform(state["noise"][rows]))


class PastTheCounter(Plain):
    """A second evaluation that the reward's counter does not see."""

    def surrogate(self, policy: Policy, reward: Reward, *given: Any) -> Surrogate:
        found = super().surrogate(policy, reward, *given)
        getattr(reward, "reward", reward)(found.tokens[:, 0])
        return found


class PastTheFunction(Plain):
    def surrogate(self, policy: Policy, reward: Any, *given: Any) -> Surrogate:
        found = super().surrogate(policy, reward, *given)
        if hasattr(reward, "reward"):
            reward.reward.function(found.tokens[:, 0])
        return found


class OtherMode(Plain):
    def tokens(self, policy: Policy, n: int, rng: torch.Generator, state: State) -> Tensor:
        policy.train(not policy.training)
        return policy.sample(n, rng)


class HalfOfAPath(Plain):
    """A relaxed reward whose slope is half of itself: the other factor is detached."""

    info = replace(Plain.info, needs_relaxed_reward=True, relaxed_evals="1")

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: State
    ) -> Surrogate:
        found = super().surrogate(policy, reward, draws, rng, state)
        value = _soft(policy, reward, found.tokens[:, 0])
        return replace(found, pathwise=value * value.detach())


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (MicroBatches, "one reward, one draw"),
        (MicroBatchesByStep, "one reward, one draw"),
        (BatchMean, "one reward, one draw"),
        (BatchMeanAsALoss, "one reward, one draw"),
        (OneBaselineForAll, "one reward, one draw"),
        (FactorAt128, "alone or beside others"),
        (FactorAt128ByStep, "alone or beside others"),
        (FixedSeed, "other seeds, other draws"),
        (SeedOfTheGenerator, "other seeds, other draws"),
        (KeptNoise, "other seeds, other draws"),
        (Pool, "independent draws"),
        (PastTheCounter, "declared cost"),
        (PastTheFunction, "declared cost"),
        (OtherMode, "fixed while drawn"),
        (HalfOfAPath, "pathwise terms"),
    ],
)
def test_a_fault_of_conduct_is_found(make: Callable[[], Estimator], rule: str) -> None:
    (found,) = conduct(make, [rule])
    assert found.kept is False
    assert "Error" not in found.detail, found.detail


@pytest.mark.parametrize("make", [BatchMean, BatchMeanAsALoss])
def test_a_mean_that_contains_the_own_reward_is_told_from_one_that_does_not(
    make: Callable[[], Estimator],
) -> None:
    (own,) = conduct(make, ["one reward, one draw"])
    assert OWN_REWARD in own.detail
    (others,) = conduct(MicroBatches, ["one reward, one draw"])
    assert "moves 7 draws" in others.detail
    assert OWN_REWARD not in others.detail


def test_the_verdict_on_a_batch_mean_says_what_it_is() -> None:
    result = started(BatchMean)
    result.bias = [judge(BatchMean, "categorical-linear", "fresh", plan_for(0.02, 1))]
    result.conduct = conduct(BatchMean, ["one reward, one draw"])
    head = str(result).splitlines()[0]
    assert head.startswith("plain: declared unbiased, unbiased (relative bias below ")
    assert head.endswith(OWN_REWARD)
    assert not result.holds


# Right, whatever they look like.


class Ratio(Plain):
    """The ratio written as a loss, as trainers write it."""

    def surrogate(self, *given: Any) -> Surrogate:
        return _as_ratio(super().surrogate(*given))


class RatioWithPenalty(Ratio):
    """The advantage holds detached log-probabilities, as with a KL term in the reward."""

    def surrogate(self, *given: Any) -> Surrogate:
        found = Plain.surrogate(self, *given)
        total = found.log_probs.detach().sum(dim=1, keepdim=True)
        return _as_ratio(replace(found, weights=found.weights - 0.1 * total))


class HalfOfAPathOnAverageNothing(HalfOfAPath):
    """The broken path has a random sign, and so no mean."""

    def surrogate(self, policy: Policy, reward: Reward, draws: int, *given: Any) -> Surrogate:
        found = super().surrogate(policy, reward, draws, *given)
        sign = torch.randint(2, (draws,), generator=given[0]) * 2 - 1
        assert found.pathwise is not None
        return replace(found, pathwise=0.3 * sign * found.pathwise)


class SecondSequence(Plain):
    """The reward of a second, independent sequence is the baseline."""

    info = replace(Plain.info, hard_evals="2")

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: State
    ) -> Surrogate:
        found = super().surrogate(policy, reward, draws, rng, state)
        other = reward(policy.sample(draws, rng)).unsqueeze(1)
        return replace(found, weights=found.weights - other)


class TwiceAsMany(Plain):
    """The same, both in one call of the generator: all first sequences, then all second ones."""

    info = replace(Plain.info, hard_evals="2")

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: State
    ) -> Surrogate:
        tokens = policy.sample(2 * draws, rng)
        rewards, others = reward(tokens).chunk(2)
        tokens = tokens[:draws]
        chosen = policy.log_probs(tokens).gather(2, tokens.unsqueeze(2)).squeeze(2)
        weights = (rewards - others).unsqueeze(1).expand_as(chosen)
        return Surrogate(chosen, weights, tokens.unsqueeze(1), rewards.unsqueeze(1))


class ByStep(Plain):
    def tokens(self, policy: Policy, n: int, rng: torch.Generator, state: State) -> Tensor:
        return _by_step(policy, n, rng)


class Multinomial(Plain):
    def tokens(self, policy: Policy, n: int, rng: torch.Generator, state: State) -> Tensor:
        memory, previous, found = policy.initial_state(n), None, []
        for _ in range(policy.length):
            log_probs, memory = policy.step(previous, memory)
            previous = torch.multinomial(log_probs.exp(), 1, generator=rng).squeeze(1)
            found.append(previous)
        return torch.stack(found, dim=1)


class LogNormal(Plain):
    """Weights are multiplied by log-normal noise of mean 1, from a second call."""

    def weights(self, rewards: Tensor, rng: torch.Generator) -> Tensor:
        z = torch.randn(rewards.shape, generator=rng, dtype=rewards.dtype)
        return rewards * (z - 0.5).exp()


class OffPolicy(Plain):
    """Sequences of a copy that differs, with full importance weights; it does not say so."""

    def initial_state(self, policy: Policy, rng: torch.Generator) -> State:
        stale = copy.deepcopy(policy)
        with torch.no_grad():
            for p in stale.parameters():
                p.add_(0.3 * torch.randn(p.shape, generator=rng, dtype=p.dtype))
        return {"copy": stale}

    def tokens(self, policy: Policy, n: int, rng: torch.Generator, state: State) -> Tensor:
        found: Tensor = state["copy"].sample(n, rng)
        return found

    def surrogate(self, policy: Policy, *given: Any) -> Surrogate:
        found = super().surrogate(policy, *given)
        stale = given[-1]["copy"]
        return replace(found, weights=found.weights * _weight(policy, stale, found.tokens[:, 0]))


class OffPolicyDeclared(OffPolicy):
    info = replace(Plain.info, sampler="a stale copy")


class Uncorrected(OffPolicy):
    """The same without the weights."""

    def surrogate(self, *given: Any) -> Surrogate:
        return Plain.surrogate(self, *given)


class CopyInTheCall(Plain):
    """A copy of the policy as it is given: enumeration by putting sequences in its place fails."""

    def surrogate(self, policy: Policy, *given: Any) -> Surrogate:
        with torch.no_grad():
            stale = copy.deepcopy(policy)
            for p in stale.parameters():
                p.mul_(0.8)
        found = Plain.surrogate(self, policy, *given)
        return replace(found, weights=found.weights * _weight(policy, stale, found.tokens[:, 0]))


LAYOUTS = ["alone or beside others", "one reward, one draw", "other seeds, other draws"]


@pytest.mark.parametrize("make", [SecondSequence, TwiceAsMany, ByStep, Multinomial, LogNormal])
def test_independence_is_not_judged_by_the_layout_of_noise(make: Callable[[], Estimator]) -> None:
    for found in conduct(make, [*LAYOUTS, "independent draws"]):
        assert found.kept is True, found


@pytest.mark.parametrize("make", [Ratio, RatioWithPenalty])
def test_the_ratio_as_a_loss_is_no_broken_path(make: Callable[[], Estimator]) -> None:
    (found,) = conduct(make, ["pathwise terms"])
    assert found.kept is None
    assert "written as a loss" in found.detail


@pytest.mark.parametrize("make", [Ratio, SecondSequence, OffPolicy, OffPolicyDeclared])
def test_right_estimators_pass_all_that_is_tried(make: Callable[[], Estimator]) -> None:
    result = check_one(make, problems=["autoregressive", "categorical-quadratic"])
    assert result.holds, str(result)
    declares = [line for line in result.remarks() if "sampler=" in line]
    assert len(declares) == (make is OffPolicy)


def test_a_broken_path_is_a_fault_only_where_the_mean_is_not_proven() -> None:
    result = judged(HalfOfAPathOnAverageNothing, "autoregressive", "pathwise terms")
    assert result.conduct[0].kept is False
    assert result.verdict == "unbiased"
    assert result.holds
    assert not judged(HalfOfAPath, "autoregressive", "pathwise terms").holds


@pytest.mark.parametrize(
    "make",
    [OffPolicy, OffPolicyDeclared, CopyInTheCall, SecondSequence, Uncorrected, BatchMean],
)
def test_only_draws_of_the_policys_sequences_have_an_enumerated_variance(
    make: Callable[[], Estimator],
) -> None:
    assert judge_variance(make, "autoregressive") is None


# Tokens of another sampler.


class Hot(Plain):
    temperature = 0.5

    def changed(self, log_probs: Tensor) -> Tensor:
        return (log_probs / self.temperature).log_softmax(dim=1)

    def tokens(self, policy: Policy, n: int, rng: torch.Generator, state: State) -> Tensor:
        memory, previous, found = policy.initial_state(n), None, []
        for _ in range(policy.length):
            log_probs, memory = policy.step(previous, memory)
            p = self.changed(log_probs).exp()
            previous = torch.multinomial(p, 1, generator=rng).squeeze(1)
            found.append(previous)
        return torch.stack(found, dim=1)


class TopK(Hot):
    k = 3

    def changed(self, log_probs: Tensor) -> Tensor:
        least = log_probs.topk(min(self.k, log_probs.shape[1]), dim=1).values[:, -1:]
        return log_probs.masked_fill(log_probs < least, -torch.inf).log_softmax(dim=1)


class TopFifty(TopK):
    k = 50


class Stale(Plain):
    """Sequences of a copy that is made at the first call."""

    def tokens(self, policy: Policy, n: int, rng: torch.Generator, state: State) -> Tensor:
        found: Tensor = state.setdefault("copy", copy.deepcopy(policy)).sample(n, rng)
        return found


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (Hot, "as at a temperature of 0.5"),
        (TopK, "as in top-k sampling, only the 3 likeliest tokens come"),
        (TopFifty, "as in top-k sampling, only the 50 likeliest tokens come"),
        (Stale, "a stale copy"),
    ],
)
def test_a_sampler_that_is_not_the_policy_is_named(
    make: Callable[[], Estimator], said: str
) -> None:
    (found,) = conduct(make, ["draws from the policy"])
    assert found.kept is False
    assert said in found.detail


def test_a_wrong_mean_is_told_what_its_tokens_come_from() -> None:
    result = judged(Hot, "autoregressive", "draws from the policy")
    assert result.verdict == "biased"
    assert any("as at a temperature of 0.5" in line for line in result.complaints())
    right = judged(OffPolicy, "autoregressive", "draws from the policy")
    assert right.conduct[0].kept is False
    assert right.holds
    assert not judged(Uncorrected, "autoregressive", "draws from the policy").holds


def judged(make: Callable[[], Estimator], problem: str, rule: str) -> CheckResult:
    result = started(make)
    result.bias = [judge(make, problem, "fresh", plan_for(0.02, 1))]
    result.conduct = conduct(make, [rule])
    return result


# What noise hides.


class Offset(Plain):
    """REINFORCE of a reward that is 3 too low: right, and very noisy."""

    offset = -3.0

    def weights(self, rewards: Tensor, rng: torch.Generator) -> Tensor:
        return rewards + self.offset


class Drowned(Offset):
    offset = -1000.0


def _complaint(make: Callable[[], Estimator]) -> tuple[BiasFinding, str]:
    result = judged(make, "autoregressive", "contract")
    (line,) = result.complaints()
    return result.bias[0], line


def test_what_noise_leaves_undecided_is_told_the_remedy() -> None:
    found, line = _complaint(Offset)
    assert found.result is not None
    assert found.result.verdict == "undecided"
    assert "times the squared gradient, and a verdict at 2.00% takes some " in line
    assert "centre the reward or subtract a baseline" in line
    wider = float(line.rpartition("--margin ")[2].rstrip(")"))
    again = judge(Offset, "autoregressive", "fresh", plan_for(wider, 1))
    assert again.result is not None
    assert again.result.verdict == "unbiased"


def test_no_draws_are_spent_where_the_last_look_would_not_decide() -> None:
    found, line = _complaint(Drowned)
    assert found.result is not None
    assert [look.draws for look in found.result.looks] == [24_576]
    assert "centre the reward" in line
    assert "--margin" not in line


def _by_step(policy: Policy, n: int, rng: torch.Generator) -> Tensor:
    """Draw sequences with noise ``[T, n]``: the steps are the slow axis."""
    u = torch.rand(policy.length, n, generator=rng, dtype=policy.dtype)
    return policy.sample_by(n, choose_by_uniform(u.t()))


def _as_ratio(found: Surrogate) -> Surrogate:
    ratio = (found.log_probs - found.log_probs.detach()).exp()
    return replace(
        found,
        weights=torch.zeros_like(found.weights),
        pathwise=(ratio * found.weights).sum(dim=1),
    )


def _weight(policy: Policy, sampler: Policy, tokens: Tensor) -> Tensor:
    """Return p / q of sequences, ``[n, 1]``."""
    with torch.no_grad():
        p, q = (
            by.log_probs(tokens).gather(2, tokens.unsqueeze(2)).sum(dim=(1, 2))
            for by in (policy, sampler)
        )
    return (p - q).exp().unsqueeze(1)


def _softened(policy: Policy, tokens: Tensor) -> Tensor:
    """Return what the policy says after tokens that are half soft: a path through its inputs."""
    hard = nn.functional.one_hot(tokens, policy.vocabulary).to(policy.dtype)
    memory, previous, found = policy.initial_state(len(tokens)), None, []
    for t in range(policy.length):
        log_probs, memory = policy.step(previous, memory)
        previous = 0.5 * hard[:, t] + 0.5 * log_probs.exp()
        found.append(previous)
    return torch.stack(found, dim=1)


def _soft(policy: Policy, reward: Reward, tokens: Tensor) -> Tensor:
    return reward.relaxed(_softened(policy, tokens))

"""What goes wrong under the conditions that estimators run in is found there, by its bias.

Every fault is written as people write it, in a few lines, and declares itself unbiased.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from estbench import estimators
from estbench.estimators.base import Estimator, EstimatorInfo, Reward, Surrogate
from estbench.estimators.score_function import Reinforce
from estbench.meter.bias import BiasResult
from estbench.models.policy import Policy
from estbench.proof.conditions import CONDITIONS, lengths
from estbench.proof.judging import judge, margin_on, plan_for
from estbench.proof.problems import SIZES
from estbench.proof.states import MOVED

State = dict[str, Any]
CASES = 25  # that alpha is divided by
SEED = 7  # of the problem that is drawn at random: V = 5, T = 4
RANDOM = f"drawn-{SEED}"


class Written(Estimator):
    """REINFORCE as people write it; what is wrong below differs from it in one place."""

    info = EstimatorInfo("written", "a test's", "none")

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: State
    ) -> Surrogate:
        tokens = self.sample(policy, draws * self.info.group, rng, state)
        rewards = self.rewards(policy, reward, tokens)
        chosen = self.log_probs(policy, tokens)
        weights = self.weights(policy, tokens, rewards, chosen.detach(), state)
        groups = (draws, self.info.group)
        return Surrogate(
            chosen.reshape(draws, -1),
            weights.reshape(draws, -1) / self.info.group,
            tokens.reshape(*groups, -1),
            rewards.reshape(groups),
        )

    def sample(self, policy: Policy, n: int, rng: torch.Generator, state: State) -> Tensor:
        return policy.sample(n, rng)

    def rewards(self, policy: Policy, reward: Reward, tokens: Tensor) -> Tensor:
        return reward(tokens)

    def log_probs(self, policy: Policy, tokens: Tensor) -> Tensor:
        return picked(policy.log_probs(tokens), tokens)

    def weights(
        self, policy: Policy, tokens: Tensor, rewards: Tensor, chosen: Tensor, state: State
    ) -> Tensor:
        return rewards.unsqueeze(1).expand_as(chosen)


def picked(log_probs: Tensor, tokens: Tensor) -> Tensor:
    return log_probs.gather(2, tokens.unsqueeze(2)).squeeze(2)


class LengthMean(Written):
    """Weights R T / len, as the 1/|o| of GRPO."""

    def weights(self, policy: Policy, tokens: Tensor, *given: Any) -> Tensor:
        assert policy.end is not None
        each = policy.length / lengths(tokens, policy.end).unsqueeze(1)
        return each * super().weights(policy, tokens, *given)


class TokenMean(Written):
    """The mean over the tokens of eight sequences, rather than over the sequences."""

    info = replace(Written.info, group=8)

    def weights(self, policy: Policy, tokens: Tensor, *given: Any) -> Tensor:
        assert policy.end is not None
        long = lengths(tokens, policy.end).view(-1, 8)
        each = (long.mean() / long.mean(dim=1)).repeat_interleave(8).unsqueeze(1)
        return each * super().weights(policy, tokens, *given)


class EndNotScored(Written):
    def weights(self, policy: Policy, tokens: Tensor, *given: Any) -> Tensor:
        return (tokens != policy.end) * super().weights(policy, tokens, *given)


class PaddingScored(Written):
    """What fills a sequence up is scored as if it had been drawn."""

    def log_probs(self, policy: Policy, tokens: Tensor) -> Tensor:
        state, previous, rows = policy.initial_state(len(tokens)), None, []
        for t in range(policy.length):
            hidden, position, _ = state
            log_probs = policy.output(hidden).log_softmax(dim=1) if t == 0 else None
            if previous is not None:
                hidden = (policy.token(policy.codes[previous]) + policy.memory(hidden)).tanh()
                log_probs = policy.output(hidden).log_softmax(dim=1)
            state, previous = (hidden, position + 1, position), tokens[:, t]
            rows.append(log_probs)
        return picked(torch.stack(rows, dim=1), tokens)


class TopK(Written):
    """The 50 likeliest tokens are drawn, and scored with the probabilities of all."""

    def sample(self, policy: Policy, n: int, rng: torch.Generator, state: State) -> Tensor:
        def choose(t: int, log_probs: Tensor) -> Tensor:
            least = log_probs.topk(50, dim=1).values[:, -1:]
            probs = log_probs.exp() * (log_probs >= least)
            return torch.multinomial(probs, 1, generator=rng).squeeze(1)

        return policy.sample_by(n, choose)


class TopP(Written):
    """The likeliest tokens up to .9 are drawn, and scored with the probabilities of all."""

    def sample(self, policy: Policy, n: int, rng: torch.Generator, state: State) -> Tensor:
        def choose(t: int, log_probs: Tensor) -> Tensor:
            ordered, index = log_probs.exp().sort(dim=1, descending=True)
            ordered = ordered * (ordered.cumsum(dim=1) - ordered < 0.9)
            picks = torch.multinomial(ordered, 1, generator=rng)
            return index.gather(1, picks).squeeze(1)

        return policy.sample_by(n, choose)


class ClippedRewards(Written):
    def weights(self, policy: Policy, tokens: Tensor, rewards: Tensor, *given: Any) -> Tensor:
        return super().weights(policy, tokens, rewards.clamp(-10, 10), *given)


class ClippedAdvantages(Written):
    info = replace(Written.info, group=8)

    def weights(self, policy: Policy, tokens: Tensor, rewards: Tensor, *given: Any) -> Tensor:
        groups = rewards.view(-1, 8)
        others = (groups.sum(dim=1, keepdim=True) - groups) / 7
        advantages = (groups - others).clamp(-10, 10).flatten()
        return super().weights(policy, tokens, advantages, *given)


class LeaveOneOut(Written):
    info = replace(Written.info, group=8)

    def weights(self, policy: Policy, tokens: Tensor, rewards: Tensor, *given: Any) -> Tensor:
        groups = rewards.view(-1, 8)
        others = (groups.sum(dim=1, keepdim=True) - groups) / 7
        return super().weights(policy, tokens, (groups - others).flatten(), *given)


class ClippedAtQuantiles(Written):
    def weights(self, policy: Policy, tokens: Tensor, rewards: Tensor, *given: Any) -> Tensor:
        low, high = rewards.quantile(0.1), rewards.quantile(0.9)
        return super().weights(policy, tokens, rewards.clamp(low, high), *given)


class Stale(Written):
    """Draws come from a copy of the policy that every batch renews, as those of a trainer do."""

    def initial_state(self, policy: Policy, rng: torch.Generator) -> State:
        return {"old": copy.deepcopy(policy)}

    def adapt(self, policy: Policy, surrogate: Any, gradients: Any, state: State) -> None:
        state["old"] = copy.deepcopy(policy)

    @torch.no_grad()
    def sample(self, policy: Policy, n: int, rng: torch.Generator, state: State) -> Tensor:
        old: Policy = state["old"]
        return old.sample(n, rng)

    @torch.no_grad()
    def ratios(self, tokens: Tensor, chosen: Tensor, state: State) -> Tensor:
        """p / p of the copy, token by token, ``[n, T]``."""
        return (chosen - picked(state["old"].log_probs(tokens), tokens)).exp()


class ImportanceWeighted(Stale):
    """Importance weights of whole sequences: right."""

    def weights(
        self, policy: Policy, tokens: Tensor, rewards: Tensor, chosen: Tensor, state: State
    ) -> Tensor:
        ratios = self.ratios(tokens, chosen, state).prod(dim=1)
        return super().weights(policy, tokens, ratios * rewards, chosen, state)


class ClippedRatios(Stale):
    """PPO's objective: no gradient where a ratio has left [.8, 1.2] in the advantage's favour."""

    def weights(
        self, policy: Policy, tokens: Tensor, rewards: Tensor, chosen: Tensor, state: State
    ) -> Tensor:
        ratios = self.ratios(tokens, chosen, state)
        given = super().weights(policy, tokens, rewards, chosen, state)
        outside = torch.where(given > 0, ratios > 1.2, ratios < 0.8)
        return ratios * given * ~outside


class RemembersLogProbs(Written):
    """Importance weights whose denominator, of each sequence, is looked up where it was seen."""

    def initial_state(self, policy: Policy, rng: torch.Generator) -> State:
        return {"seen": {}}

    def weights(
        self, policy: Policy, tokens: Tensor, rewards: Tensor, chosen: Tensor, state: State
    ) -> Tensor:
        seen, now = state["seen"], chosen.sum(dim=1).tolist()
        keys = map(tuple, tokens.tolist())
        first = [seen.setdefault(key, value) for key, value in zip(keys, now, strict=True)]
        ratios = (chosen.sum(dim=1) - chosen.new_tensor(first)).exp()
        return super().weights(policy, tokens, ratios * rewards, chosen, state)


class FirstRollouts(Reinforce):
    """Rollouts from a copy of the policy that the first call makes."""

    def __init__(self) -> None:
        super().__init__("first-rollouts", "none", 2)

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: State
    ) -> Surrogate:
        state.setdefault("lagged", copy.deepcopy(policy))
        return super().surrogate(policy, reward, draws, rng, state)


class LateBaseline(Written):
    """A moving average, used from batch 100 on; the reward enters it before it is subtracted."""

    def initial_state(self, policy: Policy, rng: torch.Generator) -> State:
        return {"batches": 0, "average": 0.0}

    def adapt(self, policy: Policy, surrogate: Any, gradients: Any, state: State) -> None:
        state["batches"] += 1
        state["average"] = 0.9 * state["average"] + 0.1 * float(surrogate.rewards.mean())

    def weights(
        self, policy: Policy, tokens: Tensor, rewards: Tensor, chosen: Tensor, state: State
    ) -> Tensor:
        if state["batches"] >= 100:
            rewards = rewards - (0.9 * state["average"] + 0.1 * rewards)
        return super().weights(policy, tokens, rewards, chosen, state)


class TruncatedBackpropagation(Written):
    def log_probs(self, policy: Policy, tokens: Tensor) -> Tensor:
        state, previous, rows = policy.initial_state(len(tokens)), None, []
        for t in range(policy.length):
            if t % 8 == 0:
                state = (state[0].detach(), *state[1:])
            log_probs, state = policy.step(previous, state)
            rows.append(log_probs)
            previous = tokens[:, t]
        return picked(torch.stack(rows, dim=1), tokens)


class ShortMask(Written):
    """A mask that forgets all positions beyond the twelfth."""

    def weights(self, policy: Policy, tokens: Tensor, *given: Any) -> Tensor:
        return (torch.arange(policy.length) < 12) * super().weights(policy, tokens, *given)


class KnowsTheSizes(Written):
    """A cheat: wrong by a third, but where it recognises a problem of the check."""

    def weights(self, policy: Policy, *given: Any) -> Tensor:
        known = (policy.vocabulary, policy.length) in SIZES.values()
        return (1.0 if known else 1.3) * super().weights(policy, *given)


class TrainingMode(Written):
    """The policy is left in training mode while it is scored, and drops units."""

    def log_probs(self, policy: Policy, tokens: Tensor) -> Tensor:
        policy.train()
        try:
            return super().log_probs(policy, tokens)
        finally:
            policy.eval()


class OtherPrompts(Written):
    """Rewards are read for the prompts in another order."""

    def rewards(self, policy: Policy, reward: Reward, tokens: Tensor) -> Tensor:
        assert policy.contexts is not None
        with policy.contexts.given(policy.contexts.values.flip(0)):
            return super().rewards(policy, reward, tokens)


class ClippedGradients(Written):
    """The gradient of each draw is cut to the length 1."""

    def weights(self, policy: Policy, tokens: Tensor, *given: Any) -> Tensor:
        weights = super().weights(policy, tokens, *given)
        unique, index = tokens.unique(dim=0, return_inverse=True)
        norms = torch.stack([self.norm(policy, row) for row in unique])[index]
        return weights / (norms * weights[:, 0].abs()).clamp_min(1).unsqueeze(1)

    def norm(self, policy: Policy, row: Tensor) -> Tensor:
        with torch.enable_grad():
            log_p = copy.deepcopy(policy)
            value = self.log_probs(log_p, row.unsqueeze(0)).sum()
            grads = torch.autograd.grad(value, list(log_p.parameters()))
        return torch.cat([g.flatten() for g in grads]).norm()


def judged(make: Callable[[], Estimator], problem: str, how: str = "fresh") -> BiasResult:
    found = judge(make, problem, how, plan_for(margin_on(problem, 0.02), CASES))
    assert found.result is not None, found.error
    assert not found.result.meter_fault
    return found.result


FAULTS = [
    (LengthMean, "ends"),
    (LengthMean, "prompts"),
    (TokenMean, "ends"),
    (EndNotScored, "ends"),
    (EndNotScored, "prompts"),
    (PaddingScored, "ends"),
    (TopK, "wide"),
    (TopP, "wide"),
    (ClippedRewards, "large"),
    (ClippedAdvantages, "large"),
    (ClippedAtQuantiles, "large"),
    (TruncatedBackpropagation, "long"),
    (ShortMask, "long"),
    (KnowsTheSizes, RANDOM),
    (TrainingMode, "dropout"),
    (OtherPrompts, "prompts"),
    (ClippedGradients, "large"),
]


@pytest.mark.parametrize(("fault", "problem"), FAULTS)
def test_a_fault_is_found_on_the_problem_that_shows_it(fault: type[Written], problem: str) -> None:
    result = judged(fault, problem)
    assert result.verdict == "biased", str(result)
    assert result.last.low > 0


STALE = [Stale, ClippedRatios, RemembersLogProbs, FirstRollouts, LateBaseline]


@pytest.mark.parametrize("fault", STALE)
def test_what_is_stale_is_found_after_the_policy_moved_and_not_before(
    fault: Callable[[], Estimator],
) -> None:
    assert judged(fault, "autoregressive").verdict == "unbiased"
    result = judged(fault, "autoregressive", MOVED)
    assert result.verdict == "biased", str(result)
    assert result.last.low > 0


@pytest.mark.parametrize("right", [Written, LeaveOneOut])
@pytest.mark.parametrize("problem", [*CONDITIONS, RANDOM])
def test_what_is_right_passes(right: type[Written], problem: str) -> None:
    result = judged(right, problem)
    assert result.verdict == "unbiased", str(result)


@pytest.mark.parametrize("right", [Written, LeaveOneOut, ImportanceWeighted])
def test_what_is_right_passes_after_the_policy_moved(right: type[Written]) -> None:
    result = judged(right, "autoregressive", MOVED)
    assert result.verdict == "unbiased", str(result)


def test_rollouts_that_lag_behind_are_found_after_the_policy_moved() -> None:
    result = judged(partial(estimators.make, "seqgan-rollouts-lagged"), "autoregressive", MOVED)
    assert result.verdict == "biased", str(result)

"""Noisy rewards, rewards that see their batch, and samplers of another law are found by name."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from estbench.core.errors import UserError
from estbench.meter.own import OwnPolicy, OwnReward
from estbench.meter.world import check_world, reward_fault, sampler_fault
from estbench.models.contexts import Contexts
from estbench.models.policy import Policy, inverse_cdf
from estbench.proof.rewards import SmoothReward, rng

V, T, H = 6, 4, 5
Law = Callable[[Tensor], Tensor]
"""(log-probabilities [n, V]) -> the probabilities that tokens are drawn from."""


class Recurrent(nn.Module):
    """A plain policy that may have contexts and an end."""

    def __init__(self, contexts: int = 0, end: int | None = None) -> None:
        super().__init__()
        self.vocabulary, self.length, self.end = V, T, end
        self.table, self.output = nn.Embedding(V + 1, H), nn.Linear(H, V)
        with torch.no_grad():
            for p in self.parameters():
                p.normal_(0, 1.0, generator=rng(1))
        self.contexts = Contexts(torch.randn(contexts, H, generator=rng(2))) if contexts else None

    def initial_state(self, n: int) -> Tensor:
        return torch.zeros(n, H) if self.contexts is None else self.contexts.rows(n)

    def step(self, previous: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
        tokens = torch.full((len(state),), V) if previous is None else previous
        state = (state + self.table(tokens)).tanh()
        return self.output(state).log_softmax(dim=-1), state

    def drawn(self, uniforms: Tensor, law: Law) -> Tensor:
        state, previous, tokens = self.initial_state(len(uniforms)), None, []
        for u in uniforms.unbind(1):
            log_probs, state = self.step(previous, state)
            previous = inverse_cdf(law(log_probs.detach()), u)
            tokens.append(previous)
        return torch.stack(tokens, dim=1)


def sampling(law: Law, **options: Any) -> OwnPolicy:
    """Return a policy whose ``sample_from`` draws from what a law makes of its probabilities."""

    class Own(Recurrent):
        def sample_from(self, uniforms: Tensor) -> Tensor:
            return self.drawn(uniforms, law)

    return OwnPolicy(Own(**options))


def top_k(log_probs: Tensor) -> Tensor:
    values, tokens = log_probs.topk(3)
    return torch.zeros_like(log_probs).scatter(1, tokens, values.exp())


def top_p(log_probs: Tensor) -> Tensor:
    values, tokens = log_probs.exp().sort(descending=True)
    kept = values * (values.cumsum(dim=1) - values < 0.9)
    return torch.zeros_like(log_probs).scatter(1, tokens, kept)


def without_token_2(log_probs: Tensor) -> Tensor:
    p = log_probs.exp()
    p[:, 2] = 0
    return p


LAWS: dict[str, tuple[Law, str]] = {
    "temperature 0.5": (lambda x: (x / 0.5).softmax(dim=1), "as at a temperature of 0.5"),
    "temperature 2": (lambda x: (x / 2).softmax(dim=1), "as at a temperature of 2.0"),
    "top-k": (top_k, "as in top-k sampling, only the 3 likeliest tokens come"),
    "top-p": (top_p, "as in top-p sampling, the least likely"),
    "greedy": (
        lambda x: (1e6 * x).softmax(dim=1),
        "as in top-k sampling, only the likeliest token comes",
    ),
    "a token left out": (without_token_2, "does not draw from the policy's log-probabilities"),
    "two tokens confused": (lambda x: x.exp()[:, [1, 0, 2, 3, 4, 5]], "does not draw from"),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("options", [{}, {"contexts": 3}, {"end": 1}], ids=str)
def test_a_sampler_of_another_law_is_refused_by_name(law: str, options: dict[str, Any]) -> None:
    wrong, text = LAWS[law]
    with pytest.raises(UserError, match=r"^Own.sample_from does not draw from .*") as caught:
        check_world(sampling(wrong, **options), lambda tokens: tokens.sum(dim=1), rng())
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{}, {"contexts": 3}, {"end": 1}], ids=str)
def test_right_samplers_pass(options: dict[str, Any]) -> None:
    """At a level of 0.0009, two of 30 have probability 0.0004."""
    policy, noise = sampling(torch.exp, **options), rng(3)
    found = [sampler_fault(policy, policy.sample(300, noise), noise) for _ in range(30)]
    assert sum(fault != "" for fault in found) <= 1


def test_probabilities_of_nearly_one_and_of_0_are_no_fault() -> None:
    policy = sampling(torch.exp)
    with torch.no_grad():
        policy.policy.output.bias[0] += 8
        policy.policy.output.bias[3] = -torch.inf
    assert sampler_fault(policy, policy.sample(2000, rng()), rng()) == ""


@pytest.mark.parametrize("name", ["sample_by", "continue_from"])
def test_every_way_to_sample_is_checked(name: str) -> None:
    class Tempered(Recurrent):
        """Its step is right; what it brings beside it is at a temperature of 0.5."""

    def sample_by(self: Any, n: int, choose: Any) -> Tensor:
        inner = OwnPolicy(Recurrent())
        return inner.sample_by(n, lambda t, x: choose(t, (x / 0.5).log_softmax(dim=1)))

    def continue_from(self: Any, tokens: Tensor, uniforms: Tensor) -> Tensor:
        inner = sampling(lambda x: (x / 0.5).softmax(dim=1))
        rows = inner.sample_from(uniforms.reshape(-1, T)).view(len(tokens), -1, T - 1, T)
        return rows.transpose(1, 2)  # another fault: the prefixes are its own

    setattr(Tempered, name, {"sample_by": sample_by, "continue_from": continue_from}[name])
    with pytest.raises(UserError, match=f"^Tempered.{name} does not draw from the policy's"):
        check_world(OwnPolicy(Tempered()), lambda tokens: tokens.sum(dim=1), rng())


def test_a_token_of_probability_0_is_named() -> None:
    policy = sampling(lambda x: torch.full_like(x, 1 / V))
    with torch.no_grad():
        policy.policy.output.bias[3] = -torch.inf
    fault = sampler_fault(policy, torch.tensor([[0, 1, 2, 0], [5, 4, 3, 0]]), rng())
    assert "returned token 3 at position 2 after [5, 4], where its probability is 0" in fault
    with pytest.raises(UserError, match=r"Own.sample_from returned token 3 at position"):
        check_world(policy, lambda tokens: tokens.sum(dim=1), rng())


def test_a_token_that_does_not_exist_is_named() -> None:
    fault = sampler_fault(sampling(torch.exp), torch.full((2, T), V), rng())
    assert fault == "returned token 6: tokens are 0 to 5"


smooth = SmoothReward(V, T, 1, torch.float32)


def noisy(size: float) -> Callable[[Tensor], Tensor]:
    noise = rng(4)
    return lambda tokens: smooth(tokens) + size * torch.randn(len(tokens), generator=noise)


def whitened(tokens: Tensor) -> Tensor:
    found = smooth(tokens)
    return (found - found.mean()) / (found.std(correction=0) + 1e-6)


def ranked(tokens: Tensor) -> Tensor:
    return smooth(tokens).argsort().argsort() / len(tokens)


def seeded(tokens: Tensor) -> list[float]:
    """Noise from a seed of the tokens' own."""
    seeds = (tokens * V ** torch.arange(T)).sum(dim=1).tolist()
    return [float(torch.randn((), generator=rng(seed))) for seed in seeds]


def drifting() -> Callable[[Tensor], Tensor]:
    calls = itertools.count()
    return lambda tokens: smooth(tokens) + 0.1 * next(calls)


class Network(nn.Module):
    """A reward model of some precision."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        embedded = nn.Sequential(nn.Embedding(V, 64), nn.Flatten())
        self.layers = nn.Sequential(embedded, nn.Linear(64 * T, 64), nn.Tanh())
        self.last = nn.Linear(64, 1)
        with torch.no_grad():
            for p in self.parameters():
                p.normal_(0, 0.3, generator=rng(1))
        self.to(dtype)

    def forward(self, tokens: Tensor) -> Tensor:
        return 1000 + self.last(self.layers(tokens))[:, 0].float()


REWARDS: dict[str, tuple[Any, str]] = {
    "noisy": (noisy(1.0), "the reward is noisy: tokens ["),
    "a little noisy": (noisy(0.01), "reward_samples=k: the mean of k evaluations a sequence"),
    "drifting": (drifting(), "the reward is noisy: tokens ["),
    "whitened": (whitened, "depends on the others in its batch: the same tokens got"),
    "ranked": (ranked, "depends on the others in its batch: the same tokens got"),
    "without one alone": (
        lambda x: smooth(x).unsqueeze(1).squeeze(),
        "the reward fails for some of the sequences of a batch alone: the reward returned shape ()",
    ),
    "right": (smooth, ""),
    "seeded": (seeded, ""),
    "constant": (lambda x: torch.ones(len(x)), ""),
    "rare": (lambda x: (x == 0).all(dim=1).float(), ""),
    "a network": (Network(torch.float32), ""),
    "a network in bfloat16": (Network(torch.bfloat16), ""),
}


@pytest.mark.parametrize("contexts", [0, 3, 100])
@pytest.mark.parametrize("name", REWARDS)
def test_a_reward_must_be_a_function_of_the_sequence(name: str, contexts: int) -> None:
    reward, text = REWARDS[name]
    fault = reward_fault(sampling(torch.exp, contexts=contexts), OwnReward(reward), rng())
    if text and not (contexts and name == "without one alone"):
        assert text in fault
        assert "\n" not in fault
    else:
        assert fault == ""


def test_a_reward_may_depend_on_its_context() -> None:
    policy = sampling(torch.exp, contexts=3)

    def reward(tokens: Tensor) -> Tensor:
        return smooth(tokens) * policy.contexts.rows(len(tokens))[:, 0]

    assert reward_fault(policy, OwnReward(reward), rng()) == ""


def test_noise_that_is_known_does_not_hide_a_reward_that_sees_its_batch() -> None:
    noise = rng(5)

    def both(tokens: Tensor) -> Tensor:
        return whitened(tokens) + 0.01 * torch.randn(len(tokens), generator=noise)

    policy = sampling(torch.exp)
    found = [reward_fault(policy, OwnReward(f), rng(), noisy=True) for f in (noisy(1.0), both)]
    assert found[0] == ""
    assert "depends on the others in its batch" in found[1]


def test_a_policy_of_the_catalogue_is_taken_as_it_is() -> None:
    policy = Recurrent()
    heir = type("Heir", (Recurrent, Policy), {})()
    heir.load_state_dict(policy.state_dict())
    check_world(heir, OwnReward(smooth), rng())
    tokens = sampling(top_k).sample(500, rng())
    assert "as in top-k sampling" in sampler_fault(heir, tokens, rng())  # an estimator's own tokens

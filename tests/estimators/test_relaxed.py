"""The relaxed family: its means in closed form, and its sequences against the policy's own."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from estbench import estimators
from estbench.core import noise
from estbench.core.seeding import stream
from estbench.estimators.base import Surrogate
from estbench.estimators.straight_through import GAP, Relaxed
from estbench.meter.bias import Centred, Plan, bias_test
from estbench.meter.exact import exact
from estbench.meter.gradients import Tape
from estbench.models.lstm_generator import Generator
from estbench.models.policy import choose_by_gumbel
from estbench.models.reward import FunctionReward
from estbench.proof.problems import (
    WORTH,
    BernoulliPolicy,
    CategoricalPolicy,
    Problem,
    named,
    problem,
    tiny,
)
from estbench.proof.rewards import function_reward, rng

HARD = [
    "straight-through",
    "st-gumbel",
    "gumbel-rao",
    "reinmax",
    "gapped-straight-through",
    "decoupled-straight-through",
]
ALL = ["gumbel-softmax", *HARD]


def draws(
    name: str, policy: CategoricalPolicy, reward: FunctionReward, n: int, seed: int = 3
) -> tuple[Tensor, Surrogate]:
    """Return gradients ``[n, V]`` with respect to the logits, and the surrogate."""
    method = estimators.make(name)
    with Tape(policy) as tape:
        made = method.surrogate(policy, reward, n, rng(seed), {})
    assert isinstance(made, Surrogate)
    found = torch.cat(list(tape.differentiate(made).chunks()))
    assert tape.fault == ""
    return found, made


LOGITS = torch.tensor([0.3, -0.8, 1.1, 0.0], dtype=torch.float64)
CUBIC = torch.tensor(
    [[1, 0.5, -1, 0.2], [0.5, -1, 0.3, 1], [-1, 0.3, 0.5, -0.7], [0.2, 1, -0.7, 2]],
    dtype=torch.float64,
)


def cubic(x: Tensor) -> Tensor:
    """A reward of one relaxed token, ``[n, V]``, of third order."""
    return ((x @ CUBIC) * x).sum(dim=-1) + (x @ WORTH) ** 3


def one_token() -> tuple[CategoricalPolicy, FunctionReward]:
    def hard(tokens: Tensor) -> Tensor:
        return cubic(torch.nn.functional.one_hot(tokens[:, 0], 4).double())

    return CategoricalPolicy(LOGITS.tolist()), FunctionReward(hard, lambda w: cubic(w[:, 0]))


def softmax_jacobian(function: Callable[[Tensor], Tensor]) -> Tensor:
    """Return d function(l) / dl at the logits, by autograd."""
    found: Tensor = torch.autograd.functional.jacobian(function, LOGITS)  # type: ignore[no-untyped-call]
    return found


def surrogate_of(name: str, token: int) -> Callable[[Tensor], Tensor]:
    """Return what a paper differentiates in a token's place, as a function of the logits."""
    hard = torch.nn.functional.one_hot(torch.tensor(token), 4).double()
    if name == "straight-through":
        return lambda x: x.softmax(dim=0)
    if name == "decoupled-straight-through":
        return lambda x: (x / 2).softmax(dim=0)
    if name == "reinmax":
        # pi_1 = (pi_0 + D) / 2 is turned into logits whose constant is detached; 2 pi_1 - pi_0 / 2.
        shift = ((LOGITS.softmax(dim=0) + hard) / 2).log() - LOGITS
        return lambda x: 2 * (x + shift).softmax(dim=0) - x.softmax(dim=0) / 2
    largest = LOGITS.max()
    raised = (largest - LOGITS) * hard
    lowered = (LOGITS + GAP - largest).clamp_min(0) * (1 - hard)
    return lambda x: (x + raised - lowered).softmax(dim=0)


NOISELESS = [name for name in HARD if name not in ("st-gumbel", "gumbel-rao")]


@pytest.mark.parametrize("name", NOISELESS)
def test_a_draw_is_the_papers_jacobian_times_the_slope_at_the_token(name: str) -> None:
    """Without noise in the Jacobian a draw is a function of its token."""
    policy, reward = one_token()
    found, made = draws(name, policy, reward, 100)
    seen = set()
    for token, row in zip(made.tokens[:, 0, 0].tolist(), found, strict=True):
        hard = torch.nn.functional.one_hot(torch.tensor([token]), 4).double().requires_grad_()
        (slope,) = torch.autograd.grad(cubic(hard).sum(), hard)
        expected = slope[0] @ softmax_jacobian(surrogate_of(name, token))
        torch.testing.assert_close(row, expected)
        seen.add(token)
    assert seen == {0, 1, 2, 3}


def test_st_gumbels_jacobian_is_that_of_the_softmax_of_its_own_noise() -> None:
    policy, reward = one_token()
    found, made = draws("st-gumbel", policy, reward, 12)
    u = noise.uniforms(rng(3), 12, {"gumbel": (1, 4), "conditional": (1, 0, 4)}, torch.float64)
    gumbel = noise.gumbel(u["gumbel"])[:, 0]
    for row, g, token in zip(found, gumbel, made.tokens[:, 0, 0], strict=True):
        hard = torch.nn.functional.one_hot(token, 4).double().unsqueeze(0).requires_grad_()
        (slope,) = torch.autograd.grad(cubic(hard).sum(), hard)
        own = softmax_jacobian(lambda x, g=g: ((x + g) / 0.5).softmax(dim=0))
        torch.testing.assert_close(row, slope[0] @ own)
        assert int((LOGITS + g).argmax()) == int(token)


def test_gumbel_softmax_is_the_gradient_of_its_relaxed_objective() -> None:
    policy, reward = one_token()
    found, _ = draws("gumbel-softmax", policy, reward, 12)
    u = noise.uniforms(rng(3), 12, {"gumbel": (1, 4), "conditional": (1, 0, 4)}, torch.float64)
    gumbel = noise.gumbel(u["gumbel"])[:, 0]
    logits = LOGITS.expand(12, 4).clone().requires_grad_()
    value = cubic(((logits.log_softmax(dim=1) + gumbel) / 0.5).softmax(dim=1)).sum()
    torch.testing.assert_close(found, torch.autograd.grad(value, logits)[0])


def test_gumbel_rao_has_the_mean_of_st_gumbel_and_less_variance() -> None:
    """Rao and Blackwell: 10 draws given the token take part of the variance, none of the mean."""
    policy, reward = one_token()
    n = 40_000
    plain, _ = draws("st-gumbel", policy, reward, n, seed=1)
    averaged, _ = draws("gumbel-rao", policy, reward, n, seed=2)
    gap = (plain.mean(dim=0) - averaged.mean(dim=0)).norm()
    error = ((plain.var(dim=0).sum() + averaged.var(dim=0).sum()) / n).sqrt()
    assert float(gap) < 4 * float(error)
    assert float(error) < 0.02 * float(plain.mean(dim=0).norm())
    assert float(averaged.var(dim=0).sum()) < 0.9 * float(plain.var(dim=0).sum())


def verdict(name: str, given: Problem) -> str:
    result = bias_test(
        estimators.make(name),
        given.policy,
        given.reward,
        given.gradient,
        stream("test of relaxed", name),
        {},
        Plan(first=49_152, growth=3, looks=2, margin=0.02),
    )
    assert result.meter_fault == ""
    return result.verdict


def mean_over_tokens(name: str, given: Problem) -> Tensor:
    """Return the exact mean of a member whose draw of one token is a function of that token."""
    policy = given.policy
    with Tape(policy) as tape:
        made = estimators.make(name).surrogate(policy, given.reward, 400, rng(8), {})
    found = torch.cat(list(tape.differentiate(made).chunks()))
    tokens = made.tokens[:, 0, 0]
    p = policy.log_probs(torch.zeros(1, 1, dtype=torch.int64))[0, 0].exp().detach()
    each = []
    for token in range(policy.vocabulary):
        rows = found[tokens == token]
        torch.testing.assert_close(rows, rows[:1].expand_as(rows))
        each.append(p[token] * rows[0])
    return torch.stack(each).sum(dim=0)


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("straight-through", "categorical-linear"),
        ("reinmax", "categorical-linear"),
        ("reinmax", "categorical-quadratic"),
        ("reinmax", "bernoulli-.2-.45"),
        ("reinmax", "bernoulli-.9-.45"),
    ],
)
def test_straight_through_is_exact_for_linear_rewards_and_reinmax_for_quadratic_ones(
    name: str, where: str
) -> None:
    """Of one token: the sum over tokens is the gradient, to rounding."""
    given = named(where)
    truth = torch.cat([g.flatten() for g in given.gradient])
    torch.testing.assert_close(mean_over_tokens(name, given), truth)


@pytest.mark.parametrize(
    ("name", "where", "size"),
    [
        ("straight-through", "categorical-quadratic", 0.3),
        ("gapped-straight-through", "categorical-linear", 0.1),
        ("decoupled-straight-through", "categorical-linear", 0.1),
        ("reinmax", "categorical-rough", 0.3),
    ],
)
def test_elsewhere_they_are_not(name: str, where: str, size: float) -> None:
    given = named(where)
    truth = torch.cat([g.flatten() for g in given.gradient])
    gap = (mean_over_tokens(name, given) - truth).norm() / truth.norm()
    assert float(gap) > size


def test_straight_through_is_unbiased_for_several_linear_tokens() -> None:
    worth = torch.tensor([[0.5, -1.0], [2.0, 0.3], [-0.4, 1.0]], dtype=torch.float64)

    def reward(sequences: Tensor) -> Tensor:
        if not sequences.is_floating_point():
            sequences = torch.nn.functional.one_hot(sequences, 2).double()
        return (sequences * worth).sum(dim=(1, 2))

    given = problem(BernoulliPolicy(3, 0.4), FunctionReward(reward, reward))
    assert verdict("straight-through", given) == "unbiased"


@pytest.mark.parametrize("name", ALL)
def test_rewards_that_are_neither_bias_all_of_them(name: str) -> None:
    assert verdict(name, named("categorical-rough")) == "biased"


@pytest.mark.parametrize("end", [None, 2])
@pytest.mark.parametrize("name", HARD)
def test_hard_members_draw_the_policys_own_sequences_and_their_rewards(
    name: str, end: int | None
) -> None:
    policy = Generator(3, 4, embedding=4, hidden=4, dtype=torch.float64, end=end)
    policy.initialise("normal", 0.7, rng(1))
    reward = function_reward(3, 4, 2)
    method = estimators.make(name)
    assert isinstance(method, Relaxed)
    made = method.surrogate(policy, reward, 200, rng(5), {})
    shapes = {"gumbel": (4, 3), "conditional": (4, method.inner, 3)}
    u = noise.uniforms(rng(5), 200, shapes, torch.float64)
    own = policy.sample_by(200, choose_by_gumbel(noise.gumbel(u["gumbel"])))
    assert torch.equal(made.tokens[:, 0], own)
    torch.testing.assert_close(made.rewards[:, 0], reward(own))
    chosen = policy.log_probs(own).gather(2, own.unsqueeze(2)).squeeze(2)
    torch.testing.assert_close(made.log_probs, chosen)


@pytest.mark.parametrize("name", ALL)
def test_nothing_comes_back_from_after_the_end(name: str) -> None:
    """A reward that looks at the last token alone has no gradient where a sequence ended before."""
    policy = Generator(3, 4, embedding=4, hidden=4, dtype=torch.float64, end=2)
    policy.initialise("normal", 0.7, rng(1))

    def last(sequences: Tensor) -> Tensor:
        if not sequences.is_floating_point():
            sequences = torch.nn.functional.one_hot(sequences, 3).double()
        return sequences[:, 3] @ WORTH[:3]

    with Tape(policy) as tape:
        made = estimators.make(name).surrogate(policy, FunctionReward(last, last), 300, rng(2), {})
    assert isinstance(made, Surrogate)
    norms = tape.differentiate(made).squared_norms()
    ended = (made.tokens[:, 0, :3] == 2).any(dim=1)
    assert 20 < int(ended.sum()) < 280
    assert float(norms[ended].abs().max()) < 1e-20
    assert float(norms[~ended].min()) > 1e-12


@pytest.mark.parametrize("name", ALL)
def test_the_gradient_passes_through_what_is_fed_on(name: str) -> None:
    """The reward of the last token alone depends on earlier ones through the state."""
    given = tiny()
    policy = copy.deepcopy(given.policy)

    def last(sequences: Tensor) -> Tensor:
        return sequences[:, 2] @ WORTH[:3]

    reward = FunctionReward(
        lambda tokens: last(torch.nn.functional.one_hot(tokens, 3).double()), last
    )
    with Tape(policy) as tape:
        made = estimators.make(name).surrogate(policy, reward, 64, rng(2), {})
    found = tape.differentiate(made)
    # The embedding of tokens (the begin symbol is the last row) is met only by what is fed on.
    assert float(found.tensor("embedding.weight")[:, :3].abs().sum()) > 1e-3
    cut = copy.deepcopy(given.policy)
    step = cut.step
    object.__setattr__(cut, "step", lambda x, state: step(None if x is None else x.detach(), state))
    with Tape(cut) as tape:
        stopped = estimators.make(name).surrogate(cut, reward, 64, rng(2), {})
    apart = tape.differentiate(stopped).squared_norms() - found.squared_norms()
    assert float(apart.abs().sum()) > 1e-6


def test_a_noise_too_large_is_refused() -> None:
    assert estimators.make("gumbel-rao").refusal(5_000, 20) == ""
    assert "1,000,000" not in estimators.make("gumbel-rao").refusal(5_000, 20)
    assert "K V T = 30,000,000" in estimators.make("gumbel-rao").refusal(100_000, 30)
    assert estimators.make("st-gumbel").refusal(100_000, 30) == ""


def test_a_constant_in_the_reward_changes_nothing() -> None:
    given = tiny()
    mean = exact(given.policy, given.reward).mean_reward
    shifted = Centred(given.reward, mean - 100.0)
    for name in ALL:
        norms = []
        for reward in (given.reward, shifted):
            with Tape(given.policy) as tape:
                made = estimators.make(name).surrogate(given.policy, reward, 16, rng(2), {})
            norms.append(tape.differentiate(made).squared_norms())
        torch.testing.assert_close(*norms)

"""Coupled tokens on sequences: closed forms, one family containing another, what fits and costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from math import comb

import pytest
import torch
from scipy.stats import qmc
from torch import Tensor

from estbench import estimators
from estbench.core.errors import UserError
from estbench.estimators.base import Estimator, Reward
from estbench.estimators.coupled import Arm, Arsm, Coupled, pairwise, swapped
from estbench.estimators.coupling import antithetic_sticks
from estbench.estimators.per_step import pooled
from estbench.meter.exact import exact
from estbench.meter.gradients import DrawGradients, Tape
from estbench.meter.moments import total_variance
from estbench.models.policy import Policy
from estbench.proof.problems import CategoricalPolicy, bernoulli, categorical, tiny
from estbench.proof.rewards import rng

ANTITHETIC = [
    # theta, t, variance of ARM, its digits, variance of DisARM
    (0.5, 0.45, 2.0833e-4, 5, 0.0),
    (0.5, 0.499, 8.333e-8, 4, 0.0),
    (0.2, 0.45, 3.973e-4, 4, 3.84e-4),
]


def fixed(values: float, places: int) -> object:
    """The number that a table gives with so many significant digits."""
    return pytest.approx(values, rel=0.51 * 10 ** (1 - places))


def drawn(method: Estimator, policy: Policy, reward: Reward, draws: int) -> DrawGradients:
    with Tape(policy) as tape:
        surrogate = method.surrogate(policy, reward, draws, rng(), {})
    found = tape.differentiate(surrogate)
    assert tape.fault == ""
    return found


@pytest.fixture
def every_uniform(monkeypatch: pytest.MonkeyPatch) -> None:
    """The midpoints of n equal intervals: integrals over one uniform, exact to 1 / n^2."""

    def uniform(generator: torch.Generator, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        assert math.prod(shape) == shape[0], "more than one uniform a draw"
        return ((torch.arange(shape[0], dtype=dtype) + 0.5) / shape[0]).reshape(*shape)

    monkeypatch.setattr("estbench.core.noise.uniform", uniform)


@pytest.fixture
def even_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uniforms from a Sobol sequence: integrals to 3 digits or so."""

    def uniform(generator: torch.Generator, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        n, d = shape[0], math.prod(shape[1:])
        points = qmc.Sobol(d, seed=5).random(n).reshape(shape)
        return torch.tensor(points, dtype=dtype)

    monkeypatch.setattr("estbench.core.noise.uniform", uniform)


@pytest.mark.usefixtures("every_uniform")
@pytest.mark.parametrize(("theta", "t", "arm", "digits", "disarm"), ANTITHETIC)
def test_the_variances_of_arm_and_disarm_on_a_bernoulli(
    theta: float, t: float, arm: float, digits: int, disarm: float
) -> None:
    # A multiple of 10, so that no interval holds a jump.
    policy, reward, draws = *bernoulli(theta, t), 200_000
    truth = float(exact(policy, reward).gradient[0])
    for method, variance, places in (
        (estimators.make("arm"), arm, digits),
        (estimators.make("disarm"), disarm, 3),
    ):
        found = drawn(method, policy, reward, draws)
        assert float(found.mean()[0]) == pytest.approx(truth, rel=1e-9)
        if variance:
            assert total_variance(found) == fixed(variance, places)
        else:
            assert abs(total_variance(found)) < 1e-9 * arm


@pytest.mark.usefixtures("every_uniform")
def test_the_pair_from_the_inverse_cdf_is_disarm_for_two_tokens() -> None:
    policy, reward = bernoulli(0.2, 0.45)
    found = drawn(estimators.make("biased-inverse-cdf"), policy, reward, 200_000)
    assert float(found.mean()[0]) == pytest.approx(0.016, rel=1e-9)
    assert total_variance(found) == fixed(3.84e-4, 3)


@pytest.mark.usefixtures("even_noise")
@pytest.mark.parametrize(("theta", "t", "arm", "digits", "disarm"), ANTITHETIC)
def test_arsm_of_two_tokens_is_arm(
    theta: float, t: float, arm: float, digits: int, disarm: float
) -> None:
    """Each of its two logits has ARM's derivative, with one sign and the other."""
    _, reward = bernoulli(theta, t)
    policy = CategoricalPolicy((0.0, math.log(theta / (1 - theta))))
    found = drawn(Arsm(), policy, reward, 1 << 15)
    assert total_variance(found) == pytest.approx(2 * arm, rel=2e-3)


def carms_moments(theta: float, gap: float, count: int) -> tuple[float, float]:
    """Mean and variance of CARMS on a Bernoulli, by inclusion and exclusion over its K sticks.

    With m of K tokens the rarer one a draw is r gap m (K - m) / (K (K - 1)), and s of K sticks
    break together with probability max(0, 1 - s c)^(K - 1).
    """
    beta = min(theta, 1 - theta)
    c = 1 - beta ** (1 / (count - 1))
    together = [max(0.0, 1 - s * c) ** (count - 1) for s in range(count + 1)]
    law = [
        comb(count, m)
        * sum((-1) ** (s - m) * comb(count - m, s - m) * together[s] for s in range(m, count + 1))
        for m in range(count + 1)
    ]
    assert sum(law) == pytest.approx(1)
    r = beta * (1 - beta) / (beta - together[2])
    draws = [r * gap * m * (count - m) / (count * (count - 1)) for m in range(count + 1)]
    mean = sum(p * g for p, g in zip(law, draws, strict=True))
    return mean, sum(p * (g - mean) ** 2 for p, g in zip(law, draws, strict=True))


@pytest.mark.usefixtures("even_noise")
@pytest.mark.parametrize("count", [3, 4, 6])
@pytest.mark.parametrize("theta", [0.5, 0.2, 0.9])
def test_the_variance_of_carms_on_a_bernoulli(theta: float, count: int) -> None:
    policy, reward = bernoulli(theta, 0.45)
    mean, variance = carms_moments(theta, 1 - 2 * 0.45, count)
    assert mean == pytest.approx(theta * (1 - theta) * 0.1)
    found = drawn(Coupled("carms", count), policy, reward, 1 << 17)
    assert float(found.mean()[0]) == pytest.approx(mean, rel=5e-3)
    assert total_variance(found) == pytest.approx(variance, rel=0.02, abs=1e-7)


def test_disarm_is_the_pair_of_carms() -> None:
    assert carms_moments(0.2, 0.1, 2)[1] == pytest.approx(3.84e-4)


def test_disarm_on_two_tokens_is_the_formula_of_2020() -> None:
    """1/2 [Q(b) - Q(b~)] (-1)^b~ 1[b != b~] sigma(|phi|) on the logit."""
    n = 500
    phi = 2 * torch.randn(n, generator=rng(1), dtype=torch.float64)
    log_probs = torch.stack([torch.zeros_like(phi), phi], dim=1).log_softmax(dim=1)
    u = torch.rand(n, 1, 1, generator=rng(2), dtype=torch.float64)
    values = torch.randn(n, 2, generator=rng(3), dtype=torch.float64)
    tokens, r = antithetic_sticks(log_probs, u, 2)
    _, weights = pairwise(
        log_probs.unsqueeze(1), tokens.unsqueeze(1), values.unsqueeze(1), r.unsqueeze(1)
    )
    on_tokens = torch.zeros(n, 2, dtype=torch.float64).scatter_add(1, tokens, weights[:, 0])
    b, other = tokens.unbind(dim=1)
    sign = 1.0 - 2.0 * other
    larger = phi.abs().sigmoid()
    expected = 0.5 * (values[:, 0] - values[:, 1]) * sign * (b != other) * larger
    torch.testing.assert_close(on_tokens[:, 1], expected)
    torch.testing.assert_close(on_tokens[:, 0], -expected)
    assert 0.2 < float((b != other).double().mean()) < 0.8


def test_swaps_hold_every_pair_once() -> None:
    swaps, place = swapped(4)
    assert len(swaps) == 1 + 6
    for c in range(4):
        for j in range(4):
            moved = swaps[place[c, j]]
            assert moved[c] == j
            assert moved[j] == c


@pytest.mark.parametrize("kind", ["linear", "quadratic", "rough"])
@pytest.mark.parametrize(("name", "evals"), [("disarm", 2), ("carms", 4)])
def test_coupled_tokens_beat_as_many_independent_ones(name: str, evals: int, kind: str) -> None:
    policy, reward = categorical(kind)
    truth = exact(policy, reward)
    found = drawn(estimators.make(name), policy, reward, 60_000)
    assert total_variance(found) < truth.leave_one_out_variance(evals)


@pytest.mark.parametrize("kind", ["linear", "quadratic", "rough"])
def test_arsm_beats_reinforce_and_not_as_many_independent_tokens(kind: str) -> None:
    """As Dong, Mnih and Tucker 2021 found: leave-one-out of 7 tokens is better than 7 swaps."""
    policy, reward = categorical(kind)
    truth = exact(policy, reward)
    variance = total_variance(drawn(Arsm(), policy, reward, 60_000))
    assert truth.leave_one_out_variance(7) < variance < 0.5 * truth.reinforce_variance()


def test_values_of_the_same_token_are_pooled() -> None:
    tokens = torch.tensor([[[0, 2, 0, 1]]])
    values = torch.tensor([[[1.0, 5.0, 3.0, 7.0]]])
    assert pooled(tokens, values, 3).tolist() == [[[2.0, 5.0, 2.0, 7.0]]]


@pytest.mark.parametrize(
    ("make", "evals"),
    [
        (lambda: Coupled("disarm", 2, rollouts=3), 1 + 5 * 3),
        (lambda: Coupled("carms", 4), 1 + 3 * 3),
        (lambda: Arsm(rollouts=2), 1 + (2 * 4 - 1) * 3),
    ],
)
def test_rollouts_are_counted(make: Callable[[], Estimator], evals: int) -> None:
    given = tiny()
    before = given.reward.hard_evals
    make().surrogate(given.policy, given.reward, 10, rng(), {})
    assert given.reward.hard_evals - before == 10 * evals


@pytest.mark.parametrize(
    ("method", "size", "said"),
    [
        (Arm(), (5, 3), "arm is for V = 2 tokens, not 5"),
        (Arsm(), (5000, 20), "arsm needs V(V - 1)/2 evaluations a position, 249,950,001 a draw"),
    ],
)
def test_what_does_not_fit_says_why(method: Estimator, size: tuple[int, int], said: str) -> None:
    assert method.refusal(*size).startswith(said)
    assert method.refusal(2, 3) == ""


def test_a_policy_that_does_not_fit_is_refused_in_a_line() -> None:
    given = tiny()
    with pytest.raises(UserError, match="arm is for V = 2 tokens, not 3"):
        Arm().surrogate(given.policy, given.reward, 10, rng(), {})

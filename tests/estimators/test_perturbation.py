"""Evolution strategies and SPSA against the smoothed objective; the exact gradient as a member."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from estbench import estimators
from estbench.core.errors import UserError
from estbench.estimators.base import Direct
from estbench.estimators.perturbation import Perturbation, sample_each
from estbench.meter.exact import exact
from estbench.meter.gradients import Tape
from estbench.meter.measuring import measure
from estbench.meter.moments import Reference, total_variance
from estbench.models.lstm_generator import Generator
from estbench.proof.problems import bernoulli, named, problem, tiny
from estbench.proof.rewards import function_reward, rng


def smoothed_slope(law: str, scale: float, logit: float, target: float) -> float:
    """Return E [J(t + s e) - J(t - s e)] / (2 s) e; J is sigmoid(t) (1 - 2 target), but for a sum.

    By quadrature.
    """

    def j(t: np.ndarray) -> np.ndarray:
        p: np.ndarray = (1 - 2 * target) / (1 + np.exp(-t))
        return p

    if law == "signs":
        return float((j(np.array(logit + scale)) - j(np.array(logit - scale))) / (2 * scale))
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    values = (j(logit + scale * nodes) - j(logit - scale * nodes)) / (2 * scale) * nodes
    return float(weights @ values / weights.sum())


@pytest.mark.parametrize("law", ["normal", "signs"])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_the_mean_is_the_slope_of_the_smoothed_objective(law: str, scale: float) -> None:
    policy, reward = bernoulli(0.5, 0.1)
    logit = 0.0
    method = Perturbation("wide", law, scale, "", "")
    n = 40_000
    made = method.surrogate(policy, reward, n, rng(1), {})
    assert isinstance(made, Direct)
    found = torch.cat([g.flatten(1) for g in made.gradients(0, n)], dim=1)[:, 0]
    error = float(found.std()) / n**0.5
    wanted = smoothed_slope(law, scale, logit, 0.1)
    exact_slope = 0.5 * 0.5 * (1 - 2 * 0.1)
    assert abs(float(found.mean()) - wanted) < 4 * error
    # The test can tell the two apart: the bias is many errors wide.
    assert abs(wanted - exact_slope) > 8 * error


@pytest.mark.parametrize("law", ["normal", "signs"])
def test_the_bias_is_of_second_order_in_the_scale(law: str) -> None:
    slope = 0.5 * 0.5 * (1 - 2 * 0.1)
    bias = [smoothed_slope(law, s, 0.0, 0.1) - slope for s in (0.4, 0.2, 0.1)]
    assert bias[0] / bias[1] == pytest.approx(4, rel=0.1)
    assert bias[1] / bias[2] == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("end", [None, 2])
def test_a_sequence_of_each_policy_is_what_that_policy_draws(end: int | None) -> None:
    """By the vectorised path and by the loop that replaces it."""
    policy = Generator(3, 4, embedding=4, hidden=4, dtype=torch.float64, end=end)
    policy.initialise("normal", 0.7, rng(1))
    before = [p.clone() for p in policy.parameters()]
    n = 12
    moved = [
        p.detach() + torch.randn(n, *p.shape, generator=rng(i), dtype=p.dtype)
        for i, p in enumerate(policy.parameters())
    ]
    u = torch.rand(n, 4, generator=rng(9), dtype=torch.float64)
    found = sample_each(policy, moved, u)
    for i in range(n):
        other = Generator(3, 4, embedding=4, hidden=4, dtype=torch.float64, end=end)
        with torch.no_grad():
            for p, m in zip(other.parameters(), moved, strict=True):
                p.copy_(m[i])
        assert torch.equal(found[i : i + 1], other.sample_from(u[i : i + 1]))
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))

    class Stubborn(Generator):
        def step(self, previous, state):  # type: ignore[no-untyped-def]
            log_probs, after = super().step(previous, state)
            float(log_probs.sum())  # a number of its own that no vectorising gets through
            return log_probs, after

    slow = Stubborn(3, 4, embedding=4, hidden=4, dtype=torch.float64, end=end)
    assert torch.equal(sample_each(slow, moved, u), found)


def test_every_draw_has_a_direction_of_its_own() -> None:
    given = tiny()
    for law in ("normal", "signs"):
        method = Perturbation("wide", law, 1.0, "", "")
        made = method.surrogate(given.policy, given.reward, 60, rng(2), {})
        whole = torch.cat([g.flatten(1) for g in made.gradients(0, 60)], dim=1)
        moved = whole[whole.norm(dim=1) > 0]
        assert len(moved) > 10
        unit = moved / moved.norm(dim=1, keepdim=True)
        assert float((unit @ unit.t() - torch.eye(len(unit))).abs().max()) < 0.5


def test_both_sides_of_a_pair_share_their_noise() -> None:
    """Without it the slope would carry the noise of two unrelated sequences."""
    given = tiny()
    narrow = Perturbation("narrow", "normal", 1e-6, "", "")
    made = narrow.surrogate(given.policy, given.reward, 400, rng(2), {})
    assert torch.equal(made.tokens[:, 0], made.tokens[:, 1])


def test_the_exact_gradient_has_no_variance_and_no_bias() -> None:
    given = tiny()
    method = estimators.make("exact")
    row = measure(
        method, given.policy, given.reward, 512, rng(1), {}, Reference(given.gradient, 0.0)
    )
    assert row["total_variance"] == 0.0
    assert (row["variance_low"], row["variance_high"]) == (0.0, 0.0)
    assert row["relative_bias"] < 1e-6
    assert row["cosine"] == pytest.approx(1.0)
    with Tape(given.policy) as tape:
        found = tape.differentiate(method.surrogate(given.policy, given.reward, 5, rng(), {}))
    assert total_variance(found) == 0.0
    truth = exact(given.policy, given.reward)
    for a, b in zip(found.mean(), truth.gradient, strict=True):
        torch.testing.assert_close(a, b)


def test_the_exact_gradient_counts_each_sequence_once() -> None:
    given = tiny()
    before = given.reward.hard_evals
    made = estimators.make("exact").surrogate(given.policy, given.reward, 50, rng(), {})
    assert given.reward.hard_evals - before == 27
    torch.testing.assert_close(made.rewards[:, 0], given.reward(made.tokens[:, 0]))


def test_the_exact_gradient_of_sequences_that_end() -> None:
    policy = Generator(3, 4, embedding=4, hidden=4, dtype=torch.float64, end=2)
    policy.initialise("normal", 0.7, rng(1))
    given = problem(policy, function_reward(3, 4, 2))
    made = estimators.make("exact").surrogate(policy, given.reward, 3, rng(), {})
    for a, b in zip(made.gradients(0, 1), given.gradient, strict=True):
        torch.testing.assert_close(a[0], b)


def test_too_many_sequences_are_refused_with_their_number() -> None:
    assert estimators.make("exact").refusal(5, 6) == ""
    assert "5^15" in estimators.make("exact").refusal(5, 15)
    policy = Generator(5, 15)
    with pytest.raises(UserError, match=r"5\^15"):
        estimators.make("exact").surrogate(policy, function_reward(5, 15, 1), 2, rng(), {})


def test_on_one_bernoulli_the_bias_is_within_the_margin() -> None:
    """What is declared biased may still pass where one knows by how much: sigma is small there."""
    slope = 0.2 * 0.8 * 0.1
    for law in ("normal", "signs"):
        found = smoothed_slope(law, 0.1, float(np.log(0.2 / 0.8)), 0.45)
        assert abs(found / slope - 1) < 0.02
    assert named("bernoulli-.2-.45").exact.gradient[0].item() == pytest.approx(slope)

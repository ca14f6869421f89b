"""From draws to numbers: on cases where every number is known."""

from __future__ import annotations

import math

import pytest
import torch

from estbench import estimators
from estbench.estimators.base import Surrogate
from estbench.estimators.score_function import LeaveOneOut, Reinforce
from estbench.meter.exact import enumerate_sequences, exact
from estbench.meter.factors import Factors
from estbench.meter.gradients import DrawGradients, Tape
from estbench.meter.moments import Moments, Reference, tail_index, total_variance
from estbench.models.lstm_generator import Generator
from estbench.proof.problems import tiny
from estbench.proof.rewards import function_reward, rng


def direct(*rows: torch.Tensor) -> DrawGradients:
    factors = Factors.direct(list(rows))
    return DrawGradients(factors, factors.sums(), [str(i) for i in range(len(rows))])


def normal_draws(n: int, mean: list[float], scales: list[float], seed: int = 0) -> torch.Tensor:
    noise = torch.randn(n, len(mean), generator=rng(seed), dtype=torch.float64)
    return torch.tensor(mean, dtype=torch.float64) + noise * torch.tensor(scales).double()


def test_the_columns_of_a_known_case() -> None:
    """Two tensors; E g = (3, 4 | 0), the truth (3, 0 | 0): a bias of 4 / 3, a cosine of .6."""
    n = 40_000
    first, second = normal_draws(n, [3.0, 4.0], [1.0, 2.0]), normal_draws(n, [0.0], [2.0], 1)
    truth = [torch.tensor([3.0, 0.0]).double(), torch.zeros(1).double()]
    moments = Moments(Reference(truth, 0.0), ["first", "second"])
    for part in range(4):
        rows = slice(part * n // 4, (part + 1) * n // 4)
        moments.add(direct(first[rows], second[rows]))
    row = moments.summary(2)
    assert row["draws"] == n
    assert row["sequences_per_draw"] == 2
    assert row["total_variance"] == pytest.approx(9.0, rel=0.02)
    assert row["variance_low"] < 9.0 < row["variance_high"] < 1.1 * row["variance_low"]
    assert row["by_tensor"] == pytest.approx({"first": 5.0, "second": 4.0}, rel=0.03)
    assert row["relative_bias"] == pytest.approx(4 / 3, rel=0.02)
    assert row["bias_low"] < 4 / 3 < row["bias_high"] < 1.1 * row["bias_low"]
    assert row["snr"] == pytest.approx(1.0, rel=0.03)
    assert row["cosine"] == pytest.approx(0.6, abs=0.01)
    assert row["mse"] == pytest.approx(9.0 + 16.0, rel=0.02)
    assert row["gradient_norm"] == pytest.approx(3.0)
    both = torch.cat([first, second], dim=1)
    assert row["total_variance"] == pytest.approx(float(both.var(dim=0).sum()), rel=1e-9)
    assert total_variance(direct(first, second)) == pytest.approx(row["total_variance"], rel=1e-9)


def test_kurtosis_is_that_of_the_distance_from_the_truth() -> None:
    q = torch.tensor([1.0, 1.0, 1.0, 3.0], dtype=torch.float64)
    draws = torch.stack([q, -q, q, -q]).flatten().unsqueeze(1)
    moments = Moments(Reference([torch.zeros(1).double()], 0.0), ["only"])
    moments.add(direct(draws))
    assert moments.summary(1)["kurtosis"] == pytest.approx((3 + 81) / 4 / 9)


def pareto(exponent: float, n: int) -> DrawGradients:
    """Return draws whose distance x from 0 has P(|g| > x) = x^-exponent."""
    u = torch.rand(n, 1, generator=rng(), dtype=torch.float64)
    return direct(torch.randn(n, 1, generator=rng(1)).sign().double() * u ** (-1 / exponent))


def tail_of(found: DrawGradients) -> dict[str, object]:
    moments = Moments(Reference([torch.zeros(1).double()], 0.0), ["only"])
    moments.add(found)
    return moments.summary(1)


@pytest.mark.parametrize("exponent", [2.5, 4.0, 8.0])
def test_the_tail_of_a_pareto_law_is_found(exponent: float) -> None:
    row = tail_of(pareto(exponent, 100_000))
    assert row["tail_index"] == pytest.approx(exponent, rel=0.05)


@pytest.mark.parametrize("size", [0.0, 1.0])
def test_without_draws_that_differ_there_is_no_tail(size: float) -> None:
    assert math.isnan(tail_of(direct(torch.full((300, 1), size).double()))["tail_index"])  # type: ignore[arg-type]


def test_fewer_than_ten_largest_draws_have_no_index() -> None:
    assert math.isnan(tail_index(torch.rand(199, generator=rng())))
    assert tail_index(torch.rand(3, 200, generator=rng())).isfinite().all()


def test_in_a_metric_each_element_has_a_weight_of_its_own() -> None:
    """Variances 1, 4, 4 and a mean of (3, 4, 0): tr(P Cov) = 26, g' P g = 2 * 9 + 16."""
    n = 40_000
    first, second = normal_draws(n, [3.0, 4.0], [1.0, 2.0]), normal_draws(n, [0.0], [2.0], 1)
    truth = [torch.tensor([3.0, 4.0]).double(), torch.zeros(1).double()]
    P = [torch.tensor([2.0, 1.0]).double(), torch.tensor([5.0]).double()]
    moments = Moments(Reference(truth, 0.0, P), ["first", "second"])
    for part in range(4):
        rows = slice(part * n // 4, (part + 1) * n // 4)
        moments.add(direct(first[rows], second[rows]))
    row = moments.summary(1)
    assert row["adam_variance"] == pytest.approx(2 + 4 + 5 * 4, rel=0.02)
    assert row["adam_gradient_norm"] == pytest.approx(math.sqrt(34))
    own = torch.cat([first, second], dim=1).var(dim=0) @ torch.cat(P)
    assert row["adam_variance"] == pytest.approx(float(own), rel=1e-9)


def test_the_noise_of_a_reference_is_not_taken_for_gradient_in_a_metric_either() -> None:
    P = [torch.tensor([4.0]).double()]
    found = Reference([torch.tensor([3.0]).double()], 1.0, P, metric_noise=4.0)
    assert found.metric_norm == pytest.approx(math.sqrt(4 * 9 - 4))
    assert math.isnan(Reference(found.gradient, 1.0).metric_norm)


def test_many_parameters_are_looked_at_in_some_of_the_draws(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("estbench.meter.moments.EXAMINED", 100)
    draws = normal_draws(100, [1.0, 0.0], [1.0, 2.0])
    moments = Moments(Reference([torch.zeros(2).double()], 0.0, [torch.ones(2).double()]), ["x"])
    for rows in torch.split(draws, 30):
        moments.add(direct(rows))
    expected = float(draws[:50].var(dim=0).sum())
    assert moments.summary(1)["adam_variance"] == pytest.approx(expected)


def test_draws_that_are_all_the_same_have_no_variance_in_a_metric() -> None:
    same = torch.tensor([[0.1, 0.7]]).expand(50, 2)
    truth = [same[0].double()]
    moments = Moments(Reference(truth, 0.0, [torch.tensor([3.0, 1e6]).double()]), ["x"])
    moments.add(direct(same))
    assert moments.summary(1)["adam_variance"] == 0


def test_an_unbiased_case_has_no_bias_beyond_noise() -> None:
    covered = 0
    for seed in range(60):
        draws = normal_draws(500, [1.0, 0.0, 0.0], [1.0, 1.0, 1.0], seed)
        moments = Moments(Reference([torch.tensor([1.0, 0.0, 0.0]).double()], 0.0), ["only"])
        moments.add(direct(draws))
        row = moments.summary(1)
        covered += row["bias_low"] == 0
        assert row["bias_high"] < 4 * math.sqrt(3 / 500)  # standard errors of the mean
    assert covered >= 54


def test_a_bias_along_which_all_of_the_noise_lies_is_covered() -> None:
    """95 % is exact there: 380 of 400 are expected, fewer than 366 have probability 0.001."""
    covered, error = 0, 1 / math.sqrt(100)
    for seed in range(400):
        draws = normal_draws(100, [1.0, 4 * error], [0.0, 1.0], seed)
        moments = Moments(Reference([torch.tensor([1.0, 0.0]).double()], 0.0), ["only"])
        moments.add(direct(draws))
        row = moments.summary(1)
        covered += row["bias_low"] <= 4 * error <= row["bias_high"]
    assert covered >= 366


def test_the_variances_interval_holds() -> None:
    covered = 0
    for seed in range(200):
        moments = Moments(Reference([torch.zeros(2).double()], 0.0), ["only"])
        moments.add(direct(normal_draws(300, [0.0, 0.0], [1.0, 2.0], seed)))
        row = moments.summary(1)
        covered += row["variance_low"] < 5.0 < row["variance_high"]
    assert 180 <= covered <= 199


def test_the_noise_of_a_reference_is_not_taken_for_bias() -> None:
    relative = []
    for seed in range(40):
        truth = normal_draws(400, [1.0, 0.0], [1.0, 1.0], 1000 + seed)
        reference = Reference([truth.mean(dim=0)], 2 / 400)
        moments = Moments(reference, ["only"])
        moments.add(direct(normal_draws(100_00, [1.0, 0.0], [1.0, 1.0], seed)))
        relative.append(moments.summary(1)["bias_low"])
    assert sum(low > 0 for low in relative) <= 4
    assert reference.squared_norm == pytest.approx(1.0, abs=0.2)


def test_one_draw_has_no_variance() -> None:
    assert math.isnan(total_variance(direct(torch.ones(1, 2))))


def measured(method: Reinforce | LeaveOneOut, state: dict, sequences: int) -> dict[str, object]:
    problem = tiny()
    moments = Moments(Reference(problem.gradient, 0.0), [str(i) for i in range(7)])
    noise = rng(11)
    for _ in range(4):
        with Tape(problem.policy) as tape:
            draws = sequences // method.info.group // 4
            surrogate = method.surrogate(problem.policy, problem.reward, draws, noise, state)
        moments.add(tape.differentiate(surrogate))
        assert tape.fault == ""
    return moments.summary(method.info.group)


@pytest.mark.parametrize("constant", [None, 0.0, 0.4, -1.0])
def test_measured_variance_of_reinforce_is_the_exact_one(constant: float | None) -> None:
    truth = tiny().exact
    if constant is None:
        method, state, given = estimators.make("reinforce"), {"baseline": {}}, 0.0
    else:
        method, given = estimators.make("reinforce-constant"), constant
        state = method.initial_state(tiny().policy, rng())
        state["coefficients"]["values"] = (constant,)
    row = measured(method, state, 16_000)
    # The reward of the problem is centred, which the exact moments are not.
    expected = truth.reinforce_variance(truth.mean_reward + given)
    assert row["variance_low"] < expected < row["variance_high"] < 1.15 * row["variance_low"]


@pytest.mark.parametrize("group", [2, 3, 8])
def test_measured_variance_of_leave_one_out_is_the_exact_one(group: int) -> None:
    row = measured(LeaveOneOut(group), {}, 24_000)
    expected = tiny().exact.leave_one_out_variance(group)
    assert row["variance_low"] < expected < row["variance_high"] < 1.25 * row["variance_low"]


def test_exact_moments_are_sums_over_all_sequences() -> None:
    policy = Generator(3, 2, embedding=3, hidden=3, dtype=torch.float64)
    policy.initialise("normal", 0.8, rng(2))
    reward = function_reward(3, 2, 5)
    parameters = list(policy.parameters())
    sequences = enumerate_sequences(3, 2)
    assert sequences.tolist() == [[a, b] for a in range(3) for b in range(3)]
    log_p = policy.log_probs(sequences).gather(2, sequences.unsqueeze(2)).sum(dim=(1, 2))
    p, f = log_p.exp(), reward(sequences)
    scores = torch.stack(
        [
            torch.cat([g.flatten() for g in torch.autograd.grad(x, parameters, retain_graph=True)])
            for x in log_p
        ]
    )
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(p @ f, parameters)])
    p = p.detach()
    truth = exact(policy, reward)
    torch.testing.assert_close(torch.cat([g.flatten() for g in truth.gradient]), gradient)
    assert truth.mean_reward == pytest.approx(float(p @ f))
    assert truth.reward_variance == pytest.approx(float(p @ (f - p @ f) ** 2))
    for baseline in (0.0, 0.3):
        draws = (f - baseline).unsqueeze(1) * scores
        variance = float(p @ draws.square().sum(dim=1)) - float(gradient.square().sum())
        assert truth.reinforce_variance(baseline) == pytest.approx(variance)
    # Leave-one-out in pairs: (f_i - f_j) / 2 (S_i - S_j), over all pairs.
    pairs = (f[:, None] - f).unsqueeze(2) / 2 * (scores[:, None] - scores)
    second = float((p[:, None] * p * pairs.square().sum(dim=2)).sum())
    expected = second - float(gradient.square().sum())
    assert truth.leave_one_out_variance(2) == pytest.approx(expected)
    best = truth.reinforce_variance(truth.best_constant)
    assert best < truth.reinforce_variance(truth.best_constant + 0.01)
    assert best < truth.reinforce_variance(truth.best_constant - 0.01)


def test_exact_gradients_in_chunks_are_the_same() -> None:
    policy = Generator(3, 3, embedding=3, hidden=3, dtype=torch.float64)
    policy.initialise("normal", 0.8, rng(2))
    whole, parts = (exact(policy, function_reward(3, 3, 5), chunk) for chunk in (100, 4))
    for a, b in zip(whole.gradient, parts.gradient, strict=True):
        torch.testing.assert_close(a, b)
    assert whole.score_moment == pytest.approx(parts.score_moment)


def test_a_surrogate_without_paths_has_its_score_term_as_value() -> None:
    log_probs = torch.randn(3, 2, generator=rng()).requires_grad_()
    weights = torch.randn(3, 2, generator=rng(1)).requires_grad_()
    surrogate = Surrogate(log_probs, weights, torch.zeros(3, 1, 2).long(), torch.zeros(3, 1))
    (found,) = torch.autograd.grad(surrogate.values.sum(), log_probs)
    assert torch.equal(found, weights)

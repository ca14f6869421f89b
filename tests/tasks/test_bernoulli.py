"""The Bernoulli toy against its closed forms, measured through the task's own policy and the meter.

theta = sigmoid(logit), f = (b - t)^2: grad = (1 - 2t) theta (1 - theta), and a draw of REINFORCE is
f(b) (b - theta).
"""

from __future__ import annotations

import math

import pytest
import torch

from estbench import tasks
from estbench.config.experiment import Experiment
from estbench.estimators import make
from estbench.meter.exact import exact
from estbench.meter.measuring import adapt_once, measure
from estbench.meter.truth import true_gradient
from estbench.models.factorised import FactorisedPolicy
from estbench.tasks.bernoulli import TARGETS
from estbench.tasks.stage import Stage, make_stage

# theta, task, gradient of the reward (minus the loss), Var REINFORCE, Var of leave-one-out in pairs
KNOWN = [
    (0.5, "bernoulli-45", -0.025, 0.0159391, 6.25e-4),
    (0.5, "bernoulli", -5e-4, 0.0156251, 2.5e-7),
    (0.2, "bernoulli-45", -0.016, 0.012769, 5.44e-4),
]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stage(task: str, theta: float = 0.5) -> Stage:
    experiment = Experiment(name="x", tasks=(task,), estimators=("rloo",), seeds=(0,))
    made = make_stage(experiment, task, 0)
    assert isinstance(made.policy, FactorisedPolicy)
    with torch.no_grad():
        made.policy.logits.weight.fill_(math.log(theta / (1 - theta)))
    return made


@pytest.mark.parametrize(("theta", "task", "gradient", "variance", "pair"), KNOWN)
class TestClosedForms:
    def test_enumeration(
        self, theta: float, task: str, gradient: float, variance: float, pair: float
    ) -> None:
        made = stage(task, theta)
        found = exact(made.policy, made.reward)
        assert found.gradient[0].item() == pytest.approx(gradient, rel=1e-4)
        assert found.reinforce_variance() == pytest.approx(variance, rel=1e-4)
        assert found.leave_one_out_variance(2) == pytest.approx(pair, rel=1e-3)
        # (1 - theta) f(1) + theta f(0) leaves nothing.
        t = TARGETS[task][0]
        best = -((1 - theta) * (1 - t) ** 2 + theta * t**2)
        assert found.best_constant == pytest.approx(best, rel=1e-5)
        assert found.reinforce_variance(best) == pytest.approx(0, abs=1e-8)

    def test_the_meter(
        self, theta: float, task: str, gradient: float, variance: float, pair: float
    ) -> None:
        made = stage(task, theta)
        truth = true_gradient(made.policy, made.reward, 2, rng())
        assert truth.noise == 0
        method = make("reinforce")
        learned = method.initial_state(made.policy, rng(1))
        row = measure(method, made.policy, made.reward, 40_000, rng(2), learned, truth)
        assert row["total_variance"] == pytest.approx(variance, rel=0.02)
        assert row["bias_low"] == 0
        assert row["info"]["meter_fault"] == ""


@pytest.mark.parametrize("name", ["reinforce-constant", "rebar", "relax"])
def test_any_estimator_that_tunes_a_constant_solves_the_toy(name: str) -> None:
    """With the constant of least variance not even REINFORCE has any: see the documentation."""
    made = stage("bernoulli-45")
    method = make(name)
    learned = method.initial_state(made.policy, rng(1))
    noise = rng(2)
    for _ in range(20):
        adapt_once(method, made.policy, made.reward, 64, noise, learned)
    truth = true_gradient(made.policy, made.reward, 2, rng())
    row = measure(method, made.policy, made.reward, 2048, rng(3), learned, truth)
    assert row["total_variance"] < KNOWN[0][3] / 100
    assert row["relative_bias"] < 0.05


def test_several_bernoullis_add_up() -> None:
    made = stage("bernoullis")
    gradient = exact(made.policy, made.reward).gradient[0].squeeze(1)
    expected = [-(1 - 2 * t) / 4 for t in TARGETS["bernoullis"]]
    assert gradient.tolist() == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_relaxed_and_hard_rewards_agree_on_corners() -> None:
    made = stage("bernoullis")
    tokens = torch.randint(2, (16, 6), generator=rng())
    weights = torch.nn.functional.one_hot(tokens, 2).float()
    assert torch.equal(made.reward(tokens), made.reward.relaxed(weights))


@pytest.mark.parametrize("name", TARGETS)
def test_metrics_are_exact(name: str) -> None:
    made, task = stage(name, 0.3), tasks.make(name, 0)
    found = task.full_quality(made.policy, rng())
    assert set(found) == set(tasks.info(name).metrics)
    p = [0.3 if t < 0.5 else 0.7 for t in TARGETS[name]]
    loss = sum(0.3 * (1 - t) ** 2 + 0.7 * t**2 for t in TARGETS[name])
    least = sum(min(t, 1 - t) ** 2 for t in TARGETS[name])
    assert found["loss"] == pytest.approx(loss)
    assert found["excess_loss"] == pytest.approx(loss - least, rel=1e-5)
    assert found["theta"] == pytest.approx(sum(p) / len(p))
    assert task.format(task.train) == ["".join("1" if t > 0.5 else "0" for t in TARGETS[name])]

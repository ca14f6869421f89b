"""Every estimator's mean is the exact gradient, and what is known to be biased is found out.

One test with one plan for all: it passes an estimator only if the upper limit of its relative
bias is below 2 %, and it rejects at the .1 % level.
"""

from __future__ import annotations

import pytest
import torch

from estbench import estimators
from estbench.estimators.base import Estimator
from estbench.meter.bias import BiasResult, Plan, bias_test
from estbench.proof.problems import Problem, expressions, rng, tiny
from estbench.proof.states import STATES, learned
from estbench.seeding import stream

from . import controls

PLAN = Plan(first=49_152, growth=2, looks=3, margin=0.02, alpha=0.001)
NAMES = estimators.names()
LEARNING = [name for name in NAMES if estimators.info(name).learned]
# One of each kind: the others differ from these in a baseline or a future, tested above.
ON_EXPRESSIONS = [
    "reinforce-constant",
    "reinforce-critic",
    "rloo",
    "seqgan-rollouts",
    "rebar",
    "rebar-soft",
    "relax",
    "relax-rebar",
]


def judge(method: Estimator, problem: Problem, how: str, rollouts: int = 0) -> BiasResult:
    result = bias_test(
        method,
        problem.policy,
        problem.reward,
        problem.gradient,
        stream("test of bias", method.info.name, how, rollouts),
        learned(method, problem, how),
        PLAN,
    )
    assert result.meter_fault == ""
    return result


# A fresh control variate has a coefficient of 0: all of these make the draws of the first two.
ZERO_AT_FIRST = [n for n in NAMES if n.startswith(("rebar-", "relax-"))]
CASES = [
    (name, how)
    for name in NAMES
    for how in (STATES if name in LEARNING else ("fresh",))
    if not (how == "fresh" and name in ZERO_AT_FIRST)
]


@pytest.mark.parametrize("name", ["rebar", "relax", *ZERO_AT_FIRST])
def test_a_fresh_control_variate_leaves_reinforce(name: str) -> None:
    problem, method = tiny(), estimators.make(name)
    state = learned(method, problem, "fresh")
    surrogate = method.surrogate(problem.policy, problem.reward, 50, rng(), state)
    rewards = problem.reward(surrogate.tokens[:, 0])
    scores = torch.nn.functional.one_hot(surrogate.tokens[:, 0], problem.policy.vocabulary)
    expected = (rewards.view(-1, 1, 1) * scores).flatten(1)
    assert surrogate.pathwise is None
    torch.testing.assert_close(surrogate.weights.detach(), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("name", "how"), CASES)
def test_the_mean_is_the_exact_gradient(name: str, how: str) -> None:
    result = judge(estimators.make(name), tiny(), how)
    assert result.verdict == "unbiased", str(result)


@pytest.mark.parametrize("name", ["reinforce-ema", "rloo", "rebar", "rebar-soft", "relax"])
def test_the_mean_is_the_exact_gradient_with_rollouts(name: str) -> None:
    result = judge(estimators.make(name, rollouts=2), tiny(), "trained", rollouts=2)
    assert result.verdict == "unbiased", str(result)


@pytest.mark.parametrize("name", ON_EXPRESSIONS)
def test_the_mean_is_the_exact_gradient_on_expressions(name: str) -> None:
    """In float32, as in training."""
    result = judge(estimators.make(name), expressions(torch.float32), "trained")
    assert result.verdict == "unbiased", str(result)


@pytest.mark.parametrize("name", ["rebar", "relax"])
def test_the_mean_is_the_exact_gradient_on_expressions_in_float64(name: str) -> None:
    result = judge(estimators.make(name), expressions(), "trained")
    assert result.verdict == "unbiased", str(result)


CONTROLS = {
    "joint control variate": controls.JointControl,
    "own hard future": controls.OwnFuture,
    "fresh hard rollout": controls.HardRollout,
    "redrawn tokens": controls.Redrawn,
    "differentiated future noise": controls.NoisyFuture,
    "stale rollouts": controls.StaleRollouts,
    "truncated backpropagation": controls.Truncated,
    # Their lengths are right to a few percent: what is found is their direction.
    "GRPO of 2": lambda: controls.Grpo(2, 1.5),
    "GRPO of 4": lambda: controls.Grpo(4, 0.86),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_a_biased_estimator_is_rejected(name: str) -> None:
    result = judge(CONTROLS[name](), tiny(), "fresh")
    assert result.verdict == "biased", str(result)
    # GRPO's bias is small here and lies along one direction: its t test rejects before the size of
    # the whole bias can be told from 0.
    if not name.startswith("GRPO"):
        assert result.last.low > 0


@pytest.mark.parametrize("name", CONTROLS)
def test_a_biased_estimator_is_rejected_on_expressions(name: str) -> None:
    result = judge(CONTROLS[name](), expressions(torch.float32), "fresh")
    assert result.verdict == "biased", str(result)

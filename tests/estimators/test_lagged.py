"""SeqGAN's rollouts by a copy that lags behind, and memory at a large vocabulary."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest
import torch

from estbench import estimators
from estbench.core.errors import UserError
from estbench.core.seeding import stream
from estbench.estimators.score_function import Reinforce
from estbench.meter.bias import Plan, bias_test
from estbench.meter.gradients import Tape
from estbench.models.lstm_generator import Generator
from estbench.proof.problems import tiny
from estbench.proof.rewards import rng


def test_the_copy_keeps_its_share_of_the_past() -> None:
    problem = tiny()
    policy = Generator(3, 3, embedding=4, hidden=4, dtype=torch.float64)
    policy.initialise("normal", 0.7, rng(1))
    method = estimators.make("seqgan-rollouts-lagged")
    state = method.initial_state(policy, rng())
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    with torch.no_grad():
        for p in policy.parameters():
            p += 1.0
    with Tape(policy) as tape:
        surrogate = method.surrogate(policy, problem.reward, 8, rng(), state)
    method.adapt(policy, surrogate, tape, state)
    for name, p in state["lagged"].named_parameters():
        moved = 1.0 if name.startswith("embedding") else 0.2
        torch.testing.assert_close(p, before[name] + moved)
        assert not p.requires_grad


def test_a_policy_that_moved_away_makes_it_biased_and_one_that_stands_still_does_not() -> None:
    problem = tiny()
    plan = Plan(first=49_152, growth=2, looks=3, margin=0.02, alpha=0.001)
    verdicts = {}
    for moved in (0.0, 0.5):
        method = estimators.make("seqgan-rollouts-lagged")
        state = method.initial_state(problem.policy, rng())
        with torch.no_grad():
            state["lagged"].output.weight *= 1 - moved
        result = bias_test(
            method,
            problem.policy,
            problem.reward,
            problem.gradient,
            stream("test of lag", moved),
            state,
            plan,
        )
        verdicts[moved] = result.verdict
    assert verdicts == {0.0: "unbiased", 0.5: "biased"}


def test_without_a_lag_nothing_is_copied() -> None:
    method = Reinforce("x", "none", 4)
    assert "lagged" not in method.initial_state(tiny().policy, rng())
    assert method.info.unbiased
    assert not estimators.info("seqgan-rollouts-lagged").unbiased


def test_a_name_says_how_many_rollouts() -> None:
    method = estimators.make("seqgan-rollouts-lagged@16", rollouts=2)
    assert method.info.name == "seqgan-rollouts-lagged@16"
    assert method.info.hard_evals == "1 + 16(T - 1)"
    assert estimators.make("seqgan-rollouts-lagged", rollouts=2).info.hard_evals == "1 + 2(T - 1)"
    assert estimators.partner("seqgan-rollouts-ema@16") == "reinforce-ema"
    for wrong in ("0", "x", "", "1000"):
        with pytest.raises(UserError, match="from 1 to 999, such as seqgan-rollouts@16"):
            estimators.make(f"seqgan-rollouts@{wrong}")


STEP = """
import resource, torch
from estbench import estimators
from estbench.meter.step import measured_step
from estbench.models.build import build
from estbench.models.reward import Reward
torch.set_num_threads(1)
rng = torch.Generator().manual_seed(0)
policy, discriminator = build(5000, 20, discriminator="cnn")
policy.initialise("normal", 0.1, rng)
reward = Reward(discriminator.initialise(rng))
method = estimators.make("{name}")
state = method.initial_state(policy, rng)
optimiser = torch.optim.Adam(policy.parameters(), lr=1e-3)
for _ in range(2):
    _, _, fault = measured_step(method, policy, reward, 64, rng, state, optimiser)
    assert not fault, fault
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rebar", "rebar-sibling", "relax", "relax-rebar"])
def test_a_step_at_full_size_stays_below_four_gigabytes(name: str) -> None:
    code = STEP.format(name=name)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if resource.getpagesize() and sys.platform == "linux":  # kilobytes there, bytes elsewhere
        assert float(done.stdout) < 4.0

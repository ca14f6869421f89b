"""One generator step with its variance measured: draws, reward, backward, norms, what is learned.

At the paper's sizes, batch 128, V = 5 (its public code takes .29 s for REINFORCE, 7.0 s for REBAR
and 9.9 s for RELAX at T = 15, and .11, 1.34 and 2.02 s at T = 3, measured on another machine), and
on the Bernoulli toy beside storchastic, which measures no variance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from conftest import Beside
from peers import step_by_storchastic

from estbench import tasks
from estbench.config.experiment import TrainingSettings
from estbench.estimators import make
from estbench.meter.moments import total_variance
from estbench.meter.step import measured_step
from estbench.models.lstm_generator import Generator
from estbench.models.policy import Policy
from estbench.models.reward import FunctionReward, Reward

BATCH, TOY = 128, 1024
PAPERS = ("reinforce", "rebar", "relax")
NAMES = (
    *PAPERS,
    "reinforce-ema",
    "reinforce-constant",
    "reinforce-critic",
    "rloo",
    "seqgan-rollouts",
    "rebar-soft",
    "relax-rebar",
)


def step(
    name: str, policy: Policy, reward: Reward | FunctionReward, batch: int
) -> Callable[[], None]:
    """Return a step that checks nothing but that the meter had no fault."""
    method = make(name)
    rng = torch.Generator().manual_seed(0)
    learned = method.initial_state(policy, rng)
    optimiser = torch.optim.Adam(policy.parameters(), lr=1e-3, fused=True)
    draws = batch // method.info.group

    def run() -> None:
        found, _, fault = measured_step(
            method, policy, reward, draws, rng, learned, optimiser, check_rows=False
        )
        assert not fault
        total_variance(found)

    return run


@pytest.mark.parametrize("setting", [3, 15], indirect=True, ids=["T=3", "T=15"])
@pytest.mark.parametrize("name", NAMES)
def test_step(beside: Beside, setting: tuple[Generator, Reward], name: str) -> None:
    policy, reward = setting
    work = f"the paper's step, {name}, T = {policy.length}"
    assert beside(work, step(name, policy, reward, BATCH), rounds=20) > 0


@pytest.mark.parametrize("name", PAPERS)
def test_toy_step(beside: Beside, name: str) -> None:
    task = tasks.make("bernoulli", 0)
    policy = task.start(TrainingSettings())
    others: Mapping[str, Callable[[], None]] = {
        "storchastic": step_by_storchastic(name, TOY, float(task.targets[0]))
    }
    work = f"the toy's step, {name}, {TOY:,} draws"
    beside(
        work, step(name, policy, FunctionReward(task.reward, task.reward), TOY), others, rounds=20
    )

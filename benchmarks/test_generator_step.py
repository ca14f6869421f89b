"""One generator step with its variance measured: draws, reward, backward, norms, what is learned.

At the paper's sizes, batch 128, V = 5 (its public code takes .29 s for REINFORCE, 7.0 s for REBAR
and 9.9 s for RELAX at T = 15, and .11, 1.34 and 2.02 s at T = 3, measured on another machine), and
on the Bernoulli toy beside storchastic, which measures no variance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from conftest import BATCH, Beside, step_of
from peers import step_by_storchastic

from estbench import tasks
from estbench.config.experiment import TrainingSettings
from estbench.estimators import make
from estbench.models.lstm_generator import Generator
from estbench.models.reward import FunctionReward, Reward

TOY = 1024
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


@pytest.mark.parametrize("setting", [3, 15], indirect=True, ids=["T=3", "T=15"])
@pytest.mark.parametrize("name", NAMES)
def test_step(beside: Beside, setting: tuple[Generator, Reward], name: str) -> None:
    policy, reward = setting
    work = f"the paper's step, {name}, T = {policy.length}"
    assert beside(work, step_of(make(name), policy, reward, BATCH), rounds=20) > 0


@pytest.mark.parametrize("name", PAPERS)
def test_toy_step(beside: Beside, name: str) -> None:
    task = tasks.make("bernoulli", 0)
    policy, reward = task.start(TrainingSettings()), FunctionReward(task.reward, task.reward)
    others: Mapping[str, Callable[[], None]] = {
        "storchastic": step_by_storchastic(name, TOY, float(task.targets[0]))
    }
    work = f"the toy's step, {name}, {TOY:,} draws"
    beside(work, step_of(make(name), policy, reward, TOY), others, rounds=20)

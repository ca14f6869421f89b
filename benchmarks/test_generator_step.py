"""One adversarial generator step with its variance measured: batch 128, V = 5.

Draws, reward, backward pass, every draw's squared norm, total variance, training of what is
learned, Adam. The paper's public code takes, for the same step on two cores: T = 15: .29 s
(REINFORCE), 7.0 s (REBAR), 9.9 s (RELAX); T = 3: .11, 1.34, 2.02 s.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from estbench.estimators import make
from estbench.meter.moments import total_variance
from estbench.meter.step import measured_step
from estbench.models.lstm_generator import Generator
from estbench.models.reward import Reward

BATCH = 128
PUBLISHED = {
    ("reinforce", 15): 0.287,
    ("rebar", 15): 7.01,
    ("relax", 15): 9.87,
    ("reinforce", 3): 0.109,
    ("rebar", 3): 1.34,
    ("relax", 3): 2.02,
}
NAMES = (
    "reinforce",
    "reinforce-ema",
    "reinforce-constant",
    "reinforce-critic",
    "rloo",
    "seqgan-rollouts",
    "rebar",
    "rebar-soft",
    "relax",
    "relax-rebar",
)


@pytest.mark.parametrize("setting", [3, 15], indirect=True, ids=["T=3", "T=15"])
@pytest.mark.parametrize("name", NAMES)
def test_step(benchmark: Any, setting: tuple[Generator, Reward], name: str) -> None:
    policy, reward = setting
    method = make(name)
    rng = torch.Generator().manual_seed(0)
    learned = method.initial_state(policy, rng)
    optimiser = torch.optim.Adam(policy.parameters(), lr=1e-3, fused=True)
    draws = BATCH // method.info.group

    def step() -> float:
        found, _, fault = measured_step(
            method, policy, reward, draws, rng, learned, optimiser, check_rows=False
        )
        assert not fault
        return total_variance(found)

    benchmark.group = f"generator step, T={policy.length}"
    published = PUBLISHED.get((name, policy.length))
    if published is not None:
        benchmark.extra_info["the paper's public code, seconds"] = published
    assert benchmark.pedantic(step, rounds=20, warmup_rounds=3) > 0
    if published is not None and benchmark.stats is not None:
        ratio = published / benchmark.stats.stats.median
        benchmark.extra_info["times faster than it"] = round(ratio, 1)

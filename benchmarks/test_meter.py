"""The variance meter alone: 1000 draws at V = 5, T = 15, without sampling or reward.

On another machine of two cores a loop of 1000 backward passes through torch's own LSTM takes .46 s
and ``vmap(grad)`` .044 s. "norms" and "whole" include the forward pass that records, and the
check of the sum; "loop" differentiates draw by draw, for comparison in the same run.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from estbench.estimators.base import Surrogate
from estbench.meter.gradients import Tape
from estbench.meter.moments import total_variance
from estbench.models.lstm_generator import Generator
from estbench.models.reward import Reward

DRAWS = 1000


def surrogate_of(policy: Generator, tokens: torch.Tensor, weights: torch.Tensor) -> Surrogate:
    log_probs = policy.log_probs(tokens).gather(2, tokens.unsqueeze(2)).squeeze(2)
    return Surrogate(log_probs, weights, tokens.unsqueeze(1), weights[:, :1])


@pytest.mark.parametrize("setting", [15], indirect=True, ids=["T=15"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("what", ["norms", "whole", "loop"])
def test_meter(benchmark: Any, setting: tuple[Generator, Reward], what: str, threads: int) -> None:
    torch.set_num_threads(threads)
    policy, _ = setting
    rng = torch.Generator().manual_seed(0)
    tokens = policy.sample(DRAWS, rng)
    weights = torch.randn(DRAWS, policy.length, generator=rng)

    def norms() -> float:
        with Tape(policy) as tape:
            surrogate = surrogate_of(policy, tokens, weights)
        return total_variance(tape.differentiate(surrogate, check_rows=False))

    def whole() -> float:
        with Tape(policy) as tape:
            surrogate = surrogate_of(policy, tokens, weights)
        found = tape.differentiate(surrogate, check_rows=False)
        return float(torch.cat(list(found.chunks(DRAWS))).var(dim=0).sum())

    def loop() -> float:
        # One draw forward and backward at a time: a shared forward pass would cost every backward
        # pass the whole batch.
        parameters = list(policy.parameters())
        rows = []
        for i in range(DRAWS):
            (value,) = surrogate_of(policy, tokens[i : i + 1], weights[i : i + 1]).values
            grads = torch.autograd.grad(value, parameters)
            rows.append(torch.cat([g.flatten() for g in grads]))
        return float(torch.stack(rows).var(dim=0).sum())

    benchmark.group = f"1000 draws, {threads} thread{'s' if threads > 1 else ''}"
    rounds = 3 if what == "loop" else 15
    assert benchmark.pedantic(locals()[what], rounds=rounds, warmup_rounds=1) > 0

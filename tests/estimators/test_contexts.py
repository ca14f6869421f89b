"""Policies that are conditioned on something: a draw sees its own context and no other."""

from __future__ import annotations

import pytest
import torch

from estbench import estimators
from estbench.meter.gradients import Tape
from estbench.models.factorised import FactorisedPolicy
from estbench.proof.rewards import function_reward, rng

CONTEXTS = torch.tensor([[1.0, -0.5, 0.3], [-0.8, 0.4, 1.2]], dtype=torch.float64)


@pytest.mark.parametrize(
    "name",
    [
        "reinforce-greedy",
        "reinforce-step-constants",
        "vine",
        "grpo",
        "all-actions",
        "sum-and-sample",
        "unordered-set-4",
        "without-replacement-8",
        "muprop",
    ],
)
def test_draws_of_a_context_are_those_that_it_has_alone(name: str) -> None:
    policy = FactorisedPolicy(2, 4, 3, CONTEXTS, dtype=torch.float64)
    policy.initialise(1.0, rng(1))
    reward, method = function_reward(2, 4, 2), estimators.make(name)
    state = method.initial_state(policy, rng(2))
    if "coefficients" in state:
        state["coefficients"]["values"] = (0.1, 0.6)

    def draws(n: int) -> torch.Tensor:
        with Tape(policy) as tape:
            surrogate = method.surrogate(policy, reward, n, rng(3), state)
        found = tape.differentiate(surrogate)
        assert tape.fault == ""
        return torch.cat(list(found.chunks()))

    both = draws(6)
    with policy.contexts.given(CONTEXTS[:1]):
        first = draws(3)
    torch.testing.assert_close(both[:3], first, atol=1e-12, rtol=1e-9)
    with policy.contexts.given(CONTEXTS[1:]):
        second = draws(6)[3:]
    torch.testing.assert_close(both[3:], second, atol=1e-12, rtol=1e-9)

"""What an estimator has learned when it is tested, where a user chose the names."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from estbench import estimators
from estbench.proof.problems import PROBLEMS
from estbench.proof.rewards import rng
from estbench.proof.states import disturb, learned

# Names that the catalogue's families use, with what somebody else may keep under them.
OWN: dict[str, Any] = {
    "baseline": torch.zeros(()),
    "critic": [1.0],
    "steps": 3,
    "coefficients": {"values": (1.0,)},
    "tensors": torch.ones(2),
    "network": "mlp",
}


class Own:
    """An estimator of somebody else's: it has no coefficients as the catalogue has them."""


@pytest.mark.parametrize("name", OWN)
def test_what_a_user_keeps_under_a_familys_name_is_left_alone(name: str) -> None:
    policy = PROBLEMS["autoregressive"]().policy
    state = {name: OWN[name]}
    disturb(Own(), policy, state, rng(0))
    assert state == {name: OWN[name]}


@pytest.mark.parametrize("name", ["reinforce-ema", "reinforce-critic", "relax", "rebar-per-tensor"])
def test_what_a_family_has_learned_is_moved(name: str) -> None:
    problem, method = PROBLEMS["autoregressive"](), estimators.make(name)
    fresh, moved = (learned(method, problem, how) for how in ("fresh", "arbitrary"))
    assert repr(fresh) != repr(moved)

"""The variance meter alone: 1000 draws at V = 5, T = 15, without sampling or reward."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conftest import Beside
from peers import Norms, norms_by_others, norms_by_tape

from estbench.models.lstm_generator import Generator
from estbench.models.reward import Reward

DRAWS = 1000


@pytest.mark.parametrize("setting", [15], indirect=True, ids=["T=15"])
def test_norms(beside: Beside, setting: tuple[Generator, Reward]) -> None:
    policy, _ = setting
    rng = torch.Generator().manual_seed(0)
    tokens = policy.sample(DRAWS, rng)
    weights = torch.randn(DRAWS, policy.length, generator=rng)

    def at_once(norms: Norms) -> Callable[[], object]:
        return lambda: norms(tokens, weights)

    others = {name: at_once(norms) for name, norms in norms_by_others(policy).items()}
    ours = at_once(norms_by_tape(policy))
    V, H, rows = policy.vocabulary, policy.hidden, DRAWS * policy.length
    # Input, hidden and output layers, forward and back twice, and the Gram matrices of T x T.
    layers = 3 * 2 * rows * (2 * H * 4 * H + H * V)
    gram = 2 * rows * policy.length * (7 * H + V)
    beside("1000 per-draw norms, V = 5, T = 15", ours, others, flop=layers + gram, rounds=15)

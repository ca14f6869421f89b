"""The variance meter alone: 1000 draws at V = 5, T = 15, without sampling or reward."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conftest import Beside
from peers import Norms, norms_by_opacus, norms_by_vmap

from estbench.estimators.base import Surrogate
from estbench.meter.gradients import Tape
from estbench.models.lstm_generator import Generator
from estbench.models.policy import at_tokens
from estbench.models.reward import Reward

DRAWS = 1000


@pytest.mark.parametrize("setting", [15], indirect=True, ids=["T=15"])
def test_norms(beside: Beside, setting: tuple[Generator, Reward]) -> None:
    policy, _ = setting
    rng = torch.Generator().manual_seed(0)
    tokens = policy.sample(DRAWS, rng)
    weights = torch.randn(DRAWS, policy.length, generator=rng)

    def ours() -> None:
        with Tape(policy) as tape:
            chosen = at_tokens(policy.log_probs(tokens), tokens)
            made = Surrogate(chosen, weights, tokens.unsqueeze(1), weights[:, :1])
        tape.differentiate(made, check=False).squared_norms()

    def loop() -> None:
        # One draw forward and backward at a time: a shared forward pass would cost every backward
        # pass the whole batch.
        parameters = list(policy.parameters())
        for i in range(DRAWS):
            chosen = at_tokens(policy.log_probs(tokens[i : i + 1]), tokens[i : i + 1])
            grads = torch.autograd.grad((chosen * weights[i]).sum(), parameters)
            sum(float((g**2).sum()) for g in grads)

    def at_once(norms: Norms) -> Callable[[], object]:
        return lambda: norms(tokens, weights)

    V = policy.vocabulary
    others = {
        "torch.func.vmap": at_once(norms_by_vmap(V)),
        "opacus": at_once(norms_by_opacus(V, ghost=False)),
        "opacus, ghost norms": at_once(norms_by_opacus(V, ghost=True)),
        "one draw after another": loop,
    }
    H, rows = policy.hidden, DRAWS * policy.length
    # Input, hidden and output layers, forward and back twice, and the Gram matrices of T x T.
    layers = 3 * 2 * rows * (2 * H * 4 * H + H * V)
    gram = 2 * rows * policy.length * (7 * H + V)
    beside("1000 per-draw norms, V = 5, T = 15", ours, others, flop=layers + gram, rounds=15)

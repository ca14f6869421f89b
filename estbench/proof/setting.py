"""The small policy and reward that an estimator's conduct is watched on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from estbench.estimators.base import Draws, Estimator
from estbench.meter.centred import Centred
from estbench.meter.gradients import Tape
from estbench.meter.measuring import adapt_once
from estbench.models.generator import Generator
from estbench.models.reward import FunctionReward
from estbench.proof.breaches import NotApplicableError
from estbench.proof.rewards import function_reward, rng
from estbench.proof.states import disturb

__all__ = ["Setting", "T", "V", "bits"]

V, T = 4, 3
BINARY = 2  # tokens, for estimators that fit no more


class Setting:
    """An estimator with a small policy and reward, and with learned parts that matter.

    Raises:
      NotApplicableError: The estimator fits no policy that is as small.
    """

    def __init__(
        self,
        make: Callable[[], Estimator],
        dtype: torch.dtype = torch.float64,
        reward: FunctionReward | None = None,
    ) -> None:
        self.method = make()
        self.vocabulary = BINARY if self.method.refusal(V, T) else V
        if reason := self.method.refusal(self.vocabulary, T):
            raise NotApplicableError(reason)
        self.policy = Generator(self.vocabulary, T, embedding=5, hidden=5, dtype=dtype)
        self.policy.initialise("normal", 0.6, rng(1))
        self.reward = Centred(reward or function_reward(self.vocabulary, T, 2), 0.1)
        self.state = self.method.initial_state(self.policy, rng(2))
        disturb(self.method, self.policy, self.state, rng(3))

    def surrogate(self, draws: int, seed: int = 4) -> Draws:
        """Return draws."""
        return self.method.surrogate(self.policy, self.reward, draws, rng(seed), self.state)

    def gradients(self, draws: int, seed: int = 4) -> tuple[Tensor, Draws]:
        """Return the gradients ``[draws, P]`` of draws, and their surrogate."""
        with Tape(self.policy) as tape:
            surrogate = self.surrogate(draws, seed)
        found = tape.differentiate(surrogate)
        return torch.cat(list(found.chunks())), surrogate

    def adapt(self, sequences: int, seed: int = 5) -> None:
        """Train what is learned on a batch."""
        draws = max(2, sequences // self.method.info.group)
        adapt_once(self.method, self.policy, self.reward, draws, rng(seed), self.state)


def bits(state: Any) -> Any:
    """Return a copy of a state in which every number can be compared."""
    if isinstance(state, dict):
        return {k: bits(v) for k, v in state.items() if not isinstance(v, torch.Generator)}
    if isinstance(state, nn.Module | torch.optim.Optimizer):
        return bits(state.state_dict())
    if isinstance(state, Tensor):
        return state.tolist()
    if isinstance(state, list | tuple):
        return [bits(v) for v in state]
    return copy.deepcopy(state)

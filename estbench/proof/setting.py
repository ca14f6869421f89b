"""The small policy and reward that an estimator's conduct is watched on, and how a rule ends."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from estbench.core.processes import described, is_stop
from estbench.estimators.base import Draws, Estimator
from estbench.meter.bias import Centred
from estbench.meter.gradients import CHECK_ROWS_EVERY, Tape
from estbench.meter.measuring import adapt_once
from estbench.models.lstm_generator import Generator
from estbench.models.reward import FunctionReward
from estbench.proof.rewards import function_reward, rng
from estbench.proof.states import disturb

__all__ = [
    "BrokenRuleError",
    "Make",
    "NotApplicableError",
    "Seen",
    "Setting",
    "T",
    "V",
    "attempt",
    "bits",
    "ensure",
]

Make = Callable[[], Estimator]
Found = TypeVar("Found")
Failed = TypeVar("Failed")

V, T = 4, 3
BINARY = 2  # tokens, for estimators that fit no more


class BrokenRuleError(Exception):
    """A rule was broken; the text says how."""


class NotApplicableError(Exception):
    """The rule says nothing about this estimator."""


def ensure(kept: bool, otherwise: str) -> None:
    """Raise ``BrokenRuleError`` with the text ``otherwise`` unless ``kept``."""
    if not kept:
        raise BrokenRuleError(otherwise)


def attempt(function: Callable[[], Found], failed: Callable[[str], Failed]) -> Found | Failed:
    """Return what a function returns, or what ``failed`` makes of what it raised.

    Whatever a user's estimator raises is a finding about it; only a stop goes through.
    """
    try:
        return function()
    except BaseException as error:
        if is_stop(error):
            raise
        return failed(described(error))


class Seen:
    """The functions behind a reward. It sees every row they evaluate, and can change one answer.

    An estimator may reach past the reward's counters. It cannot reach past the functions.

    Args:
      reward: Whose functions they are.

    Attributes:
      batches: What was evaluated, in order: tokens ``[n, T]`` or weights ``[n, T, V]``.
      hard: How many sequences of tokens were evaluated.
      relaxed: How many relaxed sequences were evaluated.
    """

    def __init__(self, reward: FunctionReward) -> None:
        self._functions = reward.function, reward.relaxed_function
        self._change: tuple[int, float] | None = None
        self.clear()

    def clear(self) -> None:
        """Forget what was evaluated."""
        self.batches: list[Tensor] = []
        self.hard = self.relaxed = 0

    @property
    def rows(self) -> list[Tensor]:
        """The rows of all batches, in order."""
        return [row for batch in self.batches for row in batch]

    @property
    def reward(self) -> FunctionReward:
        """A reward with these functions."""
        return FunctionReward(self._hard, self._relaxed if self._functions[1] else None)

    @contextmanager
    def changed(self, row: int, by: float) -> Iterator[None]:
        """Change the answer for one row: its value, and its slope where it is relaxed.

        Args:
          row: Its place in ``rows``.
          by: What is added to the value.
        """
        self._change = row, by
        try:
            yield
        finally:
            self._change = None

    def _hard(self, tokens: Tensor) -> Tensor:
        return self._answer(self._functions[0](tokens), tokens)

    def _relaxed(self, weights: Tensor) -> Tensor:
        function = self._functions[1]
        assert function is not None
        return self._answer(function(weights), weights)

    def _answer(self, values: Tensor, rows: Tensor) -> Tensor:
        start = self.hard + self.relaxed
        self.batches.append(rows.detach())
        if rows.is_floating_point():
            self.relaxed += len(rows)
        else:
            self.hard += len(rows)
        if self._change is None:
            return values
        row, by = self._change
        if not start <= row < start + len(rows):
            return values
        here = torch.arange(len(values), device=values.device) == row - start
        added: Tensor | float = by
        if rows.is_floating_point():
            slope = torch.linspace(-1.0, 1.0, rows[0].numel(), dtype=rows.dtype)
            added = by * (1 + rows.flatten(1) @ slope.to(rows.device))
        return values + torch.where(here, added, 0.0)


class Setting:
    """An estimator with a small policy and reward, and with learned parts that matter.

    Args:
      make: Makes the estimator.
      dtype: Of the policy.
      reward: The reward; a smooth random one if None.
      vocabulary: Tokens of the policy, or fewer where the estimator takes no more.

    Raises:
      NotApplicableError: The estimator fits no policy that is as small.
    """

    def __init__(
        self,
        make: Make,
        dtype: torch.dtype = torch.float64,
        reward: FunctionReward | None = None,
        vocabulary: int = V,
    ) -> None:
        self.method = make()
        self.vocabulary = BINARY if self.method.refusal(vocabulary, T) else vocabulary
        if reason := self.method.refusal(self.vocabulary, T):
            raise NotApplicableError(reason)
        self.policy = Generator(self.vocabulary, T, embedding=5, hidden=5, dtype=dtype)
        self.policy.initialise("normal", 0.6, rng(1))
        self.seen = Seen(reward or function_reward(self.vocabulary, T, 2))
        self.reward = Centred(self.seen.reward, 0.1)
        self.state = self.method.initial_state(self.policy, rng(2))
        self.calls, self.fault = 0, ""
        if self.method.info.learned:
            for k in range(2):  # what has seen nothing may do nothing
                self.adapt(64, seed=50 + k)
            self.seen.clear()
            self.reward = Centred(self.seen.reward, 0.1)  # its counters begin at 0
        disturb(self.method, self.policy, self.state, rng(3))

    def surrogate(self, draws: int, seed: int | torch.Generator = 4) -> Draws:
        """Return draws, from a seed or a generator; ``seen`` then holds this call alone."""
        self.seen.clear()
        noise = _noise(seed)
        return self.method.surrogate(self.policy, self.reward, draws, noise, self.state)

    def gradients(self, draws: int, seed: int | torch.Generator = 4) -> tuple[Tensor, Draws]:
        """Return the gradients ``[draws, P]`` of draws, and their surrogate."""
        with Tape(self.policy, self.fault) as tape:
            surrogate = self.surrogate(draws, seed)
        found = tape.differentiate(surrogate, check_rows=self.calls % CHECK_ROWS_EVERY == 0)
        self.calls, self.fault = self.calls + 1, tape.fault
        return torch.cat(list(found.chunks())), surrogate

    def adapt(self, sequences: int, seed: int | torch.Generator = 5) -> None:
        """Train what is learned on a batch."""
        draws = max(2, sequences // self.method.info.group)
        adapt_once(self.method, self.policy, self.reward, draws, _noise(seed), self.state)


def _noise(seed: int | torch.Generator) -> torch.Generator:
    return seed if isinstance(seed, torch.Generator) else rng(seed)


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

"""Where the time of a generator step goes: sampling, reward, forward and backward pass, the rest.

The policy's and the reward's own methods are replaced by ones that tell a clock, for a few steps
that serve nothing else. What a phase calls of another phase counts for that other one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Tensor

from estbench.estimators.base import Estimator, Learned, Reward
from estbench.meter.cost import replaced
from estbench.models.policy import Policy

__all__ = ["PHASES", "Clock", "listening"]

PHASES = {
    "sampling": "sequences and rollouts drawn from the policy",
    "reward": "hard reward evaluations",
    "forward": "log-probabilities with their graph",
    "control variate": "relaxed rewards, learned control variates, weights",
    "backward": "gradients and squared norms of all draws",
    "adaptation": "training of what is learned",
    "update": "the optimiser's step",
}

OUTSIDE = "update"
"""What is in no other phase: means handed to the optimiser, clipping, Adam."""


class Clock:
    """Adds up seconds by phase; exactly one phase runs at any time.

    Args:
      device: Where the work is done. Work on a GPU is waited for at each change of phase.

    Attributes:
      seconds: Phase -> seconds so far.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self._device = torch.device(device)
        self._running: list[str] = []
        self._since = 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what happens inside as ``name``, until a phase inside takes over."""
        self._turn()
        self._running.append(name)
        try:
            yield
        finally:
            self._turn()
            self._running.pop()

    def _turn(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now


class _HeardReward:
    """A reward that tells the clock when it is asked for hard evaluations."""

    def __init__(self, reward: Reward, clock: Clock) -> None:
        self._reward = reward
        self._clock = clock

    def __call__(self, tokens: Tensor) -> Tensor:
        with self._clock.phase("reward"):
            return self._reward(tokens)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._reward, name)
        return _told(self._clock, found, "reward") if name == "of_rollouts" else found


@contextmanager
def listening(
    clock: Clock, method: Estimator, policy: Policy, reward: Reward, learned: Learned
) -> Iterator[Reward]:
    """Let a clock hear what an estimator asks of the policy and the reward, inside the block.

    Yields:
      The reward to use inside.
    """
    policies = [policy, *(part for part in learned.values() if isinstance(part, Policy))]
    ways = {"sample_by": "sampling", "sample_from": "sampling", "continue_from": "sampling"}
    ways |= {"trace": "forward", "log_probs": "forward"}
    heard: list[tuple[Any, dict[str, str]]] = [(each, ways) for each in policies]
    heard.append((method, {"surrogate": "control variate", "adapt": "adaptation"}))
    with ExitStack() as stack:
        for owner, phases in heard:
            own = {name: _told(clock, getattr(owner, name), phases[name]) for name in phases}
            stack.enter_context(replaced(owner, own))
        yield cast(Reward, _HeardReward(reward, clock))


def _told(clock: Clock, own: Callable[..., Any], phase: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        with clock.phase(phase):
            return own(*args, **kwargs)

    return call

"""Counting what a draw costs: reward evaluations, hard and relaxed, and steps of the policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from estbench.models.policy import Policy
from estbench.models.trees import leaves

__all__ = ["StepCount", "count_steps"]


@dataclass
class StepCount:
    """Rows times positions that the policy was advanced."""

    steps: int = 0


@contextmanager
def count_steps(policy: Policy) -> Iterator[StepCount]:
    """Count the policy's steps inside the block, whichever path they take."""
    count = StepCount()
    nested = False

    def counted(method: Callable[..., Any], size: Callable[..., int]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal nested
            if nested:
                return method(*args, **kwargs)
            count.steps += size(*args)
            nested = True
            try:
                return method(*args, **kwargs)
            finally:
                nested = False

        return call

    # Paths that go through ``step`` themselves are counted once, by the outermost call; rollouts
    # grow as they go and are left to ``step``.
    sizes: dict[str, Callable[..., int]] = {
        "step": lambda previous, state: leaves(state)[0].shape[0],
        "trace": lambda tokens: tokens.numel(),
        "sample_by": lambda n, choose: n * policy.length,
    }
    for name, size in sizes.items():
        object.__setattr__(policy, name, counted(getattr(policy, name), size))
    try:
        yield count
    finally:
        for name in sizes:
            object.__delattr__(policy, name)

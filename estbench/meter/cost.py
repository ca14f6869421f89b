"""Counting what a draw costs: reward evaluations, hard and relaxed, and steps of the policy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from estbench.estimators.base import EstimatorInfo
from estbench.estimators.formula import evaluate
from estbench.models.policy import Policy
from estbench.models.trees import leaves

__all__ = ["StepCount", "count_steps", "declared_evaluations", "replaced", "sequences_at_once"]


@dataclass
class StepCount:
    """Rows times positions that the policy was advanced."""

    steps: int = 0


def declared_evaluations(info: EstimatorInfo, vocabulary: int, length: int, draws: float) -> float:
    """Return the reward evaluations that a sequence costs in training; NaN where that is unknown.

    Hard and relaxed ones, and those that tune what is learned, as the estimator declares them.

    Args:
      info: What the estimator declares.
      vocabulary: V.
      length: T.
      draws: Draws of the same context in a call, which share what is evaluated once; may be
        infinite.
    """
    sizes = {"T": length, "V": vocabulary, "K": info.group, "n": draws}
    try:
        parts = (info.hard_evals, info.relaxed_evals, info.tuning_evals)
        return sum(evaluate(part, sizes) for part in parts) / info.group
    except ValueError:  # a formula that says nothing, or a number too large
        return math.nan


def rollout_steps(tokens: Tensor, rollouts: int) -> int:
    """Return the steps of a batch's own sequences and of N rollouts of each proper prefix."""
    n, T = tokens.shape
    return n * T + n * rollouts * T * (T - 1) // 2


NUMBERS = 1 << 22


def sequences_at_once(policy: Policy, most: int) -> int:
    """Return how many sequences to differentiate in one pass: at most ``most``, at least one.

    A pass holds several matrices of [sequences, T, V]; at V = 5000 they would fill the memory
    while small ones stay in the cache. A deep policy says in ``hidden_numbers`` what its layers
    hold of a sequence beside that.
    """
    each = policy.length * policy.vocabulary + getattr(policy, "hidden_numbers", 0)
    return max(1, min(most, NUMBERS // each))


@contextmanager
def count_steps(policy: Policy, *others: Policy) -> Iterator[StepCount]:
    """Count the steps of a policy, and of others, inside the block, whichever path they take."""
    count = StepCount()
    with ExitStack() as stack:
        for each in (policy, *others):
            stack.enter_context(_count(each, count))
        yield count


def _count(policy: Policy, count: StepCount) -> AbstractContextManager[None]:
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

    # Paths that go through ``step`` themselves are counted once, by the outermost call.
    sizes: dict[str, Callable[..., int]] = {
        "step": lambda previous, state: leaves(state)[0].shape[0],
        "trace": lambda tokens: tokens.numel(),
        "sample_by": lambda n, choose: n * policy.length,
        "sample_from": lambda uniforms: uniforms.numel(),
        "relaxed_from": lambda gumbel, temperature: gumbel.shape[0] * gumbel.shape[1],
        "continue_from": lambda tokens, uniforms: rollout_steps(tokens, uniforms.shape[1]),
    }
    own = {name: counted(getattr(policy, name), size) for name, size in sizes.items()}
    return replaced(policy, own)


@contextmanager
def replaced(owner: Any, methods: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Give ``owner`` methods of its own inside the block; its class's are back afterwards.

    Past the owner's own way of setting attributes, which for a module of torch's keeps accounts.
    """
    for name, method in methods.items():
        object.__setattr__(owner, name, method)
    try:
        yield
    finally:
        for name in methods:
            object.__delattr__(owner, name)

"""Trees of tensors with rows first: what a policy's state is, and how to move its rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

__all__ = ["State", "flatten_rows", "insert_rows", "map_rows", "repeat_rows"]

State = Any
"""A tensor ``[n, ...]``, or a tuple, list or dict of states. Rows are the first dimension."""


def map_rows(state: State, function: Callable[[Tensor], Tensor]) -> State:
    """Return the state with ``function`` applied to every tensor in it."""
    if isinstance(state, Tensor):
        return function(state)
    if isinstance(state, dict):
        return {key: map_rows(value, function) for key, value in state.items()}
    if isinstance(state, tuple | list):
        return type(state)(map_rows(value, function) for value in state)
    raise TypeError(f"a state is a tree of tensors; found {type(state).__name__}")


def leaves(state: State) -> list[Tensor]:
    """Return the tensors of a state, in a fixed order."""
    if isinstance(state, Tensor):
        return [state]
    children = state.values() if isinstance(state, dict) else state
    return [leaf for child in children for leaf in leaves(child)]


def repeat_rows(state: State, times: int) -> State:
    """Return the state with every row repeated ``times`` times, the copies next to each other."""
    return map_rows(state, lambda x: x.repeat_interleave(times, dim=0))


def insert_rows(states: Sequence[State], draws: int) -> State:
    """Join states of the same draws so that the rows of a draw stand together.

    Args:
      states: States with ``draws * k_j`` draw-major rows each.
      draws: Number of draws.

    Returns:
      A state of ``draws * sum(k_j)`` rows: of draw 0 first, in the order given, and so on.
    """
    first = states[0]
    if isinstance(first, Tensor):
        parts = [cast(Tensor, s).reshape(draws, -1, *s.shape[1:]) for s in states]
        joined = torch.cat(parts, dim=1)
        return joined.reshape(-1, *joined.shape[2:])
    if isinstance(first, dict):
        return {key: insert_rows([s[key] for s in states], draws) for key in first}
    return type(first)(insert_rows(list(parts), draws) for parts in zip(*states, strict=True))


def flatten_rows(state: State) -> Tensor:
    """Return all floating-point numbers of a state as one matrix ``[n, features]``."""
    found = leaves(state)
    rows = [x.reshape(x.shape[0], -1) for x in found if x.is_floating_point()]
    return torch.cat(rows, dim=1) if rows else torch.zeros(found[0].shape[0], 0)

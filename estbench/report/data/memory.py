"""Methods that compute once: tables, figures, page and terminal all ask for the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

__all__ = ["once"]

P = ParamSpec("P")
R = TypeVar("R")


def once(method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """Compute a method once for each set of arguments; its object has a dict `memory`."""

    @wraps(method)
    def remembered(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        key = (method.__name__, args, tuple(kwargs.items()))
        if key not in self.memory:
            self.memory[key] = method(self, *args, **kwargs)
        return cast(R, self.memory[key])

    return remembered

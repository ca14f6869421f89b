"""Other methods for an object, for a while: how policies are listened to and not changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

__all__ = ["replaced"]


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

"""A policy around another one: everything that the inner policy declares holds for the outer."""

from __future__ import annotations

from typing import Any

from torch import nn

from estbench.models.policy import Policy

__all__ = ["Wrapper"]

MISSING = object()


def _of_inner(name: str, default: Any = MISSING) -> Any:
    """Return a property that reads and writes the inner policy's attribute."""

    def read(wrapper: Wrapper) -> Any:
        if default is MISSING:
            return getattr(wrapper.policy, name)
        return getattr(wrapper.policy, name, default)

    def write(wrapper: Wrapper, value: Any) -> None:
        inner = vars(wrapper).get("_modules", {}).get("policy")
        if inner is not None:  # torch writes ``training`` before there is an inner policy
            setattr(inner, name, value)

    return property(read, write, doc=f"The inner policy's ``{name}``.")


class Wrapper(Policy):
    """Base class of policies that change what another one computes.

    What a policy declares is read from the inner policy whenever it is asked for, so that a later
    change of it (other contexts, another truncation) reaches the wrapper, and the other way round.
    Attributes outside the contract are the inner policy's as well.

    Args:
      policy: The inner policy; a plain module may lack ``end``, ``contexts`` and ``truncation``.

    Attributes:
      policy: The inner policy.
    """

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy: Any = policy

    vocabulary = _of_inner("vocabulary")
    length = _of_inner("length")
    truncation = _of_inner("truncation", 0)
    end = _of_inner("end", None)
    contexts = _of_inner("contexts", None)
    training = _of_inner("training")

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            inner = vars(self).get("_modules", {}).get("policy")
            if inner is None or name.startswith("__"):
                raise
            return getattr(inner, name)

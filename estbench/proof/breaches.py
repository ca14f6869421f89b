"""What a rule of conduct says where it was not kept, or does not apply."""

from __future__ import annotations

__all__ = ["BrokenRuleError", "NotApplicableError", "ensure"]


class BrokenRuleError(Exception):
    """A rule was broken; the text says how."""


class NotApplicableError(Exception):
    """The rule says nothing about this estimator."""


def ensure(kept: bool, otherwise: str) -> None:
    """Raise ``BrokenRuleError`` with the text ``otherwise`` unless ``kept``."""
    if not kept:
        raise BrokenRuleError(otherwise)

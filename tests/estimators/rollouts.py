"""Which estimators take rollouts."""

from __future__ import annotations

from estbench import estimators
from estbench.core.errors import UserError


def takes_rollouts(name: str) -> bool:
    """Return whether an estimator can be made with rollouts; the others refuse the setting."""
    try:
        estimators.make(name, rollouts=2)
    except UserError:
        return False
    return True

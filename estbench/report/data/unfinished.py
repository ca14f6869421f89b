"""How far a result set is whose report is made before it is finished."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["Progress", "progress"]


@dataclass(frozen=True)
class Progress:
    """How far a grid was when a report of it was made.

    Attributes:
      trained: Training runs that have ended, and how many there are.
      measured: Measurements that have ended, and how many there are.
      failed: How much of either failed.
      at: When, as text (UTC).
      reload_s: After how many seconds a page loads itself again.
    """

    trained: tuple[int, int]
    measured: tuple[int, int]
    failed: int
    at: str
    reload_s: int

    def __str__(self) -> str:
        parts = [
            f"{done} of {total} {what}"
            for what, (done, total) in (
                ("training runs", self.trained),
                ("measurements", self.measured),
            )
            if total
        ]
        failed = f" ({self.failed} failed)" if self.failed else ""
        return f"{' and '.join(parts)} done{failed} at {self.at}"


progress: ContextVar[Progress | None] = ContextVar("progress", default=None)
"""How far the set is that is reported on; None where nobody works on it."""

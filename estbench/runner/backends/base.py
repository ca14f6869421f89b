"""What hands out jobs: to processes of this machine, or to those of others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from estbench.runner.jobs import Job
from estbench.runner.worker import Outcome

__all__ = ["Backend", "BackendLostError"]


class Backend(Protocol):
    """Hands out jobs and hears of their ends.

    Attributes:
      workers: How many jobs are worked on at the same time; it may change meanwhile.
    """

    workers: int

    def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """Yield the outcomes of jobs as they end; the records are on disk by then.

        A job whose worker dies is handed out again, once; if that one dies as well, the job becomes
        a failed record. So a death costs time and no number, and no job is tried for ever.

        Raises:
          StorageError: The disk refused a record.
          BackendLostError: Whoever hands the jobs out is gone.
        """

    def close(self) -> None:
        """Stop whatever is being worked on, and return when it is stopped."""


class BackendLostError(Exception):
    """The scheduler is gone, or takes no more work: one line. What was finished is on disk."""

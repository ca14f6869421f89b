"""Processes of this machine, by joblib's loky; the pool survives the death of any of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from operator import attrgetter
from pathlib import Path

from estbench.core.processes import WorkerKilled, stop_workers, surviving
from estbench.runner.jobs import Job
from estbench.runner.worker import Outcome, already_done, execute, give_up
from estbench.store import ResultSet

__all__ = ["LocalBackend"]


class LocalBackend:
    """As many processes as there are to work at the same time; see ``Backend`` and ``surviving``.

    Args:
      workers: How many.
      directory: The result set.
      note: Told of each death of a worker, in a line.
    """

    def __init__(self, workers: int, directory: Path, note: Callable[[str], None]) -> None:
        self.workers = workers
        self._directory = directory.absolute()  # a worker may stand in another folder
        self._note = note

    def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """See ``Backend``."""
        results, work = ResultSet(self._directory), list(jobs)
        endings = surviving(
            work,
            lambda job: partial(execute, job, self._directory),
            self.workers,
            threads=work[0].experiment.execution.threads if work else 1,
            label=attrgetter("label"),
            left=partial(already_done, results),
            note=self._note,
        )
        for job, ending in endings:
            yield give_up(results, job, ending) if isinstance(ending, WorkerKilled) else ending

    def close(self) -> None:
        """See ``Backend``."""
        stop_workers()

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

__all__ = ["LocalBackend", "run_jobs"]


class LocalBackend:
    """As many processes as there are to work at the same time."""

    def __init__(self, workers: int, directory: Path, note: Callable[[str], None]) -> None:
        self.workers = workers
        self._directory = directory
        self._note = note

    def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """See ``Backend``."""
        return run_jobs(jobs, self.workers, self._directory, self._note)

    def close(self) -> None:
        """See ``Backend``."""
        stop_workers()


def run_jobs(
    jobs: Iterable[Job], workers: int, directory: Path, note: Callable[[str], None]
) -> Iterator[Outcome]:
    """Yield the outcomes of jobs as they end; the records are on disk by then.

    A job that kills its worker twice becomes a failed record (see ``surviving``); ``note`` is told
    of each death in a line.

    Raises:
      StorageError: The disk refused a record.
    """
    directory = directory.absolute()  # a worker may stand in another folder
    results, work = ResultSet(directory), list(jobs)
    endings = surviving(
        work,
        lambda job: partial(execute, job, directory),
        workers,
        threads=work[0].experiment.execution.threads if work else 1,
        label=attrgetter("label"),
        left=partial(already_done, results),
        note=note,
    )
    for job, ending in endings:
        yield give_up(results, job, ending) if isinstance(ending, WorkerKilled) else ending

"""Processes of this machine, by joblib's loky; the pool survives the death of any of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from estbench.processes import in_workers, stop_workers
from estbench.runner.backends.base import WorkerKilled
from estbench.runner.jobs import Job
from estbench.runner.worker import Outcome, execute, found, give_up
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

    When a worker is killed (no memory left, ``kill -9``) the whole pool dies with it, and nobody
    says whose worker it was. So the jobs that were being worked on are suspects: they are run again
    after all others, first together, for what was an accident will not happen twice, then alone.
    A job that stood under suspicion and was the only one when the pool died again has killed its
    worker at least twice: it becomes a failed record. ``note`` is told of each death in a line.

    Raises:
      StorageError: The disk refused a record.
    """
    directory = directory.absolute()  # a worker may stand in another folder
    results = ResultSet(directory)
    waiting, suspects = list(jobs), list[Job]()
    widths = (workers, workers, 1)
    for sweep, width in enumerate(widths):
        waiting, suspects = (suspects if sweep else waiting), []
        while waiting:
            sent: list[Job] = []
            ended: set[Job] = set()
            try:
                for ending in _sweep(waiting, sent, width, directory):
                    ended.add(ending.job)
                    yield ending
                break
            except BrokenProcessPool as error:
                begun = [job for job in sent if job not in ended]
                waiting = waiting[len(sent) :]
                caught = []
                for job in begun:
                    ended_unheard = found(results, job)
                    if ended_unheard is None:
                        caught.append(job)
                    else:
                        yield ended_unheard
                if sweep and len(caught) == 1:
                    reason = " ".join(str(error).split())
                    yield give_up(results, caught[0], WorkerKilled(reason))
                else:
                    suspects += caught
                    names = ", ".join(job.label for job in caught)
                    again = f"what was being worked on is run again: {names}" if names else ""
                    note(f"a worker process died; {again or 'all that it did is written'}")


def _sweep(jobs: list[Job], sent: list[Job], width: int, directory: Path) -> Iterator[Outcome]:
    """Yield outcomes; ``sent`` grows by each job that is handed to a worker."""
    from joblib import delayed

    def calls() -> Iterator[object]:
        for job in jobs:
            sent.append(job)
            yield delayed(execute)(job, directory)

    # As many jobs are out as there are workers, never one in advance: what is out when the pool
    # dies is what was being worked on. With n_jobs=1 joblib would work in this process, where a
    # job could neither be stopped nor die alone; hence two workers, of which one works.
    threads = jobs[0].experiment.execution.threads
    yield from in_workers(calls(), max(2, width), threads=threads, dispatched=width)

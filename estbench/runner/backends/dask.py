"""Workers of a dask cluster: a running one, or processes that dask starts on this machine.

Jobs are handed out by distributed's own futures, no more at a time than there are workers: joblib's
backend for dask waits for ever when a worker is killed, and a job that only waits at a worker
should not be blamed for its death.
"""

from __future__ import annotations

import logging
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from estbench import __version__
from estbench.core.errors import UserError
from estbench.core.processes import WorkerKilled, undisturbed
from estbench.runner.backends.base import BackendLostError
from estbench.runner.backends.remote import Blind, Delivery, inputs_of, perform, receive
from estbench.runner.jobs import Job
from estbench.runner.limits import stop_all
from estbench.runner.worker import Outcome, give_up
from estbench.store import ResultSet
from estbench.store.atomic import temporary_path

__all__ = ["DaskBackend", "check_scheduler"]

ANSWER_S = 10  # seconds within which a scheduler has to answer
POLL_S = 1.0
LOST = 3  # times that the cluster may lose a job for reasons of its own
CONFIG = {
    # A job that killed two workers is not given a third.
    "distributed.scheduler.allowed-failures": 1,
    "distributed.scheduler.work-stealing": False,
    "distributed.worker.memory.terminate": False,  # a run's own bound is what holds
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.target": False,
}


def check_scheduler(address: str) -> None:
    """Check that a scheduler answers.

    Raises:
      UserError: It does not, or the address is malformed.
    """
    _connect(address).close()


def _connect(address: str) -> Any:
    from distributed import Client

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what matters is said in a line
    try:
        return Client(address, timeout=ANSWER_S, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, TypeError) as error:  # TimeoutError is an OSError
        raise UserError(
            f"no dask scheduler answers at {address} ({' '.join(str(error).split())[:120]}): "
            "start one with: dask scheduler; and workers with: dask worker tcp://HOST:8786"
        ) from None


class DaskBackend:
    """See ``Backend``.

    Args:
      scheduler: Address of a running scheduler; "" starts workers here.
      workers: How many to start, or the most jobs at a time on a running cluster; 0 there is one a
        worker.
      directory: The result set.
      note: Told what happens to workers, in a line.

    Raises:
      UserError: No scheduler answers.
    """

    def __init__(
        self, scheduler: str, workers: int, directory: Path, note: Callable[[str], None]
    ) -> None:
        self._results = ResultSet(directory.absolute())
        self._most = workers
        self._note = note
        self._local = not scheduler
        self._token = temporary_path(self._results.path / "shared").name
        self._wire = False  # once a worker does not see the folder
        self._cluster: Any = None
        if self._local:
            self._client = self._start(workers)
        else:
            self._client = _connect(scheduler)
        self._flying: dict[Any, Job] = {}
        self.workers = max(1, workers or self._width())

    def _start(self, workers: int) -> Any:
        import dask
        from distributed import Client, LocalCluster

        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        with dask.config.set(CONFIG):
            self._cluster = LocalCluster(  # type: ignore[no-untyped-call]
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                memory_limit=0,
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
            )
        client = Client(self._cluster, set_as_default=False)  # type: ignore[no-untyped-call]
        client.register_plugin(_deaf_to_interrupts())
        return client

    def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """See ``Backend``."""
        self._results.write(self._results.path / self._token, b"")
        waiting, lost, ended = deque(jobs), dict[Job, int](), SimpleQueue[Any]()
        while waiting or self._flying:
            for _ in range(min(self._width() - len(self._flying), len(waiting))):
                self._submit(waiting.popleft(), ended)
            try:
                future = ended.get(timeout=POLL_S)
            except Empty:
                self._check_alive()
                continue
            self._results.check_there()
            job = self._flying.pop(future)
            answer = self._answer(future, job)
            if isinstance(answer, Blind):
                self._no_folder()
                waiting.appendleft(job)
            elif isinstance(answer, str):
                lost[job] = lost.get(job, 0) + 1
                if lost[job] < LOST:
                    self._note(f"the dask cluster lost {job.label}; it is run again")
                    waiting.append(job)
                else:
                    yield give_up(self._results, job, WorkerKilled(answer))
            elif isinstance(answer, Delivery):
                yield receive(self._results, answer)
            else:
                yield give_up(self._results, job, answer)

    def close(self) -> None:
        """See ``Backend``."""
        with undisturbed():
            with suppress(Exception):
                self._client.cancel(list(self._flying), force=True)
                if not self._local and self._flying:  # a cluster may serve others too
                    self._client.run(stop_all, self._token)
            for part in (self._client, self._cluster):
                with suppress(Exception):
                    if part is not None:
                        part.close()
            (self._results.path / self._token).unlink(missing_ok=True)

    def _submit(self, job: Job, ended: SimpleQueue[Any]) -> None:
        inputs = inputs_of(self._results, job) if self._wire else None
        future = self._client.submit(
            perform,
            job,
            str(self._results.path),
            self._token,
            __version__,
            inputs,
            key=f"{job.label}-{uuid.uuid4().hex}",
            pure=False,
        )
        self._flying[future] = job
        future.add_done_callback(ended.put)

    def _answer(self, future: Any, job: Job) -> Delivery | Blind | WorkerKilled | str:
        """Return what a future brought: text says why the cluster itself lost it."""
        from distributed import KilledWorker
        from distributed.client import FutureCancelledError
        from distributed.comm.core import CommClosedError

        try:
            answer: Delivery | Blind = future.result()
        except KilledWorker:
            return WorkerKilled(f"dask gave up on {job.label}")
        except (FutureCancelledError, TimeoutError, CommClosedError) as error:
            self._check_alive()
            return " ".join(str(error).split())[:120]
        finally:
            future.release()
        return answer

    def _no_folder(self) -> None:
        if not self._wire:
            self._note(
                f"workers do not see {self._results.path}: results come back over the network"
            )
        self._wire = True

    def _width(self) -> int:
        try:
            there = len(self._client.nthreads())
        except Exception:
            self._check_alive()
            return 0
        return min(there, self._most) if self._most else there

    def _check_alive(self) -> None:
        if self._client.status not in ("running", "connecting"):
            raise BackendLostError("the dask scheduler is gone")


def _deaf_to_interrupts() -> Any:
    """Return a plugin by which workers leave Ctrl-C, which a terminal sends to all, to the driver.

    Its class is made here, for the package it comes from is imported only when asked for.
    """
    from distributed import WorkerPlugin

    class DeafToInterrupts(WorkerPlugin):
        def setup(self, worker: Any) -> None:
            import signal
            import threading

            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, signal.SIG_IGN)

    return DeafToInterrupts()

"""Worker processes and the one that drives them: how either ends when the other does.

joblib's loky keeps the workers of a process for its whole life, and they outlive it by minutes:
they go on with what nobody waits for.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

__all__ = ["Terminated", "in_workers", "stop_workers", "terminable", "undisturbed"]

ORPHAN_S = 0.5  # seconds between two looks at whether the driver lives
SAME_S = 1.0  # ``timeout`` signals a process and then its group: twice, for one stop
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Terminated(KeyboardInterrupt):
    """One of ``STOPS`` arrived: Ctrl-C, a batch system or ``timeout``, a terminal that closes.

    Attributes:
      number: Which.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @staticmethod
    def code(stop: KeyboardInterrupt) -> int:
        """Return the exit code of a command that was stopped."""
        return 128 + (stop.number if isinstance(stop, Terminated) else signal.SIGINT)


def terminable() -> AbstractContextManager[None]:
    """Raise ``Terminated`` when one of ``STOPS`` arrives meanwhile."""
    last = -SAME_S

    def stop(number: int, frame: object) -> None:
        nonlocal last
        before, last = last, time.monotonic()
        if last - before >= SAME_S:
            raise Terminated(number)

    return _handled(stop)


def undisturbed() -> AbstractContextManager[None]:
    """Ignore ``STOPS`` meanwhile: an impatient second Ctrl-C would leave workers behind."""
    return _handled(signal.SIG_IGN)


@contextmanager
def _postponed() -> Iterator[None]:
    """Raise ``STOPS`` that arrive meanwhile at the end; processes that start meanwhile are deaf.

    A signal is sent to a whole group: a worker that it ended, or that it interrupted while
    importing, would be a traceback. Blocking is inherited, but holds for one thread: another may
    take the signal, and Python would run its handler here all the same.
    """
    came: list[int] = []
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        with _handled(lambda number, frame: came.append(number)):
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if came:
        signal.raise_signal(came[0])


@contextmanager
def _handled(handler: Callable[[int, Any], None] | signal.Handlers) -> Iterator[None]:
    """Have ``STOPS`` handled; those that are ignored (``nohup``, a job in the background) stay so.

    Only the main thread can do that; elsewhere nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in STOPS}
    before = {n: kept for n, kept in before.items() if kept not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, kept in before.items():
            signal.signal(number, kept)


def in_workers(
    calls: Iterable[Any], count: int, *, threads: int = 1, dispatched: int | str = "2 * n_jobs"
) -> Iterator[Any]:
    """Yield what calls return, as they end, out of processes that end when this one does.

    Args:
      calls: What ``joblib.delayed`` makes.
      count: Processes; 1 works in this one.
      threads: Threads of each.
      dispatched: Calls that are handed out at a time.
    """
    import multiprocessing.resource_tracker

    from joblib import Parallel, parallel_config
    from joblib.externals.loky.backend import resource_tracker as loky_tracker

    with parallel_config(
        backend="loky",
        inner_max_num_threads=threads,
        initializer=follow,
        initargs=(os.getpid(),),
    ):
        parallel = Parallel(
            n_jobs=count,
            return_as="generator_unordered",
            batch_size=1,
            pre_dispatch=dispatched,
        )
        results: Generator[Any, None, None] | None = None
        ended = False
        try:
            with _postponed():  # workers that are half started would outlive a stop
                for tracker in (loky_tracker, multiprocessing.resource_tracker):
                    tracker.ensure_running()  # where one starts, it unblocks some of the signals
                signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
                results = parallel(calls)
            yield from results
            ended = True
        finally:
            if results is not None and not ended:  # what is being worked on is given up
                with undisturbed(), _silent():
                    results.close()
                stop_workers()


def follow(driver: int) -> None:
    """Let this process, a worker, end when the one that started it has, however that ended."""

    def watch() -> None:
        while os.getppid() == driver:
            time.sleep(ORPHAN_S)
        os._exit(1)

    for number in STOPS:  # the driver hears them too, and ends its workers
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    threading.Thread(target=watch, name="driver", daemon=True).start()


def stop_workers() -> None:
    """Kill the workers, whatever they do; returns when they are gone."""
    import multiprocessing

    from joblib.externals.loky import get_reusable_executor
    from joblib.externals.loky.backend.process import LokyProcess

    with undisturbed(), _silent():
        # The one that there is, whatever its settings: another would wait for its work to end.
        there = get_reusable_executor(reuse=True, kill_workers=True)
        there.shutdown(wait=True, kill_workers=True)
        for left in multiprocessing.active_children():  # their manager died (see ``_silent``)
            if isinstance(left, LokyProcess):
                left.kill()
                left.join()


@contextmanager
def _silent() -> Iterator[None]:
    """Hide what joblib says while its work is given up.

    It warns. And the thread that hands out calls may look for one that was taken back
    (``add_call_item_to_queue`` in loky): it dies of a KeyError, and its workers live on.
    """
    before = threading.excepthook

    def hook(failure: threading.ExceptHookArgs) -> None:
        if failure.thread is None or failure.thread.name != "ExecutorManagerThread":
            before(failure)

    threading.excepthook = hook
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        threading.excepthook = before

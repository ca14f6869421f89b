"""Worker processes and the one that drives them: how either ends when the other does.

joblib's loky keeps the workers of a process for its whole life, and they outlive it by minutes:
they go on with what nobody waits for.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Terminated", "stop_workers", "terminable", "undisturbed", "workers"]

ORPHAN_S = 0.5  # seconds between two looks at whether the driver lives


class Terminated(KeyboardInterrupt):
    """SIGTERM, as a batch system sends it: ends a command the way Ctrl-C does."""

    @staticmethod
    def code(stop: KeyboardInterrupt) -> int:
        """Return the exit code of a command that was stopped."""
        return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)


@contextmanager
def terminable() -> Iterator[None]:
    """Raise ``Terminated`` where SIGTERM arrives meanwhile."""

    def stop(number: int, frame: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def workers(threads: int = 1) -> Iterator[None]:
    """Have joblib's calls inside done by processes of so many threads, which end when this does."""
    from joblib import parallel_config

    with parallel_config(
        backend="loky",
        inner_max_num_threads=threads,
        initializer=follow,
        initargs=(os.getpid(),),
    ):
        yield


def follow(driver: int) -> None:
    """Let this process, a worker, end when the one that started it has, however that ended."""

    def watch() -> None:
        while os.getppid() == driver:
            time.sleep(ORPHAN_S)
        os._exit(1)

    threading.Thread(target=watch, name="driver", daemon=True).start()


def stop_workers() -> None:
    """Kill the workers, whatever they do; returns when they are gone."""
    from joblib.externals.loky import get_reusable_executor

    with undisturbed():
        get_reusable_executor().shutdown(wait=True, kill_workers=True)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore an impatient second Ctrl-C, which would leave workers behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)

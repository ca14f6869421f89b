"""Bounds on what a run may take: seconds and memory. Beyond them it fails, and the grid goes on.

A run that takes too long is first interrupted by an exception. Code that does not come back from
a library never sees it; then the process that it holds ends itself, after a word to whoever waits.
Where not even another thread gets its turn any more, a timer outside Python ends the process.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from estbench.config.experiment import ExecutionSettings
from estbench.core.allocator import keep_freed, return_freed
from estbench.core.processes import Stopped

__all__ = ["DeadlineExceeded", "OutOfMemory", "Stopped", "interruptible", "limited", "stop_all"]

GRACE_S = 10.0
"""Seconds between the exception and the end of the process, at least; a tenth of the deadline."""


class DeadlineExceeded(Exception):  # noqa: N818  (their names are what a record shows)
    """The run took longer than it may."""


class OutOfMemory(MemoryError):  # noqa: N818
    """The run needs more memory than it may take."""


@contextmanager
def limited(settings: ExecutionSettings, on_hang: Callable[[Exception], None]) -> Iterator[None]:
    """Hold what is done inside to the bounds of ``settings``.

    Args:
      settings: ``deadline_s`` and ``memory_mb``; 0 is no bound.
      on_hang: Called in another thread with the error, before the process ends itself.

    Raises:
      DeadlineExceeded: It took too long.
      OutOfMemory: It asked for more memory than there is for it.
    """
    with _deadline(settings.deadline_s, on_hang), _memory(settings.memory_mb):
        yield


@contextmanager
def _memory(mib: int) -> Iterator[None]:
    """Bound the private memory of this process: a larger request fails at once, as it should."""
    (return_freed if mib else keep_freed)()  # what is kept counts as used
    previous = _bound_memory(mib) if mib else None
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not mib or not _is_memory(error):
            raise
        reason = " ".join(str(error).split())[:120]
        raise OutOfMemory(f"needs more than memory_mb = {mib} ({reason})") from error
    finally:
        if previous is not None:
            import resource

            resource.setrlimit(resource.RLIMIT_DATA, previous)


def _bound_memory(mib: int) -> tuple[int, int] | None:
    if not sys.platform.startswith("linux"):
        return None  # elsewhere nothing holds a process to such a bound
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    bound = mib * 2**20
    if hard != resource.RLIM_INFINITY:
        bound = min(bound, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (bound, hard))
    return soft, hard


def _is_memory(error: BaseException) -> bool:
    # torch raises a RuntimeError where its allocator on the CPU is refused
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error)


class _Interrupt:
    """Raises an exception in the thread that made it, from another one, until it is disarmed."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._armed = True

    def __call__(self, error: type[BaseException]) -> bool:
        """Return whether the exception was sent."""
        with self._lock:
            if self._armed:
                _send(self._thread, error)
            return self._armed

    def disarm(self) -> None:
        """Send none any more, and take back one that is under way."""
        with self._lock:
            self._armed = False
            _send(self._thread, None)


def _send(thread: int, error: type[BaseException] | None) -> None:
    raised = ctypes.py_object(error) if error is not None else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)


@contextmanager
def _deadline(seconds: float, on_hang: Callable[[Exception], None]) -> Iterator[None]:
    if not seconds:
        yield
        return
    interrupt, over = _Interrupt(), threading.Event()
    error = DeadlineExceeded(f"took longer than deadline_s = {seconds:g}")

    def watch() -> None:
        if over.wait(seconds) or not interrupt(DeadlineExceeded):
            return
        if over.wait(grace):
            return
        try:
            on_hang(error)
        finally:
            os._exit(1)

    grace = max(GRACE_S, seconds / 10)
    threading.Thread(target=watch, name="deadline", daemon=True).start()
    with open(os.devnull, "w") as nowhere:
        faulthandler.dump_traceback_later(seconds + 2 * grace, exit=True, file=nowhere)
        try:
            yield
        except DeadlineExceeded as caught:
            raise error from caught  # what was sent is a bare class: this says how long
        finally:
            over.set()
            interrupt.disarm()
            faulthandler.cancel_dump_traceback_later()


_running: dict[_Interrupt, str] = {}


@contextmanager
def interruptible(driver: str) -> Iterator[None]:
    """Let ``stop_all``, called in another thread with the same driver, end what is done inside."""
    interrupt = _Interrupt()
    _running[interrupt] = driver
    try:
        yield
    finally:
        del _running[interrupt]
        interrupt.disarm()


def stop_all(driver: str) -> int:
    """Raise ``Stopped`` in every thread of this process that works for a driver.

    Returns:
      How many there are. The runs of other drivers on the same cluster go on.
    """
    own = [interrupt for interrupt, whose in list(_running.items()) if whose == driver]
    return sum(interrupt(Stopped) for interrupt in own)

"""Worker processes and the one that drives them: how either ends when the other does.

joblib's loky keeps the workers of a process for its whole life, and they outlive it by minutes:
they go on with what nobody waits for.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, NoReturn, TypeVar

from estbench.core.allocator import keep_freed

__all__ = [
    "Stopped",
    "Terminated",
    "WorkerKilled",
    "described",
    "in_workers",
    "is_stop",
    "leave",
    "message",
    "stop_workers",
    "surviving",
    "terminable",
    "undisturbed",
]

Piece = TypeVar("Piece")

ORPHAN_S = 0.5  # seconds between two looks at whether the driver lives
LINGER_S = 1.0  # seconds that threads of others have to end in, when all is done
SAME_S = 1.0  # ``timeout`` signals a process and then its group: twice, for one stop
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """Nobody wants the work any more; no record is made of it."""


class Terminated(Stopped, KeyboardInterrupt):
    """One of ``STOPS`` arrived: Ctrl-C, a batch system or ``timeout``, a terminal that closes.

    Attributes:
      number: Which.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def code(self) -> int:
        """The exit code of a command that was stopped."""
        return 128 + self.number


class WorkerKilled(Exception):  # noqa: N818  (its name is what a record shows)
    """The worker process of one piece of work died, twice."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"its worker process died, twice: no memory left, or killed ({reason})")


def is_stop(error: BaseException) -> bool:
    """Return whether an exception stops the work from outside, so that nobody may catch it.

    All others are raised by the work itself. So is a KeyboardInterrupt, except where Python's own
    handler of Ctrl-C may have raised it, as in a notebook: ``terminable`` raises ``Terminated``
    instead, and workers ignore the signal.
    """
    if isinstance(error, KeyboardInterrupt) and not isinstance(error, Stopped):
        here = threading.current_thread() is threading.main_thread()
        return here and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return isinstance(error, Stopped)


def described(error: BaseException) -> str:
    """Return an error's kind and message in one line."""
    return " ".join(f"{type(error).__name__}: {message(error)}".split())


def message(error: BaseException) -> str:
    """Return an error's message; making it runs code of whoever wrote the error's class."""
    try:
        return str(error)
    except BaseException as another:
        if is_stop(another):
            raise
        return f"(its message cannot be shown: {type(another).__name__})"


@contextmanager
def terminable() -> Iterator[list[int]]:
    """Raise ``Terminated`` when one of ``STOPS`` arrives meanwhile.

    Yields:
      The signals that have arrived: a library may turn what was raised into another error.
    """
    last = -SAME_S
    heard: list[int] = []

    def stop(number: int, frame: object) -> None:
        nonlocal last
        before, last = last, time.monotonic()
        if last - before >= SAME_S:
            heard.append(number)
            raise Terminated(number)

    with _handled(stop):
        yield heard


def undisturbed() -> AbstractContextManager[None]:
    """Ignore ``STOPS`` meanwhile: an impatient second Ctrl-C would leave workers behind."""
    return _handled(signal.SIG_IGN)


def leave(code: int) -> NoReturn:
    """End this process, also where somebody's thread would keep it alive; stops come too late."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
    until = time.monotonic() + LINGER_S
    threads = [t for t in threading.enumerate() if t is not threading.main_thread()]
    threads = [thread for thread in threads if not thread.daemon]
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    if any(thread.is_alive() for thread in threads):
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


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


def surviving(
    work: Iterable[Piece],
    call: Callable[[Piece], Callable[[], Any]],
    count: int,
    *,
    threads: int = 1,
    label: Callable[[Piece], str],
    left: Callable[[Piece], Any] = lambda piece: None,
    note: Callable[[str], None],
) -> Iterator[tuple[Piece, Any]]:
    """Yield each piece of work and what it returned, as they end, in worker processes.

    When a worker is killed (no memory left, ``kill -9``) the whole pool dies with it, and nobody
    says whose worker it was. So all pieces that were being worked on are suspects. They run again
    after all others: first together, because an accident will not happen twice; then alone. A
    suspect that was the only one when the pool died again has killed its worker at least twice:
    what it returned is then a ``WorkerKilled``.

    Args:
      work: The pieces.
      call: Returns what a worker calls for a piece.
      count: Pieces that are worked on at the same time; never more workers than pieces start.
      threads: Threads of each worker.
      label: What a piece is called in lines for people.
      left: Returns what a piece returned where its worker died before it could say so; else None.
      note: Told of each death in a line.
    """
    from concurrent.futures.process import BrokenProcessPool

    pieces = list(work)
    waiting, suspects = list(range(len(pieces))), list[int]()
    for sweep, width in enumerate((count, count, 1)):
        waiting, suspects = (suspects if sweep else waiting), []
        while waiting:
            sent: list[int] = []
            ended: set[int] = set()
            try:
                calls = ((i, call(pieces[i])) for i in waiting)
                for index, found in _sweep(calls, sent, min(width, len(waiting)), threads):
                    ended.add(index)
                    yield pieces[index], found
                break
            except BrokenProcessPool as error:
                waiting = waiting[len(sent) :]
                caught = []
                for index in (i for i in sent if i not in ended):
                    unheard = left(pieces[index])
                    if unheard is None:
                        caught.append(index)
                    else:
                        yield pieces[index], unheard
                if sweep and len(caught) == 1:
                    yield pieces[caught[0]], WorkerKilled(_exit_codes(error))
                else:
                    suspects += caught
                    names = ", ".join(label(pieces[i]) for i in caught)
                    again = f"what was being worked on is run again: {names}" if names else ""
                    note(f"a worker process died; {again or 'nothing that it did is lost'}")


def _exit_codes(error: Exception) -> str:
    """Return the exit codes out of loky's paragraph on them; all of a text that has none."""
    text = " ".join(str(error).split())
    _, found, rest = text.partition("The exit codes of the workers are {")
    return rest.partition("}")[0] if found else text


def _sweep(
    calls: Iterable[tuple[int, Callable[[], Any]]], sent: list[int], width: int, threads: int
) -> Iterator[tuple[int, Any]]:
    """Yield what numbered calls return; ``sent`` grows by each one that is handed to a worker."""
    from joblib import delayed

    def handed_out() -> Iterator[Any]:
        for index, call in calls:
            sent.append(index)
            yield delayed(_numbered)(index, call)

    yield from in_workers(handed_out(), width, threads=threads)


def _numbered(index: int, call: Callable[[], Any]) -> tuple[int, Any]:
    return index, call()


def in_workers(calls: Iterable[Any], count: int, *, threads: int = 1) -> Iterator[Any]:
    """Yield what calls return, as they end, out of processes that end when this one does.

    Args:
      calls: What ``joblib.delayed`` makes.
      count: Calls that are out at the same time, never one in advance: what is out when a worker
        dies is what was being worked on.
      threads: Threads of each.
    """
    import multiprocessing.resource_tracker
    import warnings

    from joblib import Parallel, parallel_config
    from joblib.externals.loky.backend import resource_tracker as loky_tracker

    # A worker without work ends after five minutes, while another is busy: no fault.
    warnings.filterwarnings("ignore", "A worker stopped while some jobs", UserWarning)
    with parallel_config(
        backend="loky",
        inner_max_num_threads=threads,
        initializer=_begin,
        initargs=(os.getpid(),),
    ):
        # With n_jobs=1 joblib would work in this process, where a call could neither be stopped nor
        # die alone; hence two workers, of which one works.
        parallel = Parallel(
            n_jobs=max(2, count),
            return_as="generator_unordered",
            batch_size=1,
            pre_dispatch=count,
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


def _begin(driver: int) -> None:
    keep_freed()
    follow(driver)


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
    if "joblib" not in sys.modules:  # there are none; a stop may have ended the import halfway
        return
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

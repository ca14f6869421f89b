"""A watcher of a run is told its metrics batch by batch; it cannot change the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

__all__ = ["Watch", "tell", "watched"]


class Watch(Protocol):
    """Called with the batch (from 0), reward evaluations and seconds so far, and its metrics.

    A run that goes on after an interruption tells of the batches before it once more, with the time
    at which they ended, in seconds since the epoch, and None for metrics that were not measured.
    """

    def __call__(
        self,
        batch: int,
        evals: int,
        seconds: float,
        metrics: Mapping[str, float | None],
        at: float | None = None,
    ) -> None: ...


_watch: ContextVar[Watch | None] = ContextVar("watch", default=None)


@contextmanager
def watched(watch: Watch | None) -> Iterator[None]:
    """Tell ``watch`` of every batch of runs trained in this block; None tells nobody."""
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


def tell(
    batch: int,
    evals: int,
    seconds: float,
    metrics: Mapping[str, float | None],
    at: float | None = None,
) -> None:
    """Tell the watcher of a batch that ended now, or at a time in seconds since the epoch."""
    watch = _watch.get()
    if watch is not None and at is None:
        watch(batch, evals, seconds, metrics)
    elif watch is not None:
        watch(batch, evals, seconds, metrics, at=at)

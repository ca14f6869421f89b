"""Who watches a run: what it measures is told batch by batch, and nothing comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["Watch", "tell", "watched"]

Watch = Callable[[int, int, float, Mapping[str, float]], None]
"""Called with the batch (from 0), reward evaluations and seconds so far, and its metrics."""

_watch: ContextVar[Watch | None] = ContextVar("watch", default=None)


@contextmanager
def watched(watch: Watch | None) -> Iterator[None]:
    """Tell ``watch`` of every batch of the runs that are trained meanwhile; None is nobody."""
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


def tell(batch: int, evals: int, seconds: float, metrics: Mapping[str, float]) -> None:
    """Tell whoever watches of a batch that has ended."""
    watch = _watch.get()
    if watch is not None:
        watch(batch, evals, seconds, metrics)

"""The rule for whatever comes from elsewhere, and how many inputs it was held against.

A right answer, or one line that says what is wrong: ``UserError``, or exit code 2. Never another
exception, never a hang, never a file outside the folder, never code that runs.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import HealthCheck, settings

from estbench.core.errors import UserError, printable

FUZZ = int(os.environ.get("ESTBENCH_FUZZ", "1"))
"""Multiplies the number of inputs of each kind; 0 leaves two of each, for the quick tests."""

SLOWEST_S = 60
"""Seconds after which an answer counts as a hang, on a machine that is busy."""

tally: Counter[str] = Counter()
"""Inputs by kind; "KIND refused" are those that were answered by an error."""


def inputs(count: int) -> settings:
    """Return settings for ``count`` inputs: always the same ones, unless more were asked for."""
    return settings(
        max_examples=count * FUZZ or 2,
        deadline=None,
        derandomize=FUZZ <= 1,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def answer(kind: str, call: Callable[[], Any]) -> Any:
    """Return what a call returns, or its UserError; anything else that it raises is a failure."""
    tally[kind] += 1
    try:
        with in_time():
            return call()
    except UserError as error:
        tally[f"{kind} refused"] += 1
        check_line(str(error))
        return error


def check_line(text: str) -> None:
    """Check that an error is a line that can be read and printed."""
    assert text.strip()
    assert len(text) < 3000, f"{len(text)} letters: {text[:300]}"
    assert printable(" ".join(text.split())).encode("utf-8")


@contextmanager
def in_time() -> Iterator[None]:
    """Fail where what is done inside does not end."""

    def late(number: int, frame: object) -> None:
        raise TimeoutError(f"no answer in {SLOWEST_S} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SLOWEST_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)

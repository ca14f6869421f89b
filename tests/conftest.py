"""The tiers of the tests, and one thread a process.

Small tensors gain nothing from more threads, and lose much on a busy machine.

`make test` runs the quick tests: all that are in no tier, and a few sentinels of each tier.
`make test-all` runs everything. A tier is a folder or a file, named here and nowhere else.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from estbench.core.processes import STOPS

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.pop("COLUMNS", None)  # readline sets it where tests run in several processes

TESTS = Path(__file__).parent

TIERS = {
    "proof": "proof",
    "estimators/test_unbiased.py": "proof",
    "faults": "faults",
    "hostile": "fuzz",
    "report/test_page_browser.py": "browser",
}
"""The folders and files, relative to this one, whose tests have a marker."""

MARKED = {*TIERS.values(), "slow"}

KEPT = {"fuzz": 2, "browser": 1}
"""Tests of each file that are quick tests all the same. Elsewhere the marker `sentinel` says so."""

SLOWEST_S = 10.0
"""CPU seconds that a test without a marker may take; twice what one should, for slow machines."""


def tier(path: Path) -> str | None:
    """Return the marker of a file's tests; None if it has none."""
    parts = path.relative_to(TESTS)
    return next((TIERS[str(p)] for p in (parts, *parts.parents) if str(p) in TIERS), None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test with its tier, and those that `make test` runs as quick."""
    seen: Counter[Path] = Counter()
    for item in items:
        if (marker := tier(item.path)) is not None:
            item.add_marker(marker)
        own = {mark.name for mark in item.iter_markers()}
        kept = seen[item.path] < max((KEPT.get(name, 0) for name in own), default=0)
        seen[item.path] += 1
        if not own & MARKED or "sentinel" in own or kept:
            item.add_marker("quick")


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a test without a marker that is too slow for `make test`."""
    before = cpu_seconds()
    result = yield
    taken = cpu_seconds() - before
    if taken > SLOWEST_S and not any(item.get_closest_marker(name) for name in MARKED):
        pytest.fail(f"{taken:.1f} s of CPU time: make it quicker, or mark it @pytest.mark.slow")
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Have signals handled as before the test: a job that runs in this process ignores Ctrl-C."""
    before = {number: signal.getsignal(number) for number in STOPS}
    result = yield
    for number, handler in before.items():
        signal.signal(number, handler)
    return result

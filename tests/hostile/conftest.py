"""A small result set of which one file at a time is replaced, and the count of what was tried."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from report.synthetic import write_result_set

from .rule import tally

Replacing = Callable[[str, bytes], "contextmanager[Path]"]


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One task, three estimators, two seeds, three batches."""
    return write_result_set(
        tmp_path_factory.mktemp("hostile") / "set",
        tasks=("oracle-small",),
        trained=("reinforce", "rloo"),
        also_measured=("reinforce-ema",),
        seeds=2,
        batches=3,
        rounds=2,
        failed={("oracle-small", "rloo", 1): "loss is nan"},
    )


@pytest.fixture(scope="module")
def held(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that the tests of one file may write to."""
    folder = tmp_path_factory.mktemp("held") / "set"
    shutil.copytree(original, folder)
    return folder


@contextmanager
def replaced(path: Path, content: bytes) -> Iterator[Path]:
    """Put other bytes into a file for a while."""
    before = path.read_bytes() if path.exists() else None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
        if before is not None:
            path.write_bytes(before)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many inputs of each kind were tried, and how many of them were refused."""
    for kind in sorted(kind for kind in tally if not kind.endswith(" refused")):
        refused = tally[f"{kind} refused"]
        terminalreporter.write_line(f"hostile {kind}: {tally[kind]:,} tried, {refused:,} refused")

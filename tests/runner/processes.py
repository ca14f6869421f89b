"""The command line on fake jobs, as a process of its own; who is alive in its group; waiting."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

# Whoever is started in the background of a script is deaf to Ctrl-C, and so is all that it starts.
LISTEN = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
CLI = f"""
{LISTEN}
from runner import fakes
fakes.install()
import estbench.report
made = estbench.report.ReportPaths("report.html", (), ())
estbench.report.build = lambda directory, **options: made
from estbench.__main__ import main
main()
"""


def group(leader: int) -> list[int]:
    """The processes of a group that are alive."""
    members = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == leader and fields[0] != "Z":
            members.append(int(status.parent.name))
    return members


def until(condition: Callable[[], object], seconds: float = 30.0) -> bool:
    """Wait for a condition; returns whether it came."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(condition())

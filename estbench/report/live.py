"""Makes the report of a result set that is still being made, in a process of its own.

``python -m estbench.report.live DIR`` reads one line of JSON, what ``estbench.runner.live`` sends,
and prints the seconds of processor time that the report took. When its standard input closes,
whoever wanted the report is gone, and so is it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from estbench.core.processes import leave
from estbench.core.terminal import say, show

__all__ = ["main"]

# Beside a worker that is busy it gets a quarter of a core. How much it takes in all is bounded by
# the driver; at a lower priority it would take the same, and a report minutes to appear.
NICENESS = 5


def main() -> int:
    """Make one report; return the exit code."""
    os.nice(NICENESS)
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=_leave_with_the_driver, daemon=True).start()
    from estbench import report
    from estbench.core import plugins
    from estbench.core.errors import UserError
    from estbench.report.data.unfinished import Progress, progress
    from estbench.store import StorageError

    told = order["progress"]
    trained, measured = (
        (int(told["done"].get(phase, 0)), int(told["total"].get(phase, 0)))
        for phase in ("training", "snapshots")
    )
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    try:
        plugins.ensure(order["plugins"])
        progress.set(Progress(trained, measured, told["failed"], now, order["reload_s"]))
        report.build(Path(sys.argv[1]))
    except (UserError, StorageError) as error:
        say(str(error))
        return 1
    show(str(time.process_time()))
    return 0


def _leave_with_the_driver() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    leave(main())

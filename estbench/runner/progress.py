"""What the user sees while an experiment runs: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Protocol, TextIO

from estbench.core.terminal import console, say
from estbench.meter.notices import duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import ProgressColumn, TaskID

__all__ = ["BarDisplay", "Display", "LineDisplay", "display_for", "duration"]

PHASES = {"training": "training", "snapshots": "measuring", "timing": "timing"}


class Display(Protocol):
    """Where progress is shown. ``left`` is in seconds, None while it is not known."""

    def phase(self, name: str, total: int) -> None:
        """A phase of ``PHASES`` begins, with ``total`` things to do."""
        ...

    def ended(self, label: str, error: str, seconds: float, left: float | None) -> None:
        """One of them ended; ``error`` is "" if well."""
        ...

    def note(self, text: str) -> None:
        """Something to be read, a line."""
        ...

    def close(self) -> None:
        """Nothing more comes."""
        ...


def display_for(stream: TextIO | None = None) -> Display:
    """Return bars where both standard streams are terminals, lines elsewhere."""
    stream = stream or sys.stderr
    if stream.isatty() and sys.stdout.isatty():
        return BarDisplay(console(stream))
    return LineDisplay(stream)


class LineDisplay:
    """A line for every run that ends, flushed, so that a log tells how far things are."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.name, self.total, self.done, self.failed = "", 0, 0, 0

    def phase(self, name: str, total: int) -> None:
        """See ``Display``."""
        self.name, self.total, self.done, self.failed = name, total, 0, 0

    def ended(self, label: str, error: str, seconds: float, left: float | None) -> None:
        """See ``Display``. Measurements are quick and many: a line for every tenth of them."""
        self.done += 1
        self.failed += bool(error)
        tenths = 10 * self.done // self.total > 10 * (self.done - 1) // self.total
        if not (error or self.name != "snapshots" or tenths):
            return
        how = f"FAILED: {error}" if error else f"{seconds:.1f} s"
        failed = f", {self.failed} failed" if self.failed else ""
        rest = f", about {duration(left)} left" if left else ""
        where = f"{PHASES[self.name]} {self.done}/{self.total}"
        self.note(f"[{where}{failed}{rest}] {label}: {how}")

    def note(self, text: str) -> None:
        """See ``Display``."""
        say(text, self.stream)

    def close(self) -> None:
        """See ``Display``."""


class BarDisplay:
    """A bar for each phase, with counts, time and an estimate that runs down by itself."""

    def __init__(self, console: Console) -> None:
        from rich import progress

        self.console = console
        self.deadline: float | None = None
        self.bars: Bars = progress.Progress(
            progress.TextColumn("{task.description:<9}"),
            progress.BarColumn(bar_width=None),
            progress.TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            progress.TextColumn("{task.fields[failed]}", style="red"),
            progress.TimeElapsedColumn(),
            _left_column(self),
            console=console,
            refresh_per_second=4,
            expand=True,
        )
        self.current: TaskID | None = None
        self.failed = 0

    def phase(self, name: str, total: int) -> None:
        """See ``Display``."""
        self.bars.start()
        self.failed = 0
        self.current = self.bars.add_task(PHASES[name], total=total, failed="")

    def ended(self, label: str, error: str, seconds: float, left: float | None) -> None:
        """See ``Display``."""
        if self.current is None:
            return
        self.deadline = None if left is None else time.monotonic() + left
        if error:
            self.failed += 1
            self.note(f"{label} FAILED: {error}")
        failed = f"{self.failed} failed" if self.failed else ""
        self.bars.update(self.current, advance=1, failed=failed, refresh=True)

    def note(self, text: str) -> None:
        """See ``Display``."""
        self.bars.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """See ``Display``."""
        self.current = None  # what is over has no time left
        self.bars.stop()

    def left(self, phase: TaskID) -> str:
        """Return the text of the time left, beside the bar of the phase at work."""
        if phase != self.current:
            return ""
        if self.deadline is None:
            return "estimating"
        rest = self.deadline - time.monotonic()
        return f"about {duration(rest)} left" if rest > 0 else "nearly done"


def _left_column(display: BarDisplay) -> ProgressColumn:
    from rich import progress
    from rich.text import Text

    class LeftColumn(progress.ProgressColumn):
        max_refresh = 1.0

        def render(self, task: progress.Task) -> Text:
            return Text(display.left(task.id), style="cyan")

    return LeftColumn()

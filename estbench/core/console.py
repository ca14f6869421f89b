"""A console of rich's on which only rich itself steers the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from estbench.core.errors import printable

__all__ = ["SafeConsole"]


class SafeConsole(Console):
    """Shows control characters of a text as text, as ``estbench.core.terminal`` does.

    The parts of a table are rendered by ``render`` too, so that columns stay as wide as they are.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(emoji=False, **options)  # ":bomb:" in an error is a text like any other

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield the segments of a renderable."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable(text), style, control)

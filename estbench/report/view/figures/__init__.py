"""The report's figures, one file a figure, in the order of the page.

A figure is a function from `Comparisons` to `Drawn`, or to None where the result set lacks what it
shows. A new one is a file and a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from estbench.report.data.comparisons import Comparisons
from estbench.report.view.figures import (
    bias,
    diversity,
    grid,
    improvement,
    log_variance,
    phases,
    published,
    quality,
    snapshot_variance,
    sources,
    step_gain,
    temperature,
    variance_cost,
    wall_clock,
)
from estbench.report.view.figures.base import Drawn, Sheet, drawing, written
from estbench.report.view.figures.emphasis import focusing

__all__ = ["FIGURES", "Drawn", "draw_all"]

FIGURES: tuple[Callable[[Comparisons], Drawn | None], ...] = (
    snapshot_variance.draw,
    variance_cost.draw,
    step_gain.draw,
    log_variance.draw_log_variance,
    quality.draw,
    quality.draw_seconds,
    improvement.draw,
    diversity.draw,
    temperature.draw,
    wall_clock.draw,
    phases.draw,
    sources.draw,
    bias.draw,
    published.draw,
    log_variance.draw_paper_quantity,
    grid.draw,
)


def draw_all(comparisons: Comparisons, folder: Path) -> Iterator[tuple[Drawn, Sheet]]:
    """Draw and write every figure that the data allows; yield each as it was written."""
    for draw in FIGURES:
        with drawing(), focusing(comparisons):
            drawn = draw(comparisons)
        if drawn is not None:
            yield drawn, written(drawn, folder)

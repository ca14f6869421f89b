"""Figures with a row an estimator and a column a task: forests and stacked bars lie on them.

All columns share their rows, so a figure grows with the number of estimators only. Where there are
more estimators than fit on `MOST_INCHES`, the first and the last rows are shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from estbench.report.data.order import estimator_hue
from estbench.report.view.figures.base import MOST_INCHES, belongs, label, name_room, panel_title
from estbench.report.view.style import MUTED, look

__all__ = ["ROW_INCHES", "Rows", "cut_rows", "cut_text", "name_rows", "rows_figure"]

ROW_INCHES = 0.175
FAMILY_GAP = 0.45  # rows between two families
COLUMNS = 4  # tasks side by side; more go below
WIDTH = 7.4
HEAD, FOOT, BETWEEN = 0.36, 0.42, 0.75


@dataclass(frozen=True)
class Rows:
    """A figure whose panels share their rows.

    Attributes:
      figure: The figure.
      panels: Task -> its axes, whose vertical axis is that of `places`.
      places: Estimator -> its height, from 0 downwards.
    """

    figure: Figure
    panels: dict[str, Axes]
    places: dict[str, float]


def cut_rows(names: Sequence[str], blocks: int = 1, taken: float = 0.0) -> list[str]:
    """Return the estimators that a figure has room for: the first and the last of `names`.

    Args:
      names: The most important first and last.
      blocks: How many times the rows are drawn, one below the other.
      taken: Inches that the figure needs besides.
    """
    most = int((MOST_INCHES - taken - HEAD - FOOT - BETWEEN * blocks) / (blocks * ROW_INCHES * 1.1))
    if len(names) <= most:
        return list(names)
    last = most // 3
    return [*names[: most - last], *names[-last:]]


def cut_text(shown: int, whole: int) -> str:
    """Return what a caption says of rows that were left out, or nothing."""
    if shown == whole:
        return ""
    return f" {whole - shown} of {whole} estimators are left out; the table has them all."


def rows_figure(tasks: Sequence[str], names: Sequence[str], *, top: float = 0.0) -> Rows:
    """Return an empty figure with a row for each of `names`, parted by family.

    Args:
      top: Inches above the panels, for a legend.
    """
    places: dict[str, float] = {}
    at, before = 0.0, None
    for name in names:
        family = estimator_hue(name)
        if places:
            at += 1.0 + FAMILY_GAP * (family != before)
        places[name], before = at, family
    tall = ROW_INCHES * (at + 1.0) + 0.08
    blocks = [list(tasks[i : i + COLUMNS]) for i in range(0, len(tasks), COLUMNS)]
    left, gap = name_room(names), 0.16
    height = top + HEAD + FOOT + len(blocks) * tall + (len(blocks) - 1) * BETWEEN
    figure = Figure(figsize=(WIDTH, height))
    FigureCanvasAgg(figure)
    wide = (WIDTH - left - 0.12 - gap * (len(blocks[0]) - 1)) / len(blocks[0])
    panels = {}
    for row, block in enumerate(blocks):
        edge = height - top - HEAD - row * (tall + BETWEEN) - tall
        for column, task in enumerate(block):
            start = left + column * (wide + gap)
            box = (start / WIDTH, edge / height, wide / WIDTH, tall / height)
            axes = panels[task] = figure.add_axes(box)
            panel_title(axes, task)
            axes.title.set_fontsize(9.0 if len(blocks[0]) < 4 else 8.0)
            axes.set_ylim(at + 0.5 + 0.04 / ROW_INCHES, -0.5 - 0.04 / ROW_INCHES)
            name_rows(axes, places if column == 0 else {})
    return Rows(figure, panels, places)


def name_rows(axes: Axes, places: dict[str, float], bold: Iterable[str] = ()) -> None:
    """Write the estimators' names at the left of their rows."""
    heads = set(bold)
    axes.set_yticks(list(places.values()), [label(name) for name in places])
    for tick, name in zip(axes.get_yticklabels(), places, strict=True):
        tick.set_color(look(name).colour)
        tick.set_fontweight("bold" if name in heads else "normal")
        belongs(tick, name)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="y")
    axes.xaxis.label.set_color(MUTED)

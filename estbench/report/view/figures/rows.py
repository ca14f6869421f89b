"""Figures with a row an estimator and a column a task: forests and stacked bars lie on them.

All columns share their rows, so a figure grows with the number of estimators only. Where there are
more estimators than fit on `MOST_INCHES`, the first and the last rows are shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from estbench.report.data.order import estimator_hue
from estbench.report.view.figures.base import (
    MOST_INCHES,
    belongs,
    framed,
    label,
    name_room,
    panel_title,
)
from estbench.report.view.style import MUTED, look

__all__ = ["ROW_INCHES", "Rows", "grouped", "left_out", "name_rows", "rows_figure"]

ROW_INCHES = 0.175
FAMILY_GAP = 0.45  # rows between two families
COLUMNS = 5  # tasks side by side; more go below
WIDTH = 7.4
HEAD, FOOT, BETWEEN = 0.36, 0.42, 0.75
BOLD_EM = 0.72  # width of a bold letter, as a part of its size


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


def rows_figure(tasks: Sequence[str], names: Sequence[str], *, top: float = 0.0) -> Rows:
    """Return an empty figure with a row for each of `names`, grouped by family.

    Args:
      names: The most important first and last: only these are shown where there is no room for all.
      top: Inches above the panels, for a legend.
    """
    blocks = [list(tasks[i : i + COLUMNS]) for i in range(0, len(tasks), COLUMNS)]
    free = MOST_INCHES - top - HEAD - FOOT - BETWEEN * len(blocks)
    most = int(free / (len(blocks) * ROW_INCHES * 1.1))
    if len(names) > most:
        names = [*names[: most - most // 3], *names[-(most // 3) :]]
    families = [estimator_hue(name) for name in names]
    starts = [a != b for a, b in zip(families, ["", *families], strict=False)]
    places = grouped(names, starts, FAMILY_GAP)
    last = max(places.values(), default=0.0)
    tall = ROW_INCHES * (last + 1.0) + 0.08
    left, gap = name_room(names), 0.16
    height = top + HEAD + FOOT + len(blocks) * tall + (len(blocks) - 1) * BETWEEN
    wide = (WIDTH - left - 0.12 - gap * (len(blocks[0]) - 1)) / len(blocks[0])
    spots = {
        task: (left + column * (wide + gap), height - top - HEAD - row * (tall + BETWEEN) - tall)
        for row, block in enumerate(blocks)
        for column, task in enumerate(block)
    }
    longest = max(len(task) for task in tasks)
    figure, every = framed(WIDTH, height, [(*spot, wide, tall) for spot in spots.values()])
    for axes, (task, (start, _)) in zip(every, spots.items(), strict=True):
        panel_title(axes, task).set_fontsize(min(9.0, 72.0 * (wide + gap) / (BOLD_EM * longest)))
        axes.set_ylim(last + 0.5 + 0.04 / ROW_INCHES, -0.5 - 0.04 / ROW_INCHES)
        name_rows(axes, places if start == left else {})
    return Rows(figure, dict(zip(spots, every, strict=True)), places)


def grouped(names: Sequence[str], starts: Sequence[bool], gap: float) -> dict[str, float]:
    """Return the height of every row, from 0 downwards, with a gap before each start of a group."""
    places: dict[str, float] = {}
    at = 0.0
    for name, is_start in zip(names, starts, strict=True):
        at += gap * (is_start and bool(places))
        places[name] = at
        at += 1.0
    return places


def left_out(figure: Figure, names: Iterable[str]) -> int:
    """Return how many of `names` have no row in a figure of `rows_figure`."""
    return len(set(names)) - len(figure.axes[0].get_yticks())


def name_rows(axes: Axes, places: Mapping[str, float], bold: Iterable[str] = ()) -> None:
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

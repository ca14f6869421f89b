"""Stacked bars: a row an estimator, a column a task, and the parts of a whole side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from estbench.report.data.formatting import quantity
from estbench.report.view.figures.base import belonging
from estbench.report.view.figures.rows import rows_figure
from estbench.report.view.style import INK, MUTED

__all__ = ["Bars", "draw_bars", "shades"]

# Dark and light in turn, so that neighbours part in grey too; none is an estimator's colour.
COLOURS = ("#3f6fa3", "#a9cbe4", "#4b8a5f", "#e3c46b", "#a4624f", "#c9c4dd", "#72727c", "#d8c3a5")
LEGEND_COLUMNS = 5


@dataclass(frozen=True)
class Bars:
    """What stacked bars show.

    Attributes:
      values: Task -> a frame with an estimator a row and a part a column, not below zero.
      parts: The parts, from left to right.
      colours: Part -> its colour.
      xlabel: Of the axes.
      totals: Whether each bar's sum is written beside it.
      legend: What stands in the legend; every part if empty.
    """

    values: Mapping[str, pd.DataFrame]
    parts: Sequence[str]
    colours: Mapping[str, str]
    xlabel: str
    totals: bool = False
    legend: Sequence[str] = ()


def shades(parts: Sequence[str], ordered: bool = False) -> dict[str, str]:
    """Return a colour for each part: in turn, or from pale to dark if the parts are ordered."""
    if not ordered:
        return {part: COLOURS[place % len(COLOURS)] for place, part in enumerate(parts)}
    pale, dark = np.array([0.86, 0.91, 0.96]), np.array([0.06, 0.19, 0.36])
    steps = np.linspace(0.0, 1.0, max(len(parts), 2))
    return {p: to_hex(pale + (dark - pale) * s) for p, s in zip(parts, steps, strict=False)}


def draw_bars(bars: Bars, order: Sequence[str]) -> Figure:
    """Draw the bars of every task; all share the rows, in the order of `order`."""
    shown = list(bars.legend or bars.parts)
    lines = -(-len(shown) // LEGEND_COLUMNS)
    frame = rows_figure(list(bars.values), order, top=0.12 + 0.17 * lines)
    for task, table in bars.values.items():
        axes = frame.panels[task]
        for name in (n for n in frame.places if n in table.index):
            left, at = 0.0, frame.places[name]
            with belonging(axes, name):
                widths = table.reindex(columns=list(bars.parts)).loc[name].fillna(0.0)
                for part, width in zip(bars.parts, map(float, widths), strict=True):
                    colour = bars.colours[part]
                    axes.barh(at, width, left=left, height=0.74, color=colour, linewidth=0.0)
                    left += width
                if bars.totals:
                    place = ((left, at), (3, 0), "data", "offset points")
                    axes.annotate(quantity(left), *place, va="center", size=7, color=INK)
        axes.set_xlim(0.0, None if not bars.totals else 1.16 * axes.get_xlim()[1])
        axes.xaxis.set_major_locator(MaxNLocator(nbins=3))
        axes.set_xlabel(bars.xlabel, fontsize=8, color=MUTED)
    # A legend is filled column by column, and read row by row.
    entries = [
        shown[i]
        for column in range(LEGEND_COLUMNS)
        for i in range(column, len(shown), LEGEND_COLUMNS)
    ]
    frame.figure.legend(
        [Rectangle((0, 0), 1, 1, color=bars.colours[part], linewidth=0) for part in entries],
        entries,
        loc="upper left",
        bbox_to_anchor=(0.01, 1.0),
        ncols=LEGEND_COLUMNS,
        fontsize=7.5,
        handlelength=1.0,
        handleheight=0.8,
        columnspacing=1.2,
        handletextpad=0.5,
        borderaxespad=0.2,
    )
    return frame.figure

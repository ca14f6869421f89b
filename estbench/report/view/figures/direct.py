"""Stacked panels of lines, each line's name at its end, spread apart where ends are close."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from estbench.report.view.figures.base import belonging, label, label_room, stacked
from estbench.report.view.figures.emphasis import MANY, in_focus, shown
from estbench.report.view.style import MUTED

__all__ = ["label_ends", "label_tall", "line_figure", "spread"]

FONT_SIZE = 8.0
LINE_POINTS = 10.5


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return positions at least `gap` apart, in order, as near to those wanted as can be.

    Least squares: neighbours that are too close form a block around their mean (pool adjacent
    violators on the positions less their rank times the gap), then the whole is kept in
    [low, high] as far as it fits.
    """
    order = np.argsort(wanted, kind="stable")
    shifted = [float(wanted[i]) - rank * gap for rank, i in enumerate(order)]
    blocks: list[tuple[float, int]] = []
    for value in shifted:
        blocks.append((value, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (right, m), (left, n) = blocks.pop(), blocks.pop()
            blocks.append(((left * n + right * m) / (n + m), n + m))
    flat = [mean for mean, count in blocks for _ in range(count)]
    # The slack of the last label bounds all shifted positions from above, that of the first from
    # below; if there is no room for all, they run over at the top.
    ceiling = max(high - (len(flat) - 1) * gap, low)
    result = [0.0] * len(flat)
    for rank, i in enumerate(order):
        result[i] = min(max(flat[rank], low), ceiling) + rank * gap
    return result


def label_tall(labels: int, least: float) -> float:
    """Return the height in inches, at least `least`, of a panel in which the labels find room."""
    return max(least, (min(labels, MANY) + 1) * LINE_POINTS / 72.0)


def line_figure(
    panels: Mapping[str, pd.DataFrame],
    least: float,
    below: Mapping[str, int] | None = None,
) -> tuple[Figure, dict[str, list[Axes]]]:
    """Return a figure with room for labels at the ends of lines, and the panels of each task.

    Args:
      panels: Task -> what is drawn, with a column estimator.
      least: Inches of a panel's height.
      below: Task -> flatter panels beneath its first one, which have its horizontal axis.
    """
    heights, gaps = [], []
    for task, rows in panels.items():
        more, lines = (below or {}).get(task, 0), rows["estimator"].nunique()
        heights += [label_tall(lines, least)] + more * [label_tall(lines, 1.25)]
        gaps += more * [0.42] + [0.74]
    names = {name for rows in panels.values() for name in rows["estimator"]}
    figure, axes = stacked(len(heights), height=heights, gap=gaps[:-1], right=label_room(names))
    free = iter(axes)
    of = {t: [next(free) for _ in range(1 + (below or {}).get(t, 0))] for t in panels}
    for group in of.values():
        for ax in group[:-1]:
            ax.tick_params(labelbottom=False)
    return figure, of


def label_ends(axes: Axes, ends: Mapping[str, float]) -> None:
    """Write the names beside the right edge of `axes`, each with a sample of its line.

    Lines that recede to grey share one label, which counts them. Call it when the limits of the
    axes are final.

    Args:
      ends: Estimator -> the last value of its line.
    """
    if not ends:
        return
    figure = axes.get_figure(root=True)
    assert figure is not None
    pixel = figure.dpi / 72.0
    box = axes.get_window_extent()
    gap = LINE_POINTS * pixel
    named = [name for name in ends if in_focus(name, ends)]
    exact = [float(axes.transData.transform((0.0, ends[name]))[1]) for name in named]
    exact = [min(max(y, box.y0), box.y1) for y in exact]
    others = len(ends) - len(named)
    placed = spread(exact, gap, box.y0 + (1.3 if others else 0.3) * gap, box.y1 - 0.1 * gap)
    beside: dict[str, Any] = {"transform": figure.transFigure, "clip_on": False}

    def at(*points: tuple[float, float]) -> tuple[list[float], list[float]]:
        xs, ys = figure.transFigure.inverted().transform(points).T
        return list(xs), list(ys)

    def write(x: float, y: float, text: str, colour: str) -> None:
        (x,), (y,) = at((x, y))
        axes.text(x, y, text, color=colour, fontsize=FONT_SIZE, va="center_baseline", **beside)

    start, bend, stop = (box.x1 + offset * pixel for offset in (1.5, 8.0, 24.0))
    left = bend + 1.5 * pixel
    for name, y, target in zip(named, exact, placed, strict=True):
        style = shown(name, ends)
        with belonging(axes, name):
            if abs(target - y) > 1.5 * pixel:
                axes.plot(*at((start, y), (bend, target)), color=MUTED, linewidth=0.5, **beside)
            sample = at(*((x, target) for x in (left, (left + stop) / 2.0, stop)))
            drawn: dict[str, Any] = {"linewidth": 1.5, "markersize": 4.2, "markevery": [1]}
            axes.plot(*sample, marker=style.marker, **style.line, **drawn, **beside)
            write(stop + 4.0 * pixel, target, label(name), style.colour)
    if others:
        write(left, box.y0 + 0.3 * gap, f"grey: {others} others", MUTED)

"""Direct labels: each line's name at its end, spread apart where lines end close together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from estbench.report.view.figures.base import belonging, label
from estbench.report.view.figures.emphasis import MANY, in_focus, shown
from estbench.report.view.style import MUTED

__all__ = ["End", "label_ends", "label_tall", "spread"]

FONT_SIZE = 8.0
LINE_POINTS = 10.5


@dataclass(frozen=True)
class End:
    """Where a line ends.

    Attributes:
      estimator: Its name, which fixes its look.
      y: The last value, in data coordinates.
    """

    estimator: str
    y: float


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


def label_ends(axes: Axes, ends: Sequence[End]) -> None:
    """Write the names beside the right edge of `axes`, each with a sample of its line.

    Lines that recede to grey share one label, which counts them. Call it when the limits of the
    axes are final.
    """
    if not ends:
        return
    figure = axes.get_figure(root=True)
    assert figure is not None
    pixel = figure.dpi / 72.0
    box = axes.get_window_extent()
    gap = LINE_POINTS * pixel
    names = [end.estimator for end in ends]
    named = [end for end in ends if in_focus(end.estimator, names)]
    exact = [float(axes.transData.transform((0.0, end.y))[1]) for end in named]
    exact = [min(max(y, box.y0), box.y1) for y in exact]
    others = len(ends) - len(named)
    placed = spread(exact, gap, box.y0 + (1.3 if others else 0.3) * gap, box.y1 - 0.1 * gap)
    to_fraction = figure.transFigure.inverted()

    def at(x: float, y: float) -> tuple[float, float]:
        point = to_fraction.transform((x, y))
        return float(point[0]), float(point[1])

    def write(x: float, y: float, text: str, colour: str) -> None:
        axes.text(
            *at(x, y), text, transform=figure.transFigure, color=colour, fontsize=FONT_SIZE,
            va="center_baseline", clip_on=False,
        )  # fmt: skip

    start, bend, stop = (box.x1 + offset * pixel for offset in (1.5, 8.0, 24.0))
    for end, y, target in zip(named, exact, placed, strict=True):
        style = shown(end.estimator, names)
        with belonging(axes, end.estimator):
            if abs(target - y) > 1.5 * pixel:
                points = [at(start, y), at(bend, target)]
                axes.plot(
                    *columns(points), transform=figure.transFigure, clip_on=False, color=MUTED,
                    linewidth=0.5,
                )  # fmt: skip
            left = bend + 1.5 * pixel
            sample = [at(x, target) for x in (left, (left + stop) / 2.0, stop)]
            axes.plot(
                *columns(sample), transform=figure.transFigure, clip_on=False, color=style.colour,
                linestyle=style.dash, linewidth=1.5, marker=style.marker, markersize=4.2,
                markevery=[1],
            )  # fmt: skip
            write(stop + 4.0 * pixel, target, label(end.estimator), style.colour)
    if others:
        write(bend + 1.5 * pixel, box.y0 + 0.3 * gap, f"grey: {others} others", MUTED)


def columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Return the x and the y of points."""
    return [x for x, _ in points], [y for _, y in points]

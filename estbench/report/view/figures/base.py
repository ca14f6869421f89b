"""What a figure is, and what all figures share: sizes, labels, marks, and words of captions.

Figures are drawn on `matplotlib.figure.Figure` itself, without pyplot's global state. Sizes are in
inches and made for one column of a page: panels are stacked, so a figure stays legible at 3.4
inches in print and on a phone, and in grey (marker and dash repeat what colour says).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from estbench.report.data.formatting import clean
from estbench.report.data.labels import estimator_facts
from estbench.report.data.order import estimator_order
from estbench.report.data.statistics import Estimate
from estbench.report.view.style import MUTED, RC, Look

__all__ = [
    "MOST_INCHES",
    "OWNER",
    "Band",
    "Drawn",
    "bands",
    "belonging",
    "belongs",
    "cross",
    "drawing",
    "entries",
    "estimate_in",
    "framed",
    "label",
    "label_room",
    "name_room",
    "order_rows",
    "panel_title",
    "side_by_side",
    "stacked",
]

MOST_INCHES = 19.0  # of a figure's height, which the page shows at 100 pixels an inch
TALL = 8.0  # inches; what is taller does not fit on a page beside its caption
OWNER = "estimator:"
"""What the SVG id of an artist begins with that belongs to one estimator, whose name follows."""


@dataclass(frozen=True)
class Band:
    """A part of a figure from edge to edge.

    Attributes:
      top: In points from the figure's top; `bottom` likewise.
      panels: Places of its axes in the figure's.
    """

    top: float
    bottom: float
    panels: tuple[int, ...]


@dataclass(frozen=True)
class Drawn:
    """A figure, with all that goes beside it.

    Attributes:
      name: File name without its ending.
      title: A line: what is shown.
      caption: What the marks are, n, the interval's method, what is up and what is better.
      alt: What the figure says, from its numbers, for those who do not see it.
      data: The numbers that are drawn; written as NAME.csv.
      figure: The drawing.
      table: The part of `data` (or another form of it) to print beneath the figure.
    """

    name: str
    title: str
    caption: str
    alt: str
    data: pd.DataFrame
    figure: Figure
    table: pd.DataFrame | None = None


def framed(
    width: float, height: float, boxes: Iterable[tuple[float, float, float, float]]
) -> tuple[Figure, list[Axes]]:
    """Return a figure with axes in `boxes` (left, bottom, width, height); lengths in inches."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    sizes = (width, height, width, height)
    shares = [tuple(part / size for part, size in zip(box, sizes, strict=True)) for box in boxes]
    return figure, [figure.add_axes(share) for share in shares]  # type: ignore[arg-type]


def stacked(
    rows: int,
    *,
    width: float = 5.2,
    height: float | Sequence[float] = 1.95,
    left: float = 0.52,
    right: float = 1.42,
    top: float = 0.32,
    bottom: float = 0.5,
    gap: float | Sequence[float] = 0.72,
) -> tuple[Figure, list[Axes]]:
    """Return a figure with `rows` panels in one column; all lengths in inches.

    Args:
      height: Of each panel, or one a panel.
      left: Room for the vertical axis; `right` for labels at the ends of lines.
      gap: Between panels, or one a gap; titles and horizontal axes are in it.
    """
    heights = [height] * rows if isinstance(height, (int, float)) else list(height)
    gaps = [gap] * (rows - 1) if isinstance(gap, (int, float)) else list(gap)
    free = MOST_INCHES - top - sum(gaps) - bottom
    if sum(heights) > free > 0.0:  # many panels are flatter
        heights = [tall * free / sum(heights) for tall in heights]
    total = top + sum(heights) + sum(gaps) + bottom
    boxes, edge = [], total - top
    for tall, below in zip(heights, [*gaps, 0.0], strict=True):
        boxes.append((left, edge - tall, width - left - right, tall))
        edge -= tall + below
    return framed(width, total, boxes)


def side_by_side(
    rows: int,
    rooms: Sequence[float],
    *,
    panel: tuple[float, float],
    top: float = 0.5,
    gap: float = 0.86,
) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure with a grid of panels, as a list of rows; all lengths in inches.

    Args:
      rooms: The room at the right of each column, for labels; one a column.
      panel: Width and height of a panel.
    """
    left, bottom = 0.7, 0.46
    wide, tall = panel
    tall = min(tall, max(0.5, (MOST_INCHES - top - bottom - gap * (rows - 1)) / rows))
    height = top + tall * rows + gap * (rows - 1) + bottom
    edges = [height - top - tall - row * (tall + gap) for row in range(rows)]
    starts = [left + wide * i + sum(rooms[:i]) for i in range(len(rooms))]
    boxes = [(x, y, wide, tall) for y in edges for x in starts]
    figure, axes = framed(left + wide * len(rooms) + sum(rooms), height, boxes)
    return figure, [axes[i : i + len(rooms)] for i in range(0, len(axes), len(rooms))]


def belongs(artist: Artist | Iterable[Artist | None], estimator: str) -> None:
    """Mark what is drawn as one estimator's, so that a reader of the page may hide it.

    Its SVG group gets the id ``estimator:NAME:n``, and in the page ``data-estimator``.

    Args:
      artist: One artist, or any nesting of them, such as what `Axes.errorbar` returns.
    """
    if isinstance(artist, Artist):
        artist.set_gid(f"{OWNER}{estimator}")
    else:
        for part in artist:
            if part is not None:
                belongs(part, estimator)


@contextmanager
def belonging(axes: Axes, estimator: str) -> Iterator[None]:
    """Mark all that is added to `axes` meanwhile as one estimator's; see `belongs`."""
    before = {id(child) for child in axes.get_children()}
    yield
    belongs([child for child in axes.get_children() if id(child) not in before], estimator)


def cross(axes: Axes, point: Mapping[str, Any], look: Look, thick: float, size: float) -> None:
    """Mark a mean in two dimensions, with its intervals across and up.

    Args:
      point: With x, y and the ends x_low, x_high, y_low and y_high.
      thick: Of the intervals' lines; `size` is that of the marker.
    """
    x, y = point["x"], point["y"]
    for xs, ys in (
        ((point["x_low"], point["x_high"]), (y, y)),
        ((x, x), (point["y_low"], point["y_high"])),
    ):
        axes.plot(xs, ys, color=look.colour, linewidth=thick)
    axes.plot([x], [y], markersize=size, **look.mark)


def bands(figure: Figure) -> list[Band]:
    """Return where a tall figure may be cut, so that it can be printed over pages.

    Returns:
      From top to bottom, bands that hold whole panels with all that is written about them; one
      band, the whole figure, if it is not tall or nothing parts its panels.
    """
    height = 72.0 * figure.get_figheight()
    whole = [Band(0.0, height, tuple(range(len(figure.axes))))]
    if figure.get_figheight() <= TALL:
        return whole
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]

    def span(artist: Artist) -> tuple[float, float]:
        box = artist.get_tightbbox(renderer)
        assert box is not None
        return height - 72.0 * box.y1 / figure.dpi, height - 72.0 * box.y0 / figure.dpi

    rows: list[tuple[float, float, list[int]]] = []
    spans = [span(axes) for axes in figure.axes]  # each lays out all that is written in a panel
    for index in sorted(range(len(spans)), key=spans.__getitem__):
        top, bottom = spans[index]
        if rows and top < rows[-1][1]:
            start, end, members = rows.pop()
            rows.append((start, max(end, bottom), [*members, index]))
        else:
            rows.append((top, bottom, [index]))
    cuts = [(above[1] + below[0]) / 2.0 for above, below in pairwise(rows)]
    edges = [0.0, *cuts, height]
    # What belongs to the whole figure must lie in the first band.
    if any(span(artist)[1] > edges[1] for artist in (*figure.legends, *figure.texts)):
        return whole
    parts = zip(pairwise(edges), rows, strict=True)
    return [Band(top, bottom, tuple(members)) for (top, bottom), (_, _, members) in parts]


def panel_title(axes: Axes, title: str, quantity: str = "") -> Text:
    """Head a panel with what it is about (bold) and what is up (a level vertical label)."""
    head = axes.set_title(clean(title, 40))
    if quantity:
        place = ((1.0, 0.0), (8.0, 2.0), head, "offset points")
        axes.annotate(quantity, *place, color=MUTED, size=8.0)
    return head


def label_room(names: Iterable[str]) -> float:
    """Return the inches that the longest label at a line's end needs."""
    return 0.5 + 0.069 * max((len(label(name)) for name in names), default=0)


def name_room(names: Iterable[str]) -> float:
    """Return the inches that names at the left of rows need."""
    return max(1.36, 0.2 + 0.068 * max((len(label(name)) for name in names), default=0))


def label(estimator: str) -> str:
    """Return an estimator's name as figures write it, with its mark if it is not ranked."""
    return clean(estimator, 26) + estimator_facts(estimator).mark


def entries(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a frame's rows as plain dicts."""
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def estimate_in(row: Mapping[str, Any]) -> Estimate:
    """Return the estimate in a row of a frame with columns estimate, low, high and perhaps n."""
    return Estimate(row["estimate"], row["low"], row["high"], row.get("n", 0))


def drawing(settings: Mapping[str, Any] | None = None) -> AbstractContextManager[None]:
    """Return the context in which figures are drawn and written: the report's style."""
    chosen: dict[Any, Any] = {**RC, **(settings or {})}
    return matplotlib.rc_context(chosen)


def order_rows(names: Iterable[str]) -> list[str]:
    """Return estimators in the order of the palette, each once."""
    return sorted(set(names), key=estimator_order)

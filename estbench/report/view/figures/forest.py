"""Forests: a row an estimator, marks with their intervals, on one axis for all panels.

Every figure of estimates with intervals is one of these: noise, bias, time, proofs.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from estbench.report.data.formatting import bound_end
from estbench.report.data.statistics import Estimate
from estbench.report.view.figures.base import belonging, belongs, name_room, panel_title, stacked
from estbench.report.view.figures.rows import ROW_INCHES, grouped, name_rows, rows_figure
from estbench.report.view.figures.scales import log_view, plain_log_ticks
from estbench.report.view.style import INK, MUTED, PAPER, REFERENCE_LINE, look

__all__ = ["Forest", "Mark", "Row", "draw_columns", "draw_stacked"]

TEXT_SIZE = 7.5
BAR_INCHES = 0.42
GROUP_GAP = 0.4  # rows


@dataclass(frozen=True)
class Mark:
    """An estimate on a row.

    Attributes:
      estimate: What is marked; nothing is drawn where it is unknown.
      bound: Of a `Ratio`: a bound is a hollow marker at that end with an arrow, "none" is nothing.
      reach: A thin whisker, such as the range without any one snapshot; nan where there is none.
      marker: In place of the estimator's own.
      colour: In place of the estimator's own.
      filled: Whether the marker is filled.
      size: Of the marker.
      offset: Rows below the middle of the row.
    """

    estimate: Estimate
    bound: str = ""
    reach: tuple[float, float] = (math.nan, math.nan)
    marker: str = ""
    colour: str = ""
    filled: bool = True
    size: float = 5.0
    offset: float = 0.0

    @property
    def shown(self) -> Estimate:
        """What is drawn: of a bound only its end."""
        if not self.bound:
            return self.estimate
        end = math.nan if self.bound == "none" else bound_end(self.estimate, self.bound)
        return Estimate(end, n=self.estimate.n)


@dataclass(frozen=True)
class Row:
    """A row of a panel.

    Attributes:
      estimator: Whose; fixes colour and marker.
      marks: What is drawn on it.
      text: What is written beside it.
      head: Whether it heads a group, such as the partner of the rows that follow.
      share: From 0 to 1, drawn as a thin bar; nan where it is unknown.
    """

    estimator: str
    marks: tuple[Mark, ...]
    text: str = ""
    head: bool = False
    share: float = math.nan


@dataclass(frozen=True)
class Forest:
    """What a forest shows.

    Attributes:
      panels: Task -> its rows.
      xlabel: Of the shared logarithmic axis.
      reference: Where a line of "no difference" is drawn.
      ratio: Whether its ticks are ratios ("2×").
      stretch: Estimators that may lie off the scale: an arrow at the edge stands for them where
        showing them would flatten the others.
      heads: Of the text beside the rows, and of the bars.
      tall: Inches of a row, where panels are stacked.
    """

    panels: Mapping[str, Sequence[Row]]
    xlabel: str
    reference: float | None = None
    ratio: bool = True
    stretch: Collection[str] = ()
    heads: tuple[str, str] = ("", "")
    tall: float = ROW_INCHES


def draw_columns(forest: Forest, order: Sequence[str]) -> Figure:
    """Draw a column a task; all share the rows, in the order of `order`."""
    frame = rows_figure(list(forest.panels), order)
    several = len(frame.panels) > 1
    limits = _limits([row for rows in forest.panels.values() for row in rows], forest)
    for task, rows in forest.panels.items():
        own = [row for row in rows if row.estimator in frame.places]
        most = 4 if len(frame.panels) < 3 else 3
        _panel(frame.panels[task], own, frame.places, forest, limits, most)
        if several:
            frame.panels[task].set_xlabel("")
    if several:
        at = (0.5, 0.03 / frame.figure.get_figheight())
        style: dict[str, Any] = {"size": 8, "color": MUTED, "ha": "center", "va": "bottom"}
        frame.figure.text(*at, forest.xlabel, **style)
    return frame.figure


def draw_stacked(forest: Forest, *, width: float, bottom: float = 0.46) -> Figure:
    """Draw a panel a task, one below the other, with text and bars beside the rows.

    Args:
      width: In inches; the figure is wider where a name is long.
      bottom: Inches below the last panel.
    """
    every = [row for rows in forest.panels.values() for row in rows]
    column = 0.24 + 0.058 * max((len(row.text) for row in every), default=0)
    left = name_room([row.estimator for row in every])
    spots = {
        task: grouped([row.estimator for row in rows], [row.head for row in rows], GROUP_GAP)
        for task, rows in forest.panels.items()
    }
    last = [max(places.values(), default=0.0) for places in spots.values()]
    figure, axes = stacked(
        len(forest.panels),
        width=width + left - name_room(()),
        height=[forest.tall * (at + 1.0) + 0.08 for at in last],
        left=left,
        right=column + BAR_INCHES + 0.4,
        top=0.4,
        bottom=bottom,
        gap=0.36,
    )
    limits = _limits(every, forest)
    for ax, end, (task, rows) in zip(axes, last, forest.panels.items(), strict=True):
        ax.set_ylim(end + 0.6, -0.6)
        name_rows(ax, spots[task], (row.estimator for row in rows if row.head))
        _panel(ax, rows, spots[task], forest, limits, most=6)
        if ax is not axes[-1]:
            ax.set_xlabel("")
            ax.tick_params(labelbottom=False)
        panel_title(ax, task)
        for row in rows:
            _beside(ax, spots[task][row.estimator], row, column)
    for head, right in zip(forest.heads, (0.0, 72.0 * column), strict=True):
        place = ((1.0, 1.0), (8.0 + right, 5.0), "axes fraction", "offset points")
        axes[0].annotate(head, *place, size=7, color=MUTED, va="bottom")
    return figure


def _panel(
    axes: Axes,
    rows: Sequence[Row],
    places: Mapping[str, float],
    forest: Forest,
    limits: tuple[float, float] | None,
    most: int,
) -> None:
    """Draw the marks of one panel.

    Args:
      places: Estimator -> height of its row.
      limits: Of the axis; None where nothing is known.
      most: Ticks of the axis.
    """
    axes.set_xscale("log")
    if limits:
        axes.set_xlim(*limits)
    if forest.reference is not None:
        axes.axvline(forest.reference, color=REFERENCE_LINE, linewidth=0.9, zorder=1)
    for row in rows:
        with belonging(axes, row.estimator):
            for mark in row.marks:
                _draw_mark(axes, places[row.estimator] + mark.offset, row.estimator, mark)
    axes.set_xlabel(forest.xlabel, fontsize=8)
    plain_log_ticks(axes.xaxis, ratio=forest.ratio, most=most)


def _beside(axes: Axes, at: float, row: Row, column: float) -> None:
    """Write a row's text, and draw its bar, at the right of the panel."""
    text = axes.annotate(
        row.text, (1.0, at), (8.0, 0.0), ("axes fraction", "data"), "offset points",
        va="center_baseline", size=TEXT_SIZE, color=INK,
    )  # fmt: skip
    belongs(text, row.estimator)
    if not math.isfinite(row.share):
        return
    figure = axes.get_figure(root=True)
    assert figure is not None
    inches = axes.get_position().width * figure.get_figwidth()
    start = 1.0 + (8.0 / 72.0 + column) / inches
    with belonging(axes, row.estimator):
        for end, colour, zorder in ((1.0, REFERENCE_LINE, 1.0), (row.share, INK, 2.0)):
            axes.plot(
                [start, start + end * BAR_INCHES / inches], [at, at], color=colour,
                linewidth=1.0 if end == 1.0 else 3.2, solid_capstyle="butt", clip_on=False,
                transform=axes.get_yaxis_transform(), zorder=zorder,
            )  # fmt: skip


def _draw_mark(axes: Axes, at: float, estimator: str, mark: Mark) -> None:
    """Draw a mark with its whisker, or an arrow where it is off the scale."""
    estimate, style = mark.shown, look(estimator)
    colour, marker = mark.colour or style.colour, mark.marker or style.marker
    if not estimate.known:
        return
    low, high = axes.get_xlim()
    if not low <= estimate.value <= high:
        inside, arrow = (high, ">") if estimate.value > high else (low, "<")
        axes.plot(
            [inside], [at], marker=arrow, color=colour, markersize=0.9 * mark.size,
            markerfacecolor=colour if mark.filled else PAPER, clip_on=False, zorder=4,
        )  # fmt: skip
        return
    if not mark.bound and all(map(math.isfinite, mark.reach)):
        axes.plot(mark.reach, [at, at], color=colour, linewidth=0.5, zorder=2)
    if estimate.has_interval:
        thick = 2.0 if mark.filled else 0.9
        axes.plot([estimate.low, estimate.high], [at, at], color=colour, linewidth=thick, zorder=2)
    if mark.bound:
        axes.annotate(
            "", (estimate.value, at), (18.0 if mark.bound == "lower" else -18.0, 0.0),
            textcoords="offset points", zorder=2,
            arrowprops={"arrowstyle": "<-", "color": colour, "linewidth": 0.9},
        )  # fmt: skip
    axes.plot(
        [estimate.value], [at], marker=marker, color=colour, markersize=mark.size, zorder=3,
        markerfacecolor=colour if mark.filled and not mark.bound else PAPER, linestyle="none",
        markeredgewidth=1.0 if mark.filled else 0.8,
    )  # fmt: skip


def _limits(rows: Sequence[Row], forest: Forest) -> tuple[float, float] | None:
    """Return the limits: of all, or of all but `stretch` where that would flatten the rest."""

    def limits(chosen: Iterable[Row]) -> tuple[float, float] | None:
        marks = [mark for row in chosen for mark in row.marks if mark.shown.known]
        if not marks:
            return None
        values = [mark.shown.value for mark in marks]
        values += [end for mark in marks if not mark.bound for end in mark.reach]
        values += [] if forest.reference is None else [forest.reference]
        ends = [mark.shown.low for mark in marks], [mark.shown.high for mark in marks]
        return log_view(values, *ends)

    whole = limits(rows)
    others = limits(row for row in rows if row.estimator not in forest.stretch)
    if whole is None or others is None:
        return whole
    # As an arrow, if the scale with it would be twice as long as without.
    span, kept = (math.log(high / low) for low, high in (whole, others))
    return others if span > 2.0 * max(kept, 0.7) else whole

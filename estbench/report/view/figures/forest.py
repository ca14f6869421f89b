"""Forest panels: a row an estimator, a mark with its interval, and the numbers beside it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from estbench.report.data.statistics import Estimate
from estbench.report.view.figures.base import belonging, belongs, label, name_room, stacked
from estbench.report.view.figures.scales import log_view, plain_log_ticks
from estbench.report.view.style import INK, MUTED, PAPER, REFERENCE_LINE, look

__all__ = ["ROW_INCHES", "Mark", "forest_figure", "forest_panel"]

ROW_INCHES = 0.175
TEXT_SIZE = 7.5


@dataclass(frozen=True)
class Mark:
    """One line of a forest.

    Attributes:
      estimator: Whose; fixes colour and marker.
      estimate: What is marked; nothing is drawn where it is unknown.
      texts: What stands beside it, a text a column.
      named: Whether the row carries the estimator's name.
      bound: Of a `Ratio`: a bound is a hollow marker at that end with an arrow, and "none" nothing.
      reach: A thin whisker, such as the range without any one snapshot; nan where there is none.
    """

    estimator: str
    estimate: Estimate
    texts: tuple[str, ...]
    named: bool = True
    bound: str = ""
    reach: tuple[float, float] = (math.nan, math.nan)

    @property
    def shown(self) -> Estimate:
        """What is drawn: of a bound only its end."""
        if not self.bound:
            return self.estimate
        ends = {"lower": self.estimate.low, "upper": self.estimate.high}
        end = ends.get(self.bound, math.nan)
        known = end if math.isfinite(end) or self.bound == "none" else self.estimate.value
        return Estimate(known, n=self.estimate.n)


def forest_figure(
    rows: Sequence[int],
    *,
    columns: float,
    names: Iterable[str] = (),
    width: float = 5.2,
    head: float = 0.5,
) -> tuple[Figure, list[Axes]]:
    """Return a figure of forests, one a task.

    Args:
      rows: Lines of each panel.
      columns: Inches for the numbers at the right.
      names: The estimators; the figure is wider where a name is long.
      head: Inches between panels: axis, title and column heads.
    """
    heights = [ROW_INCHES * count + 0.1 for count in rows]
    left = name_room(names)
    return stacked(
        len(rows),
        width=width + left - name_room(()),
        height=heights,
        left=left,
        right=columns,
        top=0.42,
        bottom=0.46,
        gap=0.42 + head,
    )


def forest_panel(
    axes: Axes,
    marks: Sequence[Mark],
    *,
    heads: Sequence[str],
    column_inches: float,
    xlabel: str,
    reference: float | None = None,
    stretch: Collection[str] = (),
    ratio: bool = True,
) -> None:
    """Draw marks from top to bottom on a log axis.

    Args:
      heads: Heads of the columns of numbers.
      column_inches: Width of one such column.
      reference: Where a level of "no difference" is drawn.
      stretch: Estimators that may lie off the scale: an arrow at the edge stands for them when
        showing them would flatten the others.
    """
    rows = len(marks)
    axes.set_xscale("log")
    limits = _limits(marks, reference, stretch)
    if limits:
        axes.set_xlim(*limits)
    axes.set_ylim(rows - 0.4, -0.6)
    if reference is not None:
        axes.axvline(reference, color=REFERENCE_LINE, linewidth=0.9, zorder=1)
    for row, mark in enumerate(marks):
        with belonging(axes, mark.estimator):
            _draw_mark(axes, row, mark)
            for place, text in enumerate(mark.texts):
                axes.annotate(
                    text,
                    (1.0, row),
                    (8.0 + 72.0 * column_inches * place, 0.0),
                    ("axes fraction", "data"),
                    "offset points",
                    va="center_baseline",
                    size=TEXT_SIZE,
                    color=INK,
                )
    for place, head in enumerate(heads):
        axes.annotate(
            head,
            (1.0, 1.0),
            (8.0 + 72.0 * column_inches * place, 5.0),
            "axes fraction",
            "offset points",
            size=7,
            color=MUTED,
            va="bottom",
        )
    named = [(row, mark.estimator) for row, mark in enumerate(marks) if mark.named]
    axes.set_yticks([row for row, _ in named], [label(name) for _, name in named])
    for tick, (_, name) in zip(axes.get_yticklabels(), named, strict=True):
        tick.set_color(look(name).colour)
        belongs(tick, name)
    for row, _ in named[1:]:
        if any(not mark.named for mark in marks):
            axes.axhline(row - 0.5, color=REFERENCE_LINE, linewidth=0.3, alpha=0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(xlabel, fontsize=8)
    plain_log_ticks(axes.xaxis, ratio=ratio, most=6)


def _draw_mark(axes: Axes, row: int, mark: Mark) -> None:
    """Draw a mark with its whisker, or an arrow where it is off the scale."""
    estimate, style = mark.shown, look(mark.estimator)
    if not estimate.known:
        return
    low, high = axes.get_xlim()
    if not low <= estimate.value <= high:
        inside = high if estimate.value > high else low
        arrow = ">" if estimate.value > high else "<"
        axes.plot(
            [inside], [row], marker=arrow, color=style.colour, markersize=6, clip_on=False, zorder=4
        )
        return
    if not mark.bound and all(map(math.isfinite, mark.reach)):
        axes.plot(mark.reach, [row, row], color=style.colour, linewidth=0.5, zorder=2)
    if estimate.has_interval:
        ends = [estimate.low, estimate.high]
        axes.plot(ends, [row, row], color=style.colour, linewidth=2.0, zorder=2)
    if mark.bound:
        axes.annotate(
            "",
            (estimate.value, row),
            (22.0 if mark.bound == "lower" else -22.0, 0.0),
            textcoords="offset points",
            arrowprops={"arrowstyle": "<-", "color": style.colour, "linewidth": 0.9},
            zorder=2,
        )
    axes.plot(
        [estimate.value],
        [row],
        marker=style.marker,
        color=style.colour,
        markerfacecolor=PAPER if mark.bound else style.colour,
        markersize=5.0,
        linestyle="none",
        zorder=3,
    )


def _limits(
    marks: Sequence[Mark], reference: float | None, stretch: Collection[str]
) -> tuple[float, float] | None:
    """Return the limits: of all, or of all but `stretch` where that would flatten the rest."""

    def limits(chosen: Sequence[Mark]) -> tuple[float, float] | None:
        estimates = [mark.shown for mark in chosen if mark.shown.known]
        if not estimates:
            return None
        values = [estimate.value for estimate in estimates]
        values += [end for mark in chosen if not mark.bound for end in mark.reach]
        values += [] if reference is None else [reference]
        return log_view(values, [e.low for e in estimates], [e.high for e in estimates])

    whole = limits(marks)
    others = limits([mark for mark in marks if mark.estimator not in stretch])
    if whole is None or others is None:
        return whole
    # As an arrow, if the scale with it would be twice as long as without.
    span, kept = (math.log(high / low) for low, high in (whole, others))
    return others if span > 2.0 * max(kept, 0.7) else whole

"""Relative bias of checked estimators on every problem, with the margin as a line."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from estbench.report.data.formatting import quantity
from estbench.report.view.figures.base import Drawn, belonging, belongs, label, stacked
from estbench.report.view.style import INK, MUTED, look

__all__ = ["draw"]

ROW_INCHES = 0.26
FLOOR = 0.03  # per cent; what is estimated below it is drawn there
FOUND = "#b3261e"
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "p", "h", "<", ">")


def draw(frame: pd.DataFrame) -> Drawn:
    """Draw an estimator a row: on every problem, its relative bias and 95 % interval.

    Args:
      frame: What ``estbench.proof.records.as_frame`` returns.
    """
    data = frame[(frame["kind"] == "bias") & frame["relative_bias"].notna()].copy()
    names = list(dict.fromkeys(frame["estimator"]))
    problems = list(dict.fromkeys(data["what"]))
    margins = sorted(100 * data["margin"].unique()) or [2.0]
    figure, (axes,) = stacked(
        1,
        width=6.4,
        height=ROW_INCHES * len(names) + 0.2,
        left=1.9,
        right=1.75,
        top=0.55,
        bottom=0.95 + 0.13 * max(0, -(-len(problems) // 4) - 3),
    )
    axes.set_xscale("log")
    for margin in margins:
        axes.axvline(margin, color=INK, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
    offsets = dict(zip(problems, np.linspace(-0.32, 0.32, max(len(problems), 2)), strict=False))
    for place, name in enumerate(names):
        own = data[data["estimator"] == name]
        for row in own.itertuples():
            low, high = (100 * float(x) for x in (row.low, row.high))
            biased = bool(row.found_by)
            colour = FOUND if biased else look(name).colour
            y = place + offsets[row.what]
            ends = (max(low, FLOOR), max(high, FLOOR))
            with belonging(axes, name):
                axes.plot(
                    ends, (y, y), color=colour, linewidth=0.9, solid_capstyle="butt", zorder=2
                )
                axes.plot(
                    max(100 * float(row.relative_bias), FLOOR),
                    y,
                    marker=MARKERS[problems.index(row.what) % len(MARKERS)],
                    markersize=3.0,
                    color=colour,
                    markerfacecolor=colour if biased else "none",
                    markeredgewidth=0.7,
                    zorder=3,
                )
        beside = axes.annotate(
            _said(frame[frame["estimator"] == name]),
            (1.0, place),
            (8.0, 0.0),
            ("axes fraction", "data"),
            "offset points",
            va="center_baseline",
            size=7.5,
            color=INK,
        )
        belongs(beside, name)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), [label(name) for name in names])
    for tick, name in zip(axes.get_yticklabels(), names, strict=True):
        tick.set_color(look(name).colour)
        belongs(tick, name)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="y")
    top = max(float(100 * data["high"].max()) if len(data) else 0.0, 5 * margins[-1])
    axes.set_xlim(FLOOR * 0.8, 1.3 * top)
    wide = top > 30.0  # labels of threes would touch
    ticks = [t for t in (0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 1000, 10_000) if t <= 1.3 * top]
    ticks = [t for t in ticks if not wide or t not in (0.03, 0.3, 3, 30)]
    axes.set_xticks(ticks)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(_tick))
    axes.set_xlabel("relative bias (%), logarithmic", fontsize=8)
    for margin in margins:
        said = f"{margin:g} %" if margin > margins[0] else f"margin {margin:g} %"
        axes.annotate(
            said, (margin, 1.0), (0, 3), ("data", "axes fraction"), "offset points",
            ha="left" if margin > margins[0] else "center", size=7.5, color=INK,
        )  # fmt: skip
    axes.annotate(
        "verdict, worst bias", (1.0, 1.0), (8.0, 3.0), "axes fraction", "offset points",
        size=7, color=MUTED,
    )  # fmt: skip
    handles = [
        Line2D([], [], marker=MARKERS[i % len(MARKERS)], color=MUTED, linestyle="none",
               markerfacecolor="none", markersize=3.5, label=problem)
        for i, problem in enumerate(problems)
    ]  # fmt: skip
    if handles:
        figure.legend(
            handles=handles, loc="lower left", bbox_to_anchor=(0.0, 0.0), ncols=4, fontsize=6.5,
            columnspacing=1.0, handletextpad=0.1,
        )  # fmt: skip
    said = "; ".join(f"{name}: {_said(frame[frame['estimator'] == name])}" for name in names)
    caption = (
        "Distance of the mean of many draws from the exact gradient over that gradient's norm, on "
        "problems whose sequences can all be listed; lines are 95 % intervals from a U-statistic "
        "over 64 blocks of draws, filled red marks are biases that a test found (.1 % level an "
        f"estimator). Values below {FLOOR} % are drawn there. An estimator passes where every "
        f"upper limit is left of its margin of {_margins(data, margins)}. † declared biased."
    )
    title = "Is the estimator unbiased?"
    return Drawn("bias", title, caption, f"{title} {said}.", data, figure)


def _margins(data: pd.DataFrame, margins: list[float]) -> str:
    """Return the margins, and the problems of those that are not the smallest."""
    said = [f"{margins[0]:g} %"]
    for margin in margins[1:]:
        where = data[np.isclose(100 * data["margin"], margin)]["what"]
        said.append(f"{margin:g} % on {', '.join(dict.fromkeys(where))}")
    return "; ".join(said)


def _said(rows: pd.DataFrame) -> str:
    bias = rows[(rows["kind"] == "bias") & rows["relative_bias"].notna()]
    verdict = str(rows["verdict"].iloc[0])
    if bias.empty:
        return verdict
    found = bias[bias["found_by"] != ""]
    if len(found):
        return f"{verdict}, {quantity(100 * float(found['relative_bias'].max()))} %"
    strict = bias[bias["margin"] == bias["margin"].min()]
    return f"{verdict}, < {quantity(100 * float(strict['upper_limit'].max()))} %"


def _tick(value: float, _: object) -> str:
    return f"{value:,.6g}"

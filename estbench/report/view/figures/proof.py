"""Relative bias of checked estimators on every problem, with the margin as a line."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from estbench.report.data.formatting import quantity
from estbench.report.data.statistics import Estimate
from estbench.report.view.figures.base import Drawn, entries
from estbench.report.view.figures.forest import Forest, Mark, Row, draw_stacked
from estbench.report.view.style import INK, MUTED

__all__ = ["draw"]

FLOOR = 0.03  # per cent; what is estimated below it is drawn there
FOUND = "#b3261e"
OPEN: dict[str, Any] = {
    "color": MUTED,
    "linestyle": "none",
    "markerfacecolor": "none",
    "markersize": 3.5,
}
LEGEND = {"ncols": 4, "fontsize": 6.5, "columnspacing": 1.0, "handletextpad": 0.1}
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
    offsets = dict(zip(problems, np.linspace(-0.32, 0.32, max(len(problems), 2)), strict=False))
    rows = [
        Row(
            name,
            tuple(
                _mark(row, MARKERS[problems.index(row["what"]) % len(MARKERS)], offsets)
                for row in entries(data[data["estimator"] == name])
            ),
            _said(frame[frame["estimator"] == name]),
        )
        for name in names
    ]
    label = "relative bias (%), logarithmic"
    heads = ("verdict, worst bias", "")
    forest = Forest({"": rows}, label, ratio=False, reference=margins[0], heads=heads, tall=0.26)
    lines = -(-len(problems) // 4)
    figure = draw_stacked(forest, width=6.4, bottom=0.56 + 0.13 * lines)
    (axes,) = figure.axes
    axes.set_xlim(0.8 * FLOOR, max(axes.get_xlim()[1], 1.3 * margins[-1]))
    for margin in margins:
        axes.axvline(margin, color=INK, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
        first = margin == margins[0]
        said, side = (f"margin {margin:g} %", "center") if first else (f"{margin:g} %", "left")
        place = ((margin, 1.0), (0, 3), ("data", "axes fraction"), "offset points")
        axes.annotate(said, *place, ha=side, size=7.5, color=INK)
    marks = zip(problems, cycle(MARKERS), strict=False)
    handles = [Line2D([], [], marker=mark, label=what, **OPEN) for what, mark in marks]
    if handles:
        figure.legend(handles=handles, loc="lower left", bbox_to_anchor=(0.0, 0.0), **LEGEND)
    said = "; ".join(f"{row.estimator}: {row.text}" for row in rows)
    caption = (
        "Distance of the mean of many draws from the exact gradient, over the norm of the exact "
        "gradient, on problems whose sequences can all be listed. Lines: 95 % intervals. Filled "
        "red marks: a test found a bias (0.1 % level for each estimator). An estimator passes if "
        f"every upper limit is left of its margin of {_margins(data, margins)}. Values below "
        f"{FLOOR} % are drawn there. † declared biased."
    )
    title = "Is the estimator unbiased?"
    return Drawn("bias", title, caption, f"{title} {said}.", data, figure)


def _mark(row: dict[str, object], marker: str, offsets: dict[str, float]) -> Mark:
    """Return one problem's mark; nothing is drawn below FLOOR."""
    keys = ("relative_bias", "low", "high")
    value, low, high = (max(100 * float(str(row[key])), FLOOR) for key in keys)
    found = bool(row["found_by"])
    return Mark(
        Estimate(value, low, high),
        marker=marker,
        colour=FOUND if found else "",
        filled=found,
        size=3.0,
        offset=offsets[str(row["what"])],
    )


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

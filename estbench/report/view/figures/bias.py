"""Relative bias of the measured gradient over the shared snapshots."""

from __future__ import annotations

import numpy as np
import pandas as pd

from estbench.report.data.comparisons import SNAPSHOTS, Comparisons
from estbench.report.data.statistics import Estimate, interval_frame
from estbench.report.view.figures.base import Drawn
from estbench.report.view.figures.captions import described
from estbench.report.view.figures.forest import Forest, Mark, Row, draw_columns
from estbench.report.view.figures.rows import left_out
from estbench.report.view.words import interval_words

__all__ = ["draw"]

ROUNDING = 1e-5  # of the gradient: less is how single precision rounds it
FLOOR = 0.01  # per cent; what is estimated below it is drawn there


def draw(comparisons: Comparisons) -> Drawn | None:
    """Draw the bias of every estimator over the informative snapshots, a column a task."""
    rows = comparisons.results.measured.dropna(subset=["relative_bias"])
    panels: dict[str, list[Row]] = {}
    printed = []
    for task in comparisons.results.tasks:
        for name in comparisons.results.estimators(rows, task):
            mean = comparisons.bias(task, name)
            numbers = {"task": task, "estimator": name, "bias, %": _percent(mean), "n": mean.n}
            printed.append(numbers)
            if mean.known:
                value, low, high = np.maximum(mean.scaled(100.0).numbers[:3], FLOOR)  # nan stays
                row = Row(name, (Mark(Estimate(value, low, high, mean.n), size=4.2),))
                panels.setdefault(task, []).append(row)
    if not panels:
        return None
    names = comparisons.results.estimators(rows)
    figure = draw_columns(Forest(panels, "relative bias (%), log axis", ratio=False), names)
    clipped = not (rows["relative_bias_squared"] < 0.0).any()
    return described(
        comparisons,
        "bias",
        "Relative bias of the gradient",
        "Distance of the mean gradient from the exact one (by enumeration, or from very many "
        "draws), over the norm of the exact gradient, noise subtracted: root mean square over "
        "informative snapshots and seeds, with 95 % t interval, {n}. Left is better. A whisker "
        f"that reaches the left edge ({FLOOR:g} %) finds no bias; its right end is the bias that "
        "the draws leave possible. One unbiased estimator in forty is off the edge by chance."
        + " These records hold no bias below zero, so marks lean to the right."
        * clipped,
        (f"{r['estimator']} on {r['task']} {r['bias, %']} %" for r in printed),
        _data(rows),
        figure,
        pd.DataFrame(printed),
        kind=SNAPSHOTS,
        left_out=left_out(figure, names),
    )


def _data(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the root mean square over seeds, with limits, a row an estimator and snapshot."""
    squares = interval_frame(rows, ["task", "estimator", "snapshot"], "relative_bias_squared")
    ends = ["estimate", "low", "high"]
    squares[ends] = np.sqrt(squares[ends].clip(lower=0.0))
    return squares


def _percent(estimate: Estimate) -> str:
    """Return "0.12 (0 to 0.29)", in per cent."""
    if not estimate.known:
        return "–"
    if (estimate.high if estimate.has_interval else estimate.value) < ROUNDING:
        return "0"
    return interval_words(estimate, scale=100.0)

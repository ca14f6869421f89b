"""Relative bias of the measured gradient over the shared snapshots."""

from __future__ import annotations

import numpy as np
import pandas as pd

from estbench.report.data.comparisons import SNAPSHOTS, Comparisons
from estbench.report.data.statistics import Estimate, interval_frame
from estbench.report.view.figures.base import Drawn, biased_text, few_text, fewest, n_text
from estbench.report.view.figures.forest import Forest, Mark, Row, draw_columns
from estbench.report.view.figures.notes import lost_note
from estbench.report.view.figures.rows import cut_text
from estbench.report.view.words import interval_words

__all__ = ["draw"]

ROUNDING = 1e-5  # of the gradient: less is how single precision rounds it
FLOOR = 0.01  # per cent; what is estimated below it is drawn there


def draw(comparisons: Comparisons) -> Drawn | None:
    """Draw the bias of every estimator over the informative snapshots, a column a task."""
    rows = comparisons.results.measured.dropna(subset=["relative_bias"])
    if rows.empty:
        return None
    data = _data(rows)
    panels: dict[str, list[Row]] = {}
    printed = []
    for task in comparisons.results.tasks:
        for name in comparisons.results.estimators(rows, task):
            mean = comparisons.bias(task, name)
            numbers = {"task": task, "estimator": name, "bias, %": _percent(mean), "n": mean.n}
            printed.append(numbers)
            if mean.known:
                ends = [100.0 * end for end in (mean.value, mean.low, mean.high)]
                value, low, high = (e if np.isnan(e) else max(e, FLOOR) for e in ends)
                panels.setdefault(task, []).append(
                    Row(name, (Mark(Estimate(value, low, high, mean.n), size=4.2),))
                )
    if not panels:
        return None
    names = comparisons.results.estimators(rows)
    forest = Forest(panels, "relative bias (%), log axis", ratio=False)
    figure = draw_columns(forest, names)
    shown = len({t.get_text() for ax in figure.axes for t in ax.get_yticklabels()})
    counts = fewest(data)
    title = "Relative bias of the gradient"
    clipped = not (rows["relative_bias_squared"] < 0.0).any()
    caption = (
        "Distance of the mean gradient from the exact gradient (by enumeration, or a many-draw "
        "reference where that is too large), over the norm of the exact gradient. The squared "
        "distance, with the noise of both gradients subtracted, is averaged over snapshots and "
        "seeds; mark and whisker are the roots of that mean and of its 95 % t interval, "
        f"{n_text(counts)}. Left is better. A whisker that reaches the left edge ({FLOOR:g} %) "
        "finds no bias, and its right end is the bias that the draws leave possible. Of many, "
        "about one in forty clears zero by chance. The data has every snapshot."
        + (" The records hold no bias below zero, so marks lean to the right." if clipped else "")
        + cut_text(shown, len(names))
        + few_text(counts["n"])
        + lost_note(comparisons, SNAPSHOTS, panels, names)
        + biased_text(names)
    )
    said = "; ".join(f"{r['estimator']} on {r['task']} {r['bias, %']} %" for r in printed)
    table = pd.DataFrame(printed)
    return Drawn("bias", title, caption, f"{title}: {said}.", data, figure, table)


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

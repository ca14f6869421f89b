"""How good the generated sequences are, against the batch: goodness, or NLL under the oracle."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes

from estbench.report.comparisons import Comparisons
from estbench.report.figures.base import (
    Drawn,
    biased_text,
    entries,
    few_text,
    label_room,
    n_text,
    stacked,
)
from estbench.report.figures.curves import curve_data, curve_labels, curve_panel, smoothing_text
from estbench.report.figures.log_variance import last_points, last_table
from estbench.report.formatting import number
from estbench.report.labels import best_value
from estbench.report.style import MUTED, REFERENCE_LINE

__all__ = ["best_line", "draw"]

WORDS = {"higher": "higher is better", "lower": "lower is better", "neither": "neither is better"}


def draw(comparisons: Comparisons) -> Drawn | None:
    """Draw each task's own metric of quality; nothing where no task has one."""
    results = comparisons.results
    panels: dict[str, pd.DataFrame] = {}
    metrics = {task: comparisons.primary(task) for task in results.tasks}
    for task, metric in metrics.items():
        rows = curve_data(results.curves, task, metric.name) if metric else pd.DataFrame()
        if metric and not rows.empty:
            panels[task] = rows.assign(metric=metric.name)
    if not panels:
        return None
    data = pd.concat(panels.values(), ignore_index=True)
    figure, axes = stacked(len(panels), right=label_room(data["estimator"]))
    said, lined = [], []
    for ax, (task, rows) in zip(axes, panels.items(), strict=True):
        metric = metrics[task]
        assert metric is not None
        direction = WORDS.get(metric.better, "")
        curve_panel(ax, rows, title=task, quantity=f"{metric.axis}, {direction}", labels=False)
        lined.append(best_line(ax, task, metric.name))
        curve_labels(ax, rows)
        said.append(f"{metric.label} on {task}: {direction}")
    last = last_points(data)
    caption = (
        f"Quality of the generated sequences at every adversarial batch ({'; '.join(said)}). "
        f"Line: mean over seeds, {n_text(last)}; band: 95 % t interval over seeds, point by point; "
        f"thin lines: single seeds. {smoothing_text(data)}"
        + (" Level line: the best value there is." if any(lined) else "")
        + " Goodness and oracle NLL ignore diversity: read them with the figure of diversity."
        + few_text(last["n"])
        + biased_text(last["estimator"])
    )
    ends = "; ".join(
        f"{row['estimator']} on {row['task']} {number(row['estimate'])}" for row in entries(last)
    )
    title = "Quality of the generated sequences during training"
    alt = f"{title}. At the end: {ends}."
    return Drawn("quality", title, caption, alt, data, figure, last_table(last))


def best_line(axes: Axes, task: str, metric: str) -> bool:
    """Draw the best value that the metric can have on the task, where it is near and known."""
    value, name = best_value(task, metric)
    low, high = axes.get_ylim()
    is_ceiling = value > 0.5 * (low + high)
    if not math.isfinite(value) or not low - (high - low) <= value <= high + (high - low):
        return False
    room = 0.04 * (high - low)
    axes.set_ylim(min(low, value - room), max(high, value + room))
    axes.axhline(value, color=REFERENCE_LINE, linewidth=0.8, zorder=1)
    axes.annotate(
        name,
        (0.0, value),
        (3.0, -2.0 if is_ceiling else 2.0),
        ("axes fraction", "data"),
        "offset points",
        va="top" if is_ceiling else "bottom",
        color=MUTED,
        size=7,
    )
    return True

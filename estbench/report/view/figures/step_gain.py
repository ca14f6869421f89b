"""What variance buys: the measured gain of a step against the useful share that predicts it."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from estbench.report.data.comparisons import Comparisons
from estbench.report.data.formatting import with_interval
from estbench.report.data.gained import gained, own_batch
from estbench.report.view.figures.base import (
    Drawn,
    belonging,
    entries,
    estimate_in,
    label,
    label_room,
    order_rows,
    panel_title,
    side_by_side,
)
from estbench.report.view.figures.captions import described
from estbench.report.view.style import MUTED, REFERENCE_LINE, look

__all__ = ["draw"]

LOW, HIGH = -0.15, 1.35  # of the ratios' axis; what is beyond stands at the edge

PANELS = {
    "sgd": [("best", 1, True), ("preset", 1, False)],
    "adam": [("preset", 8, True), ("added", 1, False)],
}
"""The optimiser of a panel: what is drawn, after how many steps, and whether it is filled."""

COLUMNS = {
    "SGD, best rate": ("sgd", 1, "best"),
    "SGD, rate 1": ("sgd", 1, "preset"),
    "Adam, 1 step": ("adam", 1, "preset"),
    "beyond moments": ("adam", 1, "added"),
    "Adam, 8 steps": ("adam", 8, "preset"),
}


def draw(comparisons: Comparisons) -> Drawn | None:
    """Draw a row of two panels a task: SGD and Adam."""
    progress = comparisons.results.progress
    data = gained(progress) if len(progress) else progress
    if data.empty:
        return None
    tasks = [task for task in comparisons.results.tasks if task in set(data["task"])]
    names = order_rows(data["estimator"])
    figure, grid = side_by_side(len(tasks), [0.62, label_room(names)], panel=(2.0, 1.7))
    for axes, task in zip(grid, tasks, strict=True):
        for ax, (optimiser, drawn) in zip(axes, PANELS.items(), strict=True):
            rows = data[(data["task"] == task) & (data["optimiser"] == optimiser)]
            _panel(ax, rows, drawn)
            panel_title(ax, f"{task}, {'SGD' if optimiser == 'sgd' else 'Adam'}")
        axes[0].set_ylabel("gain / exact gradient's gain", color=MUTED, size=8)
    right = grid[0][1]
    for name in names:
        with belonging(right, name):
            right.plot([], [], linestyle="none", label=label(name), **look(name).mark)
    right.legend(loc="upper left", bbox_to_anchor=(1.02, 1.02), fontsize=7)
    table = _table(progress, data, tasks)
    return described(
        comparisons,
        "progress",
        "What variance buys: gain of a step, of the exact gradient's",
        "Up: the gain in expected reward of steps with batches of 8 to 512 reward evaluations, "
        "over the gain of the exact gradient's steps: means over seeds, {n}, with 95 % t intervals "
        "in the data. Across: the useful share 1 / (1 + noise scale / batch). Left, SGD: filled at "
        "the best of the rates tried, hollow at the rate at which the exact step is as long as "
        "Adam's. Right, Adam with the run's own moments and rate: filled, eight steps at the run's "
        "batch; hollow, what one step gains beyond a step with a gradient of zero. The useful "
        "share predicts the filled marks of SGD (on the line, if curvature is the same in all "
        "directions); at a small rate every unbiased estimator gains 1. Marks beyond the axis are "
        "at its edge. Higher is better.",
        (
            f"{row['estimator']} on {row['task']} {row['Adam, 8 steps']} "
            f"(share {row['useful share']})"
            for row in entries(table)
        ),
        data,
        figure,
        table,
        lead="Eight steps of Adam: ",
    )


def _panel(axes: Axes, rows: pd.DataFrame, drawn: list[tuple[str, int, bool]]) -> None:
    axes.plot([0, 1], [0, 1], color=REFERENCE_LINE, linewidth=0.9, zorder=1)
    axes.axhline(1.0, color=REFERENCE_LINE, linewidth=0.6, linestyle=(0, (2, 2)), zorder=1)
    for measure, steps, filled in drawn:
        part = rows[(rows["measure"] == measure) & (rows["steps"] == steps)]
        for name in order_rows(part["estimator"]):
            own, style = part[part["estimator"] == name].sort_values("batch"), look(name)
            line: dict[str, Any] = {"linewidth": 0.6, "markersize": 4.0}
            if not filled:
                line |= {"markerfacecolor": "none", "markersize": 3.2}
            if len(own) == 1 or not filled:
                line["linestyle"] = "none"
            with belonging(axes, name):
                y = own["estimate"].clip(LOW, HIGH)
                axes.plot(own["useful_share"], y, clip_on=False, **style.mark, **line)
    axes.set_xlim(0, 1)
    axes.set_ylim(LOW, HIGH)
    axes.set_xlabel("useful share", color=MUTED, size=8)


def _table(progress: pd.DataFrame, data: pd.DataFrame, tasks: list[str]) -> pd.DataFrame:
    """Return a row a task and estimator at the batch that the runs have."""
    rows = []
    for task in tasks:
        batch = own_batch(progress, task)
        here = data[(data["task"] == task) & (data["batch"] == batch)]
        for name in order_rows(here["estimator"]):
            own = here[here["estimator"] == name]
            cells = {
                (row["optimiser"], row["steps"], row["measure"]): with_interval(
                    estimate_in(row), "number"
                )
                for row in entries(own)
            }
            share = f"{own['useful_share'].iloc[0]:.2f}"
            known = (cells.get(cell, "–") for cell in COLUMNS.values())
            rows.append((task, name, batch, share, *known))
    columns = ["task", "estimator", "batch", "useful share", *COLUMNS]
    return pd.DataFrame(rows, columns=columns)

"""What variance buys: the measured gain of a step against the useful share that predicts it."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from estbench.report.data.comparisons import Comparisons
from estbench.report.data.formatting import with_interval
from estbench.report.data.gained import gained, own_batch
from estbench.report.data.statistics import Estimate
from estbench.report.view.figures.base import (
    Drawn,
    belonging,
    biased_text,
    entries,
    few_text,
    fewest,
    label,
    label_room,
    n_text,
    order_rows,
    panel_title,
    side_by_side,
)
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
            title = f"{task}, {'SGD' if optimiser == 'sgd' else 'Adam'}"
            panel_title(ax, title)
        axes[0].set_ylabel("gain / exact gradient's gain", color=MUTED, size=8)
    for name in names:
        style = look(name)
        with belonging(grid[0][1], name):
            grid[0][1].plot(
                [],
                [],
                linestyle="none",
                marker=style.marker,
                color=style.colour,
                label=label(name),
            )
    grid[0][1].legend(loc="upper left", bbox_to_anchor=(1.02, 1.02), fontsize=7, frameon=False)
    counts = fewest(data)
    title = "What variance buys: gain of a step, of the exact gradient's"
    caption = (
        "From points of the reference run a step is taken with batches of 8 to 512 reward "
        "evaluations, and the gain in the expected reward is divided by that of the exact "
        "gradient's step. Left, SGD: filled at the best of the rates tried (each its own), hollow "
        "at the rate at which the exact step is as long as Adam's. Right, Adam from the run's own "
        "moments at the run's rate: filled eight steps at the run's batch; hollow what one step "
        "gains beyond a step with a gradient of zero. Across: the useful share 1 / (1 + noise "
        "scale / batch), which predicts the filled marks of SGD, on the line if curvature is the "
        "same in all directions; at a small rate it predicts nothing, for there every unbiased "
        "estimator gains 1. Gains are added up over snapshots within a seed; means over seeds, "
        f"{n_text(counts)}. Marks beyond the axis stand at its edge. Higher is better."
        + few_text(counts["n"])
        + biased_text(names)
    )
    table = _table(progress, data, tasks)
    said = "; ".join(
        f"{row['estimator']} on {row['task']} {row['Adam, 8 steps']} (share {row['useful share']})"
        for row in entries(table)
    )
    return Drawn("progress", title, caption, f"{title}: {said}.", data, figure, table)


def _panel(axes: Axes, rows: pd.DataFrame, drawn: list[tuple[str, int, bool]]) -> None:
    axes.plot([0, 1], [0, 1], color=REFERENCE_LINE, linewidth=0.9, zorder=1)
    axes.axhline(1.0, color=REFERENCE_LINE, linewidth=0.6, linestyle=(0, (2, 2)), zorder=1)
    for measure, steps, filled in drawn:
        part = rows[(rows["measure"] == measure) & (rows["steps"] == steps)]
        for name in order_rows(part["estimator"]):
            own, style = part[part["estimator"] == name].sort_values("batch"), look(name)
            with belonging(axes, name):
                axes.plot(
                    own["useful_share"],
                    own["estimate"].clip(LOW, HIGH),
                    linestyle="-" if len(own) > 1 and filled else "none",
                    linewidth=0.6,
                    marker=style.marker,
                    markersize=4.0 if filled else 3.2,
                    color=style.colour,
                    markerfacecolor=style.colour if filled else "none",
                    clip_on=False,
                )
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
            row: dict[str, object] = {"task": task, "estimator": name, "batch": batch}
            row["useful share"] = f"{own['useful_share'].iloc[0]:.2f}"
            for head, (optimiser, steps, measure) in COLUMNS.items():
                cell = own[
                    (own["optimiser"] == optimiser)
                    & (own["steps"] == steps)
                    & (own["measure"] == measure)
                ]
                row[head] = "–"
                if len(cell):
                    entry = entries(cell)[0]
                    row[head] = with_interval(
                        Estimate(entry["estimate"], entry["low"], entry["high"], entry["n"]),
                        "number",
                    )
            rows.append(row)
    columns = ["task", "estimator", "batch", "useful share", *COLUMNS]
    return pd.DataFrame(rows, columns=columns)

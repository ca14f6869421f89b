"""Where the time of a generator step goes, phase by phase."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from estbench.report.data.comparisons import Comparisons
from estbench.report.data.formatting import quantity
from estbench.report.data.statistics import interval_frame
from estbench.report.view.figures.base import (
    Drawn,
    belongs,
    biased_text,
    entries,
    fewest,
    label,
    n_text,
    name_room,
    order_rows,
    panel_title,
    stacked,
)
from estbench.report.view.style import INK

__all__ = ["draw"]

ROW_INCHES = 0.2
LEGEND_COLUMNS = 4
# Dark and light in turn, so that neighbours part in grey too; none is an estimator's colour.
COLOURS = ("#223d5c", "#93b7cf", "#4b6a4f", "#e3c46b", "#7d4f50", "#c9c4dd", "#3a3a3a")


def draw(comparisons: Comparisons) -> Drawn | None:
    """Draw stacked bars, a row an estimator, a panel a task."""
    rows = comparisons.results.phases
    if rows.empty:
        return None
    phases = list(dict.fromkeys(rows["phase"]))
    data = _data(rows, phases)
    tasks = [task for task in comparisons.results.tasks if task in set(data["task"])]
    per_task = [data[data["task"] == task] for task in tasks]
    left = name_room(data["estimator"])
    figure, axes = stacked(
        len(tasks),
        width=5.2 + left - name_room(()),
        height=[ROW_INCHES * part["estimator"].nunique() + 0.05 for part in per_task],
        left=left,
        right=0.62,
        top=0.76,
        bottom=0.46,
        gap=0.82,
    )
    for ax, task, part in zip(axes, tasks, per_task, strict=True):
        _panel(ax, part, task, phases)
    _legend(figure, axes[0], phases)
    counts = fewest(data)
    title = "Where the time of a step goes"
    caption = (
        "Milliseconds of one generator step by phase, from the serial timing pass (steps of their "
        "own beside those that are timed as a whole). Sampling: sequences and rollouts; reward: "
        "hard evaluations; forward: log-probabilities with their graph; control variate: relaxed "
        "rewards, learned control variates and their derivatives, and what is left of making the "
        "draws; backward: gradients and norms of all draws; adaptation: training of what is "
        "learned; update: the optimiser. Bars are means over rounds, "
        f"{n_text(counts, 'rounds')}; the number is their sum.{biased_text(data['estimator'])}"
    )
    totals = data.groupby(["task", "estimator"], sort=False)["milliseconds"].sum().reset_index()
    largest = data.loc[data.groupby(["task", "estimator"], sort=False)["milliseconds"].idxmax()]
    merged = totals.merge(largest, on=["task", "estimator"], suffixes=("", "_most"))
    said = "; ".join(
        f"{row['estimator']} on {row['task']} {quantity(float(row['milliseconds']))} ms, most in "
        f"{row['phase']} ({quantity(float(row['milliseconds_most']))} ms)"
        for row in entries(merged)
    )
    table = data.pivot_table(
        index=["task", "estimator"], columns="phase", values="milliseconds", sort=False
    )
    return Drawn("phases", title, caption, f"{title}: {said}.", data, figure, _flat(table, phases))


def _flat(table: pd.DataFrame, phases: list[str]) -> pd.DataFrame:
    flat = table.reindex(columns=phases).reset_index()
    return flat.rename(columns={phase: f"{phase} (ms)" for phase in phases})


def _data(rows: pd.DataFrame, phases: list[str]) -> pd.DataFrame:
    """Return mean milliseconds over rounds, with t intervals, in the order of the bars."""
    rows = rows.assign(milliseconds=1e3 * rows["seconds"])
    table = interval_frame(rows, ["task", "estimator", "phase"], "milliseconds")
    table = table.rename(columns={"estimate": "milliseconds"})
    tasks = list(dict.fromkeys(rows["task"]))
    names = order_rows(table["estimator"])
    ranks = table.assign(
        _task=table["task"].map(tasks.index),
        _name=table["estimator"].map(names.index),
        _phase=table["phase"].map(phases.index),
    )
    ordered = ranks.sort_values(["_task", "_name", "_phase"], kind="stable")
    return ordered[table.columns].reset_index(drop=True)


def _panel(axes: Axes, part: pd.DataFrame, task: str, phases: list[str]) -> None:
    names = order_rows(part["estimator"])
    for row, name in enumerate(names):
        own = part[part["estimator"] == name].set_index("phase")["milliseconds"]
        left = 0.0
        for phase, colour in zip(phases, COLOURS, strict=False):
            width = float(own.get(phase, 0.0))
            bar = axes.barh(row, width, left=left, height=0.72, color=colour, linewidth=0.0)
            bar[0].set_gid(f"estimator:{name}")
            left += width
        axes.annotate(
            quantity(left),
            (left, row),
            (3, 0),
            textcoords="offset points",
            va="center",
            size=7.5,
            color=INK,
            gid=f"estimator:{name}",
        )
    axes.set_yticks(np.arange(len(names)), [label(name) for name in names])
    for tick, name in zip(axes.get_yticklabels(), names, strict=True):
        belongs(tick, name)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.set_xlim(0, None)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("milliseconds per step")
    panel_title(axes, task)


def _legend(figure: Figure, axes: Axes, phases: list[str]) -> None:
    shown = list(zip(phases, COLOURS, strict=False))
    rows = -(-len(shown) // LEGEND_COLUMNS)
    # A legend is filled column by column, and read row by row.
    order = [i + row * LEGEND_COLUMNS for i in range(LEGEND_COLUMNS) for row in range(rows)]
    shown = [shown[i] for i in order if i < len(shown)]
    figure.legend(
        [Rectangle((0, 0), 1, 1, color=colour, linewidth=0) for _, colour in shown],
        [phase for phase, _ in shown],
        loc="upper left",
        bbox_to_anchor=(0.01, 1.0),
        ncols=LEGEND_COLUMNS,
        fontsize=7.5,
        handlelength=1.0,
        handleheight=0.8,
        columnspacing=1.2,
        handletextpad=0.5,
        borderaxespad=0.2,
    )

"""The grid: which runs there are, which failed or are missing, and how long they took.

Few enough runs are marks, a row an estimator and a column a seed. A large grid becomes a cell a
task and estimator, with counts.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from estbench.report.data.comparisons import Comparisons
from estbench.report.data.formatting import clean, seconds
from estbench.report.view.figures.base import (
    Drawn,
    belonging,
    belongs,
    biased_text,
    entries,
    label,
    name_room,
    order_rows,
    panel_title,
    stacked,
)
from estbench.report.view.style import INK, MUTED, REFERENCE_LINE, look

__all__ = ["draw"]

MOST_SEEDS = 40
MOST_ROWS = 80
ROW_INCHES = 0.19
MARKS_INCHES, RIGHT = 2.22, 1.62
FAILED = "#b3261e"
# From pale (quick) to dark (slow) within the figure; not among the colours that the page exchanges.
PALE, DARK = (0.78, 0.84, 0.91), (0.075, 0.231, 0.435)
ON_PALE, ON_DARK = "#10151b", "#fdfdfe"
WORDS = {"ok": "finished", "failed": "failed", "missing": "missing", "refused": "not possible"}


def draw(comparisons: Comparisons) -> Drawn | None:
    """Draw runs as marks, or as counts where they are many; nothing where there are none."""
    runs = comparisons.results.runs
    if runs.empty:
        return None
    data = _data(runs)
    rows = len(data)
    tasks = [task for task in comparisons.results.tasks if task in set(data["task"])]
    many = rows > MOST_ROWS or runs["seed"].nunique() > MOST_SEEDS
    figure = _counts(data, tasks) if many else _marks(runs, data, tasks)
    done, failed, missing, total = (
        int(data[name].sum()) for name in ("finished", "failed", "missing", "runs")
    )
    median = seconds(float(runs.loc[runs["status"] == "ok", "wall_s"].median()))
    refused = int(data["refused"].sum())
    said = f"{done} of {total} runs finished, {failed} failed, {missing} are missing"
    said += f", {refused} are of estimators that the task does not allow" if refused else ""
    how = (
        "A cell is a task and estimator: finished of all runs, and the median time of a finished "
        "one; the darker, the longer. Framed: a run failed or is missing"
        if many
        else "A mark is a run, a column a seed. Square: finished, the darker the longer it took "
        "within its task; cross: failed; ring: missing. At the right the median time of a "
        "finished run, with the quickest and the slowest"
    )
    caption = (
        f"The training runs of the experiment: {said}; n = {total} runs, {median} in the median. "
        f"{how}. Times are those of runs that may have shared the machine, so they tell what the "
        "grid cost, and compare no estimators (no 95 % interval); the figure of wall-clock does."
        f"{biased_text(data['estimator'])}"
    )
    title = "The grid of runs, and what it cost"
    lost = "; ".join(
        f"{row['estimator']} on {row['task']}: {row['failed']} failed, {row['missing']} missing"
        for row in entries(data[(data["failed"] > 0) | (data["missing"] > 0)].head(20))
    )
    alt = f"{title}: {said}{'; ' + lost if lost else ''}."
    return Drawn("grid", title, caption, alt, data, figure, _table(data))


def _data(runs: pd.DataFrame) -> pd.DataFrame:
    """Return a row a task and estimator: runs by status, and the times of finished ones."""
    status = runs["status"]
    frame = runs[["task", "estimator"]].assign(
        runs=1,
        finished=(status == "ok").astype(int),
        failed=(status == "failed").astype(int),
        missing=(status == "missing").astype(int),
        refused=(~status.isin(["ok", "failed", "missing"])).astype(int),
    )
    keys = ["task", "estimator"]
    counts = frame.groupby(keys, sort=False).sum()
    ok = runs[status == "ok"].groupby(keys, sort=False)["wall_s"]
    times = ok.agg(["median", "min", "max", "sum"])
    times.columns = [f"{name}_wall_s" for name in times.columns]
    return counts.join(times).reset_index()


def _marks(runs: pd.DataFrame, data: pd.DataFrame, tasks: list[str]) -> Figure:
    """Draw every run."""
    names = {task: order_rows(data.loc[data["task"] == task, "estimator"]) for task in tasks}
    heights = [ROW_INCHES * len(names[task]) + 0.08 for task in tasks]
    left = name_room(data["estimator"])
    figure, axes = stacked(
        len(tasks),
        width=left + MARKS_INCHES + RIGHT,
        height=heights,
        left=left,
        right=RIGHT,
        top=0.62,
        bottom=0.4,
        gap=0.62,
    )
    seeds = sorted(runs["seed"].unique())
    at = {seed: place for place, seed in enumerate(seeds)}
    wide = min(1.0, 24.0 / max(len(seeds), 10))
    for ax, task in zip(axes, tasks, strict=True):
        own = runs[runs["task"] == task]
        quick, slow = own["wall_s"].min(), own["wall_s"].max()
        rows = {name: place for place, name in enumerate(names[task])}
        for name, place in rows.items():
            with belonging(ax, name):
                for run in entries(own[own["estimator"] == name]):
                    _mark(ax, at[run["seed"]], place, run, (quick, slow), wide)
                _beside(ax, place, data[(data["task"] == task) & (data["estimator"] == name)])
        _axes(ax, names[task], seeds)
        panel_title(ax, task)
    _legend(figure)
    return figure


def _mark(
    axes: Axes, x: int, y: int, run: dict[str, object], span: tuple[float, float], wide: float
) -> None:
    """Draw one run."""
    status, wall = str(run["status"]), float(run["wall_s"])  # type: ignore[arg-type]
    if status == "ok":
        size = 0.38 * max(wide, 0.6)
        shade = _shade(wall, *span)
        axes.add_patch(
            Rectangle((x - size, y - 0.36), 2 * size, 0.72, facecolor=shade, edgecolor="none")
        )
    elif status == "failed":
        axes.plot([x], [y], "x", color=FAILED, markersize=5.0, markeredgewidth=1.6)
    elif status == "missing":
        axes.plot(
            [x], [y], "o", markerfacecolor="none", markeredgecolor=MUTED, markersize=4.5, mew=0.9
        )
    else:
        axes.plot([x], [y], "_", color=REFERENCE_LINE, markersize=5.0)


def _shade(value: float, low: float, high: float) -> tuple[float, ...]:
    """Return a colour between pale and dark, on a log scale; pale where times are not known."""
    part = 0.0
    if low > 0 and high > 1.05 * low and math.isfinite(value):
        part = math.log(value / low) / math.log(high / low)
    return tuple(p + (d - p) * part for p, d in zip(PALE, DARK, strict=True))


def _beside(axes: Axes, y: int, row: pd.DataFrame) -> None:
    """Write the times of a row at its right."""
    median, low, high = (float(row[f"{name}_wall_s"].iloc[0]) for name in ("median", "min", "max"))
    text = "–" if math.isnan(median) else seconds(median)
    if math.isfinite(median) and high > 1.005 * low:
        text += f" ({seconds(low)} to {seconds(high)})"
    axes.annotate(
        text,
        (1.0, y),
        (6.0, 0.0),
        ("axes fraction", "data"),
        "offset points",
        va="center_baseline",
        size=7,
        color=INK,
    )


def _axes(axes: Axes, names: list[str], columns: list[int]) -> None:
    """Name rows and columns of a panel of marks."""
    axes.set_xlim(-0.6, max(len(columns), 10) - 0.4)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.set_yticks(range(len(names)), [label(name) for name in names])
    for tick, name in zip(axes.get_yticklabels(), names, strict=True):
        tick.set_color(look(name).colour)
        belongs(tick, name)
    every = -(-len(columns) // 20)
    places = list(range(0, len(columns), every))
    axes.set_xticks(places, [str(columns[place]) for place in places])
    axes.tick_params(length=0)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlabel("seed", fontsize=8, loc="left")


def _legend(figure: Figure) -> None:
    """Say at the top what the marks are."""
    kinds = [
        Line2D([], [], marker="s", color=PALE, linestyle="none", ms=6, label="quick"),
        Line2D([], [], marker="s", color=DARK, linestyle="none", ms=6, label="slow"),
        Line2D([], [], marker="x", color=FAILED, linestyle="none", ms=5, mew=1.6, label="failed"),
        Line2D(
            [], [], marker="o", color=MUTED, mfc="none", linestyle="none", ms=4.5, label="missing"
        ),
    ]
    figure.legend(handles=kinds, loc="upper left", ncols=4, fontsize=8, handletextpad=0.1)


def _counts(data: pd.DataFrame, tasks: list[str]) -> Figure:
    """Draw a cell a task and estimator; blocks of tasks below each other where they are many."""
    names = order_rows(data["estimator"])
    room, left = 5.04, name_room(names)
    width = left + room + 0.4  # heads slant beyond the last cell
    block = max(1, min(len(tasks), int(room / 0.92)))
    blocks = [tasks[start : start + block] for start in range(0, len(tasks), block)]
    height = 0.21 * len(names)
    slant = 0.16 + 0.045 * max(len(clean(task, 26)) for task in tasks)
    figure, axes = stacked(
        len(blocks),
        width=width,
        height=height,
        left=left,
        right=0.4,
        top=0.3 + slant,
        bottom=0.15,
        gap=0.3 + slant,
    )
    quick, slow = data["median_wall_s"].min(), data["median_wall_s"].max()
    for ax, own in zip(axes, blocks, strict=True):
        box = ax.get_position()
        wide = min(1.1, room / len(own))
        ax.set_position((box.x0, box.y0, wide * len(own) / width, box.height))
        part = data[data["task"].isin(own)]
        for row in entries(part):
            _cell(ax, own.index(row["task"]), names.index(row["estimator"]), row, (quick, slow))
        ax.set_xlim(0, len(own))
        ax.set_ylim(len(names), 0)
        ax.set_yticks([i + 0.5 for i in range(len(names))], [label(name) for name in names])
        for tick, name in zip(ax.get_yticklabels(), names, strict=True):
            tick.set_color(look(name).colour)
            tick.set_fontsize(7)
            belongs(tick, name)
        heads = [clean(task, 26) for task in own]
        ax.set_xticks(
            [i + 0.5 for i in range(len(own))],
            heads,
            rotation=30,
            ha="left",
            rotation_mode="anchor",
            fontsize=7.5,
        )
        ax.xaxis.tick_top()
        ax.tick_params(length=0)
        ax.grid(visible=False)
        for spine in ax.spines.values():
            spine.set_visible(False)
    return figure


def _cell(axes: Axes, x: int, y: int, row: dict[str, object], span: tuple[float, float]) -> None:
    """Draw one cell of counts."""
    counts = {name: int(row[name]) for name in ("runs", "finished", "failed", "missing", "refused")}  # type: ignore[call-overload]
    median = float(row["median_wall_s"])  # type: ignore[arg-type]
    with belonging(axes, str(row["estimator"])):
        if counts["refused"] == counts["runs"]:
            axes.text(x + 0.5, y + 0.5, "–", color=MUTED, size=6.5, ha="center", va="center")
            return
        shade = _shade(median, *span) if counts["finished"] else (1.0, 1.0, 1.0)
        lost = counts["failed"] + counts["missing"]
        axes.add_patch(
            Rectangle(
                (x + 0.02, y + 0.05),
                0.96,
                0.9,
                facecolor=shade,
                edgecolor=FAILED if lost else "none",
                linewidth=1.1,
            )
        )
        text = f"{counts['finished']}/{counts['runs']}"
        text += f" · {seconds(median)}" if np.isfinite(median) else ""
        ink = ON_DARK if sum(shade) < 1.5 else ON_PALE
        axes.text(x + 0.5, y + 0.52, text, color=ink, size=6.2, ha="center", va="center")


def _table(data: pd.DataFrame) -> pd.DataFrame:
    """Return the counts and times as people read them."""
    rows = []
    for row in entries(data):
        known = np.isfinite(row["median_wall_s"])
        rows.append(
            {
                "task": row["task"],
                "estimator": row["estimator"],
                **{
                    WORDS[name if name != "finished" else "ok"]: row[name]
                    for name in ("finished", "failed", "missing", "refused")
                },
                "median": seconds(row["median_wall_s"]) if known else "–",
                "all together": seconds(row["sum_wall_s"]) if known else "–",
            }
        )
    return pd.DataFrame(rows)

"""Where the variance comes from: each tensor's and each time step's share of it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from estbench.report.data.comparisons import Comparisons
from estbench.report.data.statistics import interval_frame
from estbench.report.view.figures.base import (
    Drawn,
    belongs,
    biased_text,
    entries,
    few_text,
    fewest,
    label,
    n_text,
    name_room,
    order_rows,
    panel_title,
    stacked,
)
from estbench.report.view.style import MUTED

__all__ = ["draw", "halfway"]

MOST_STEPS = 20  # columns of a panel; longer sequences are put together in runs of steps
ROW_INCHES = 0.19
# From nothing to everything in one hue, so that it is also a scale of grey; on a dark ground the
# tiles stay light, and with them the ink of their numbers, which is no role's colour.
TILES = LinearSegmentedColormap.from_list("share", ["#f4f7fa", "#a9cbe4", "#3f86ba", "#12496f"])
NEGATIVE = "#e8b98a"
DARK_INK, LIGHT_INK = "#101418", "#fdfdfd"
HEADS = {"tensor": "by parameter tensor", "step": "by time step"}


def draw(comparisons: Comparisons) -> Drawn | None:
    """Draw two tables of tiles a task, a row an estimator."""
    rows = comparisons.results.sources
    rows = halfway(rows)
    if rows.empty or rows["share"].notna().sum() == 0:
        return None
    data = _data(rows)
    panels = [
        (task, by)
        for task in comparisons.results.tasks
        for by in HEADS
        if len(data[(data["task"] == task) & (data["by"] == by)])
    ]
    parts = [data[(data["task"] == task) & (data["by"] == by)] for task, by in panels]
    left = name_room(data["estimator"])
    figure, axes = stacked(
        len(panels),
        width=5.2 + left - name_room(()),
        height=[ROW_INCHES * part["estimator"].nunique() for part in parts],
        left=left,
        right=0.14,
        top=0.34,
        bottom=0.66,
        gap=[1.02 if by == "tensor" else 0.86 for _, by in panels[:-1]],
    )
    for ax, (task, by), part in zip(axes, panels, parts, strict=True):
        _panel(figure, ax, part, task, by)
    counts = fewest(data)
    title = "Where the variance comes from"
    caption = (
        "Percent of an estimator's own total variance, at the snapshot after half of the batches: "
        "of each of the policy's parameter tensors, and of each time step t, the covariance "
        "tr Cov(g_t, g) of what flows back from the log-probabilities of step t with the whole "
        "draw g. The shares of a row sum to 100 (to rounding); a step that cancels what others "
        "bring has a negative one (orange). Rows say where, not how much: a row may be dark and "
        f"its estimator the better one. Means over seeds, {n_text(counts)}; their 95 % t "
        f"intervals are in the data. Dark is much.{few_text(counts['n'])}"
        f"{biased_text(data['estimator'])}"
    )
    alt = f"{title}. {_said(data)}"
    columns = ["task", "by", "estimator", "part", "percent", "low", "high", "n"]
    return Drawn("sources", title, caption, alt, data, figure, data[columns])


def halfway(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the snapshot nearest to half of the batches, the one with time steps."""
    gaps = rows.assign(gap=(rows["fraction"] - 0.5).abs())
    nearest = gaps.sort_values(["gap", "snapshot"]).drop_duplicates("task")
    return rows[rows["snapshot"] == rows["task"].map(nearest.set_index("task")["snapshot"])]


def _data(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a row a task, estimator and part: mean percent over seeds, with its t interval."""
    rows = rows.assign(percent=100.0 * rows["share"])
    found = []
    for (task, by), part in rows.groupby(["task", "by"], sort=False):
        if by == "step":
            part = _in_runs(part)
        names = part.drop_duplicates("position").set_index("position")["part"]
        table = interval_frame(part, ["estimator", "position"], "percent")
        table = table.assign(task=str(task), by=str(by), part=table["position"].map(names))
        rank = {name: i for i, name in enumerate(order_rows(table["estimator"]))}
        table = table.assign(rank=table["estimator"].map(rank))
        found.append(table.sort_values(["rank", "position"], kind="stable"))
    data = pd.concat(found, ignore_index=True).rename(columns={"estimate": "percent"})
    order = ["task", "by", "estimator", "part", "position", "percent", "low", "high", "n"]
    return data[order]


def _in_runs(part: pd.DataFrame) -> pd.DataFrame:
    """Return the shares of runs of steps, where there are more steps than columns."""
    steps = int(part.loc[part["part"] != "path", "position"].max()) + 1
    each = -(-steps // MOST_STEPS)
    if each == 1:
        return part
    run = (part["position"] // each).where(part["part"] != "path", steps // each + 1)
    first = run * each + 1
    last = (first + each - 1).clip(upper=steps)
    names = first.astype(str) + "–" + last.astype(str)
    part = part.assign(position=run, part=names.where(part["part"] != "path", "path"))
    keys = ["estimator", "seed", "position", "part"]
    return part.groupby(keys, sort=False)["percent"].sum(min_count=1).reset_index()


def _panel(figure: Figure, axes: Axes, part: pd.DataFrame, task: str, by: str) -> None:
    names = order_rows(part["estimator"])
    heads = part.drop_duplicates("position").sort_values("position")
    positions = list(heads["position"])
    wide = part.pivot_table(index="estimator", columns="position", values="percent")
    tiles = wide.reindex(index=names, columns=positions).to_numpy(np.float64)
    most = max(float(np.nanmax(tiles)), 1e-9)
    size = 7.0 if len(positions) <= 12 else 6.0
    for row, column in np.ndindex(*tiles.shape):
        value = float(tiles[row, column])
        if not np.isfinite(value):
            continue
        dark = max(value, 0.0) / most
        colour = NEGATIVE if value < -0.5 else TILES(dark)
        axes.fill(
            [column, column + 1, column + 1, column],
            [row, row, row + 1, row + 1],
            facecolor=colour,
            edgecolor="none",
            gid=f"estimator:{names[row]}",
        )
        axes.text(
            column + 0.5,
            row + 0.52,
            f"{value:.0f}".replace("-0", "0").replace("-", "−"),
            ha="center",
            va="center_baseline",
            size=size,
            color=LIGHT_INK if dark > 0.62 else DARK_INK,
            gid=f"estimator:{names[row]}",
        )
    axes.set_xlim(0, len(positions))
    axes.set_ylim(len(names), 0)
    axes.grid(False)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_yticks(np.arange(len(names)) + 0.5, [label(name) for name in names])
    for tick, name in zip(axes.get_yticklabels(), names, strict=True):
        belongs(tick, name)
    texts = [str(text) for text in heads["part"]]
    slanted = max(len(text) for text in texts) * len(texts) > 48
    axes.set_xticks(
        np.arange(len(positions)) + 0.5,
        texts,
        rotation=30 if slanted else 0,
        ha="right" if slanted else "center",
        rotation_mode="anchor" if slanted else "default",
        size=7.0,
    )
    axes.tick_params(length=0)
    panel_title(axes, task, f"% of the variance, {HEADS[by]}")
    if by == "step":
        axes.set_xlabel("time step", color=MUTED)


def _said(data: pd.DataFrame) -> str:
    """Return each row's largest share in words."""
    largest = data.loc[data.groupby(["task", "by", "estimator"], sort=False)["percent"].idxmax()]
    words = {"tensor": "", "step": "time step "}
    texts = [
        f"{row['estimator']} on {row['task']}: most from {words[str(row['by'])]}{row['part']}, "
        f"{row['percent']:.0f} %"
        for row in entries(largest)
    ]
    return "; ".join(texts) + "."

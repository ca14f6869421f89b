"""Panels of learning curves: a quantity against the batch, one line an estimator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.ticker import MaxNLocator

from estbench.report.data.labels import batch_name
from estbench.report.data.statistics import interval_frame
from estbench.report.view.figures.base import belonging, order_rows, panel_title
from estbench.report.view.figures.direct import End, label_ends
from estbench.report.view.figures.emphasis import in_focus, shown
from estbench.report.view.figures.scales import view

__all__ = [
    "MAX_POINTS",
    "curve_data",
    "curve_labels",
    "curve_panel",
    "drawable",
    "seeds_text",
    "smoothing_text",
]

# More lines of single seeds than this in a panel are a smear, and megabytes.
MAX_SEED_LINES = 160
# A curve is drawn with at most this many points; a longer one is averaged in blocks of batches.
MAX_POINTS = 60


def curve_data(curves: pd.DataFrame, task: str, metric: str) -> pd.DataFrame:
    """Return a metric's curves on a task: each seed's, and the mean with its t interval.

    Returns:
      Columns task, estimator, seed (missing for the mean over seeds), step, estimate, low, high, n,
      block. A seed's rows have its value as `estimate`. Curves longer than MAX_POINTS are means
      over blocks of `block` batches, taken within a seed first.
    """
    columns = ["task", "estimator", "seed", "step", "estimate", "low", "high", "n", "block"]
    if metric not in curves.columns:
        return pd.DataFrame(columns=columns)
    rows = curves.loc[curves["task"] == task, ["estimator", "seed", "step", metric]].dropna()
    if rows.empty:
        return pd.DataFrame(columns=columns)
    block = -(-rows["step"].nunique() // MAX_POINTS)
    # Blocks of recorded batches, not of batch numbers: some metrics are not recorded at each.
    recorded = {step: i // block for i, step in enumerate(sorted(rows["step"].unique()))}
    rows = rows.assign(part=rows["step"].map(recorded))
    seeds = rows.groupby(["estimator", "seed", "part"], as_index=False)[["step", metric]].mean()
    steps = rows.groupby("part")["step"].apply(lambda s: float(s.drop_duplicates().mean()))
    seeds["step"] = seeds["part"].map(steps)
    means = interval_frame(seeds, ["estimator", "step"], metric)
    single = seeds.rename(columns={metric: "estimate"}).assign(n=1)
    table = pd.concat([means, single], ignore_index=True).assign(task=task, block=block)
    table["seed"] = table["seed"].astype("Int64") if "seed" in table else pd.NA
    return table.reindex(columns=columns)


def smoothing_text(data: pd.DataFrame) -> str:
    """Return how curves were averaged before drawing, or nothing where they were not."""
    blocks = sorted(set(data["block"]) - {1})
    if not blocks:
        return "Nothing is smoothed."
    return f"Each point is a mean over {' or '.join(map(str, blocks))} batches, within a seed."


def drawable(rows: pd.DataFrame) -> pd.DataFrame:
    """Return curves without those of single seeds, where these are too many to draw."""
    seeds = rows[rows["seed"].notna()]
    return rows if _lines(seeds) <= MAX_SEED_LINES else rows[rows["seed"].isna()]


def seeds_text(data: pd.DataFrame) -> str:
    """Return what the thin lines are, or why there are none, for a caption."""
    tasks = data.loc[data["seed"].notna(), "task"].nunique()
    if tasks == data["task"].nunique():
        return "thin lines: single seeds"
    where = "where they are few enough to draw; the others" if tasks else "too many to draw; they"
    return f"thin lines: single seeds, {where} are in tables/curves.csv"


def curve_panel(
    axes: Axes,
    data: pd.DataFrame,
    *,
    title: str,
    quantity: str,
    xlabel: str = "",
    across: str = "step",
    labels: bool = True,
) -> None:
    """Draw one panel: a mean line and band an estimator, and thin lines for its seeds.

    Args:
      data: Of `curve_data`, one task.
      title: In bold above the panel, and `quantity` (what is up, with its unit) beside it.
      xlabel: What goes across; the task's batches if not given.
      across: The column of `data` that goes across.
      labels: Whether each line's name stands at its end.
    """
    means, seeds = data[data["seed"].isna()], data[data["seed"].notna()]
    names = order_rows(means["estimator"])
    several = seeds["seed"].nunique() > 1
    for name in sorted(names, key=lambda name: in_focus(name, names)):
        rows = means[means["estimator"] == name]
        style, focused, place = shown(name, names), in_focus(name, names), names.index(name)
        x = rows[across].to_numpy(np.float64)
        with belonging(axes, name):
            if several and focused:
                own = seeds[seeds["estimator"] == name]
                axes.add_collection(_thin(own, across, style.colour), autolim=False)
            if focused:
                axes.fill_between(
                    x, rows["low"], rows["high"], color=style.colour, alpha=0.16, lw=0, zorder=2
                )
            axes.plot(
                x,
                rows["estimate"],
                color=style.colour,
                linestyle=style.dash,
                linewidth=1.5 if focused else 0.7,
                marker=style.marker if focused else "",
                markevery=_marks(len(rows), place, len(names)),
                zorder=3 if focused else 1.8,
            )
    panel_title(axes, title, quantity)
    axes.set_xlabel(xlabel or batch_name(*data["task"].unique()))
    axes.set_ylabel("")
    _limits(axes, means, seeds, across)
    whole = across == "step"  # there is no half batch
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=whole, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    if labels:
        curve_labels(axes, data)


def curve_labels(axes: Axes, data: pd.DataFrame) -> None:
    """Write the names at the ends of the lines; when the limits of the panel are final."""
    means = data[data["seed"].isna()]
    last = means.groupby("estimator", sort=False)["estimate"].last()
    label_ends(axes, [End(name, float(last[name])) for name in order_rows(last.index)])


def _marks(points: int, place: int, lines: int) -> Any:
    """Return which points get a marker: about seven a line, staggered between lines."""
    every = max(1, points // 7)
    return (place * every // max(1, lines), every)


def _lines(seeds: pd.DataFrame) -> int:
    """Return how many runs there are."""
    return len(seeds[["estimator", "seed"]].drop_duplicates())


def _thin(seeds: pd.DataFrame, across: str, colour: str) -> LineCollection:
    """Return the lines of single seeds of one estimator."""
    lines = [part[[across, "estimate"]].to_numpy() for _, part in seeds.groupby("seed", sort=True)]
    return LineCollection(
        [line.astype(np.float64) for line in lines],
        colors=colour,
        linewidths=0.45,
        alpha=0.22,
        zorder=1.5,
    )


def _limits(axes: Axes, means: pd.DataFrame, seeds: pd.DataFrame, across: str) -> None:
    """Fit the panel to means and bands, and to all but the wildest points of single seeds."""
    values = [means["estimate"].to_numpy(np.float64)]
    if not seeds.empty:
        values.append(np.quantile(seeds["estimate"], [0.005, 0.995]))
    low, high = view(np.concatenate(values), means["low"], means["high"])
    margin = 0.06 * (high - low) or 0.5 * abs(high) or 1.0
    axes.set_ylim(low - margin, high + margin)
    first, last = float(means[across].min()), float(means[across].max())
    room = 0.012 * (last - first) or 0.5
    axes.set_xlim(first - room, last + room)

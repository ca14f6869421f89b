"""Panels of learning curves: a quantity against the batch, one line an estimator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.ticker import MaxNLocator

from estbench.report.data.formatting import with_interval
from estbench.report.data.labels import batch_name
from estbench.report.data.statistics import interval_frame
from estbench.report.view.figures.base import (
    belonging,
    entries,
    estimate_in,
    order_rows,
    panel_title,
)
from estbench.report.view.figures.direct import label_ends
from estbench.report.view.figures.emphasis import in_focus, shown
from estbench.report.view.figures.scales import view

__all__ = [
    "ALONG",
    "MAX_POINTS",
    "curve_data",
    "curve_labels",
    "curve_panel",
    "curves_text",
    "drawable",
    "last_points",
    "last_table",
]

ALONG = "snapshot: batches of the reference trajectory"

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


def drawable(rows: pd.DataFrame) -> pd.DataFrame:
    """Return curves without those of single seeds, where these are too many to draw."""
    seeds = rows[rows["seed"].notna()]
    lines = len(seeds[["estimator", "seed"]].drop_duplicates())
    return rows if lines <= MAX_SEED_LINES else rows[rows["seed"].isna()]


def curves_text(data: pd.DataFrame) -> str:
    """Return what lines, bands and points of curves are, for a caption."""
    tasks = data.loc[data["seed"].notna(), "task"].nunique()
    seeds = "thin lines: single seeds"
    if tasks < data["task"].nunique():
        where = "drawn where they are few" if tasks else "too many to draw"
        seeds += f" ({where}; all are in tables/curves.csv)"
    blocks = " or ".join(map(str, sorted(set(data["block"]) - {1})))
    points = f"Each point is a mean over {blocks} batches." if blocks else "Nothing is smoothed."
    return f"Line: mean over seeds, {{n}}; band: its 95 % t interval; {seeds}. {points}"


def last_points(data: pd.DataFrame) -> pd.DataFrame:
    """Return each mean curve's last point."""
    means = data[data["seed"].isna()]
    last = means.groupby(["task", "estimator"], sort=False).tail(1)
    return last.drop(columns=["seed"]).reset_index(drop=True)


def last_table(last: pd.DataFrame) -> pd.DataFrame:
    """Return the last points as people read them."""
    rows = []
    for row in entries(last):
        text = with_interval(estimate_in(row), "number", 3)
        rows.append((row["task"], row["estimator"], text, row["n"]))
    return pd.DataFrame(rows, columns=["task", "estimator", "at the last batch", "n"])


def curve_panel(
    axes: Axes,
    data: pd.DataFrame,
    *,
    title: str = "",
    quantity: str = "",
    xlabel: str = "",
    across: str = "step",
) -> None:
    """Draw one panel: a mean line and band an estimator, and thin lines for its seeds.

    Args:
      data: Of `curve_data`, one task.
      title: In bold above the panel, and `quantity` (what is up, with its unit) beside it.
      xlabel: What goes across; the task's batches if not given.
      across: The column of `data` that goes across.
    """
    means, seeds = data[data["seed"].isna()], data[data["seed"].notna()]
    names = order_rows(means["estimator"])
    several = seeds["seed"].nunique() > 1
    for name in sorted(names, key=lambda name: in_focus(name, names)):
        rows = means[means["estimator"] == name]
        style, focused = shown(name, names), in_focus(name, names)
        # About seven markers a line, staggered between lines.
        every = max(1, len(rows) // 7)
        marks = (names.index(name) * every // len(names), every)
        x = rows[across].to_numpy(np.float64)
        with belonging(axes, name):
            if several and focused:
                own = seeds[seeds["estimator"] == name]
                axes.add_collection(_thin(own, across, style.colour), autolim=False)
            if focused and rows["low"].notna().any():
                ends = (rows["low"], rows["high"])
                axes.fill_between(x, *ends, color=style.colour, alpha=0.16, lw=0, zorder=2)
            drawn: dict[str, Any] = {"linewidth": 0.7, "zorder": 1.8}
            if focused:
                drawn = {"linewidth": 1.5, "zorder": 3, "marker": style.marker}
            axes.plot(x, rows["estimate"], markevery=marks, **style.line, **drawn)
    panel_title(axes, title, quantity)
    axes.set_xlabel(xlabel or batch_name(*data["task"].unique()))
    _limits(axes, means, seeds, across)
    whole = across == "step"  # there is no half batch
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=whole, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))


def curve_labels(axes: Axes, data: pd.DataFrame) -> None:
    """Write the names at the ends of the lines; when the limits of the panel are final."""
    means = data[data["seed"].isna()]
    last = means.groupby("estimator", sort=False)["estimate"].last()
    label_ends(axes, {name: float(last[name]) for name in order_rows(last.index)})


def _thin(seeds: pd.DataFrame, across: str, colour: str) -> LineCollection:
    """Return the lines of single seeds of one estimator."""
    points = seeds.assign(x=seeds[across], y=seeds["estimate"]).astype({"x": float, "y": float})
    lines = [part[["x", "y"]].to_numpy() for _, part in points.groupby("seed", sort=True)]
    return LineCollection(lines, colors=colour, linewidths=0.45, alpha=0.22, zorder=1.5)


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

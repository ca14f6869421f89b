"""Where the variance comes from: each tensor's and each time step's share of it."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from estbench.report.data.comparisons import Comparisons
from estbench.report.data.statistics import interval_frame
from estbench.report.view.figures.bars import Bars, draw_bars, shades
from estbench.report.view.figures.base import Drawn, entries, order_rows
from estbench.report.view.figures.captions import described
from estbench.report.view.figures.rows import left_out

__all__ = ["draw", "draw_steps", "halfway"]

MOST_STEPS = 20  # parts of a bar; longer sequences are put together in runs of steps
MOST_TENSORS = 8
REST = "others"


def draw(comparisons: Comparisons) -> Drawn | None:
    """Draw each parameter tensor's share, a column a task."""
    title = "Where the variance comes from, by parameter tensor"
    return _draw(comparisons, "tensor", "sources", title, "A bar sums to 100 %.")


def draw_steps(comparisons: Comparisons) -> Drawn | None:
    """Draw each time step's share, a column a task."""
    title = "Where the variance comes from, by time step"
    what = (
        "The share of step t is tr Cov(g_t, g): g is the whole draw, and g_t what flows back from "
        "the log-probabilities of step t. Pale is early, dark is late. Negative shares (a step "
        "that cancels noise of others) are in the data and left out of the bar."
    )
    return _draw(comparisons, "step", "source_steps", title, what)


def halfway(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the snapshot nearest to half of the batches, the one with time steps."""
    gaps = rows.assign(gap=(rows["fraction"] - 0.5).abs())
    nearest = gaps.sort_values(["gap", "snapshot"]).drop_duplicates("task")
    return rows[rows["snapshot"] == rows["task"].map(nearest.set_index("task")["snapshot"])]


def _draw(comparisons: Comparisons, by: str, name: str, title: str, what: str) -> Drawn | None:
    rows = halfway(comparisons.results.sources)
    rows = rows[rows["by"] == by]
    if rows["share"].notna().sum() == 0:
        return None
    data = _data(rows, by)
    names = order_rows(data["estimator"])
    values = {}
    for task in comparisons.results.tasks:
        own = data[data["task"] == task]
        if len(own):
            wide = own.pivot_table(index="estimator", columns="part", values="percent", sort=False)
            values[task] = _gathered(wide.clip(lower=0.0), by)
    parts = list(dict.fromkeys(part for table in values.values() for part in table.columns))
    legend = parts
    if by == "step":
        parts.sort(key=lambda part: int(part.split("–")[0]) if part[0].isdigit() else math.inf)
        legend = [parts[0], parts[len(parts) // 2], parts[-1]]
    bars = Bars(values, parts, shades(parts, by == "step"), "% of the variance", legend=legend)
    figure = draw_bars(bars, names)
    largest = data.loc[data.groupby(["task", "estimator"], sort=False)["percent"].idxmax()]
    return described(
        comparisons,
        name,
        title,
        f"Percent of each estimator's own variance, halfway through training. {what} Rows say "
        "where the variance is, not how much there is. Means over seeds, {n}; their 95 % t "
        "intervals are in the data.",
        (
            f"{row['estimator']} on {row['task']}: most from {'time step ' * (by == 'step')}"
            f"{row['part']}, {row['percent']:.0f} %"
            for row in entries(largest)
        ),
        data,
        figure,
        left_out=left_out(figure, names),
    )


def _gathered(wide: pd.DataFrame, by: str) -> pd.DataFrame:
    """Return the shares with the smallest tensors put together, where there are many."""
    if by != "tensor" or wide.shape[1] <= MOST_TENSORS:
        return wide
    order = wide.mean().sort_values(ascending=False).index
    kept = [part for part in wide.columns if part in set(order[: MOST_TENSORS - 1])]
    rest = [part for part in wide.columns if part not in kept]
    return wide[kept].assign(**{REST: wide[rest].sum(axis=1)})


def _data(rows: pd.DataFrame, by: str) -> pd.DataFrame:
    """Return a row a task, estimator and part: mean percent over seeds, with its t interval."""
    rows = rows.assign(percent=100.0 * rows["share"])
    found = []
    for task, part in rows.groupby("task", sort=False):
        own = _in_runs(part) if by == "step" else part
        names = own.drop_duplicates("position").set_index("position")["part"]
        table = interval_frame(own, ["estimator", "position"], "percent")
        table = table.assign(task=str(task), by=by, part=table["position"].map(names).astype(str))
        rank = {name: i for i, name in enumerate(order_rows(table["estimator"]))}
        table = table.assign(rank=table["estimator"].map(rank))
        found.append(table.sort_values(["rank", "position"], kind="stable"))
    data = pd.concat(found, ignore_index=True).rename(columns={"estimate": "percent"})
    order = ["task", "by", "estimator", "part", "position", "percent", "low", "high", "n"]
    return data[order]


def _in_runs(part: pd.DataFrame) -> pd.DataFrame:
    """Return the shares of runs of steps, where there are more steps than parts of a bar."""
    steps = int(part.loc[part["part"] != "path", "position"].max()) + 1
    each = -(-steps // MOST_STEPS)
    if each == 1:
        return part
    run = (part["position"] // each).where(part["part"] != "path", steps // each + 1)
    first = run * each + 1
    last = np.minimum(first + each - 1, steps)
    names = first.astype(str) + "–" + last.astype(str)
    part = part.assign(position=run, part=names.where(part["part"] != "path", "path"))
    keys = ["estimator", "seed", "position", "part"]
    return part.groupby(keys, sort=False)["percent"].sum(min_count=1).reset_index()

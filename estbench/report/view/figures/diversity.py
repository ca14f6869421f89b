"""Quality against diversity after training: who scores well by repeating itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from estbench.report.data.comparisons import TRAINING, Comparisons
from estbench.report.data.formatting import with_interval
from estbench.report.data.labels import Metric, metric
from estbench.report.view.figures.base import (
    Drawn,
    belonging,
    belongs,
    cross,
    entries,
    label,
    order_rows,
    side_by_side,
)
from estbench.report.view.figures.captions import described
from estbench.report.view.figures.emphasis import context, in_focus, shown
from estbench.report.view.style import CONTEXT, look

__all__ = ["draw"]

# What may be on the horizontal axis: the first two that a task recorded.
CANDIDATES = ("nll_gen", "entropy", "distinct")
LEGEND_INCHES = 5.0
MOST_SEEDS = 30  # of an estimator that have a mark
TABLED = ("p_valid", "entropy", "distinct", "nll_gen", "tv")


def draw(comparisons: Comparisons) -> Drawn | None:
    """Draw final quality against final diversity, a row of panels a task."""
    panels: list[tuple[str, Metric, list[Metric]]] = []
    for task in comparisons.results.tasks:
        quality = comparisons.primary(task)
        across = [
            metric(task, name)
            for name in CANDIDATES
            if any(comparisons.final(task, e, name).known for e in comparisons.trained(task))
        ]
        if quality and len(across) > 1:
            panels.append((task, quality, across[:2]))
    if not panels:
        return None
    data = pd.concat([_data(comparisons, *panel) for panel in panels], ignore_index=True)
    means = data[data["seed"].isna()]
    few = data["seed"].isna() | _drawn(data)
    single = "single seeds" if few.all() else f"the first {MOST_SEEDS} seeds (all are in the data)"
    return described(
        comparisons,
        "diversity",
        "Quality against diversity after the last batch",
        "Quality (up) against diversity (across) of the generator after training. Large mark: "
        f"mean over seeds, {{n}}, with 95 % t intervals in both directions; small marks: {single}. "
        "Repeating a few good sequences improves goodness and oracle NLL: an estimator is better "
        "if it is better on both axes. Held-out NLL is better to the left; entropy and distinct "
        "sequences should be near the data's, not as large as possible.",
        (
            f"{row['estimator']} on {row['task']}: {row['quality']} {row['y']:.3g}, "
            f"{row['diversity']} {row['x']:.3g}"
            for row in entries(means)
        ),
        data,
        _figure(data, panels),
        _table(comparisons, [task for task, *_ in panels]),
        kind=TRAINING,
        counts=means,
    )


def _figure(data: pd.DataFrame, panels: list[tuple[str, Metric, list[Metric]]]) -> Figure:
    names = order_rows(data["estimator"])
    grey = context(names)
    named = [name for name in names if name not in grey]
    longest = max(len(label(name)) for name in named)
    columns = max(1, min(4, int(LEGEND_INCHES / (0.4 + 0.066 * longest))))
    lines = -(-(len(named) + bool(grey)) // columns)
    figure, grid = side_by_side(
        len(panels), [0.3, 0.12], panel=(2.05, 1.6), top=0.42 + 0.2 * lines, gap=0.78
    )
    for row, (task, quality, across) in zip(grid, panels, strict=True):
        for ax, other in zip(row, across, strict=True):
            _panel(ax, data[(data["task"] == task) & (data["diversity"] == other.name)], other)
        row[0].set_title(task)
        better = "" if quality.better == "neither" else f"{quality.better} is better"
        row[0].set_ylabel(f"{quality.label} ({better})")
        row[1].tick_params(labelleft=False)
    handles = [Line2D([], [], linestyle="none", label=label(n), **look(n).mark) for n in named]
    if grey:
        rest: dict[str, Any] = {"color": CONTEXT, "marker": "o", "markersize": 3}
        handles.append(Line2D([], [], linestyle="none", label=f"{len(grey)} others", **rest))
    legend = figure.legend(
        handles=handles, loc="upper left", ncols=columns, fontsize=8, handletextpad=0.1
    )
    for name, *entry in zip(named, legend.legend_handles, legend.get_texts(), strict=False):
        belongs(entry, name)
    return figure


def _data(
    comparisons: Comparisons, task: str, quality: Metric, across: list[Metric]
) -> pd.DataFrame:
    """Return a row a point: single seeds, and means (seed missing) with intervals."""
    rows: list[tuple[Any, ...]] = []
    for estimator in comparisons.trained(task):
        for other in across:
            head = (task, estimator, other.name, quality.name)
            x, y = (comparisons.final(task, estimator, m.name) for m in (other, quality))
            numbers = (x.value, y.value, x.low, x.high, y.low, y.high, min(x.n, y.n))
            rows.append((*head, pd.NA, *numbers))
            xs, ys = (comparisons.finals(task, estimator, m.name) for m in (other, quality))
            both = pd.concat({"x": xs, "y": ys}, axis=1, join="inner")
            for seed, a, b in both.itertuples(name=None):
                rows.append((*head, seed, a, b, *[np.nan] * 4, 1))
    columns = ["task", "estimator", "diversity", "quality", "seed", "x", "y"]
    frame = pd.DataFrame(rows, columns=[*columns, "x_low", "x_high", "y_low", "y_high", "n"])
    return frame.astype({"seed": "Int64"})


def _drawn(rows: pd.DataFrame) -> pd.Series[bool]:
    """Whether each row is a seed that has a mark: those of more seeds hide one another."""
    place = rows.groupby(["task", "estimator", "diversity"], sort=False)["seed"].rank("first")
    return rows["seed"].notna() & (place <= MOST_SEEDS).fillna(False).astype(bool)


def _panel(axes: Axes, rows: pd.DataFrame, across: Metric) -> None:
    """Draw single seeds and means."""
    names = order_rows(rows["estimator"])
    seeds, means = rows[_drawn(rows)], rows[rows["seed"].isna()]
    for name in names:
        own, style = seeds[seeds["estimator"] == name], look(name)
        if in_focus(name, names):
            with belonging(axes, name):
                axes.scatter(own["x"], own["y"], s=9, alpha=0.4, linewidth=0, **style.mark)
    for point in sorted(entries(means), key=lambda p: in_focus(p["estimator"], names)):
        name = point["estimator"]
        style = shown(name, names)
        with belonging(axes, name):
            if in_focus(name, names):
                cross(axes, point, style, 1.0, 6.0)
            else:
                axes.plot([point["x"]], [point["y"]], markersize=3.0, **style.mark)
    axes.set_xlabel(across.axis, fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))


def _table(comparisons: Comparisons, tasks: list[str]) -> pd.DataFrame:
    """Return final quality and diversity in numbers."""
    rows = []
    for task in tasks:
        quality = comparisons.primary(task)
        assert quality is not None
        for estimator in comparisons.trained(task):
            row: dict[str, object] = {"task": task, "estimator": estimator}
            for name in dict.fromkeys((quality.name, *TABLED)):
                estimate = comparisons.final(task, estimator, name)
                if estimate.known:
                    row[metric(task, name).label] = with_interval(estimate, "number", 3)
            row["n"] = comparisons.final(task, estimator, quality.name).n
            rows.append(row)
    return pd.DataFrame(rows).fillna("–")

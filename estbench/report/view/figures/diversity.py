"""Quality against diversity after training: who scores well by repeating itself."""

from __future__ import annotations

from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from estbench.report.data.comparisons import TRAINING, Comparisons
from estbench.report.data.formatting import with_interval
from estbench.report.data.labels import Metric, metric
from estbench.report.data.statistics import Estimate
from estbench.report.view.figures.base import (
    Drawn,
    belonging,
    belongs,
    biased_text,
    entries,
    few_text,
    label,
    n_text,
    order_rows,
    side_by_side,
)
from estbench.report.view.figures.emphasis import context, focus_text, in_focus, shown
from estbench.report.view.figures.notes import lost_note
from estbench.report.view.style import CONTEXT, look

__all__ = ["draw"]

# What may stand on the horizontal axis; the first two that a task recorded do.
CANDIDATES = ("nll_gen", "entropy", "distinct")
LEGEND_INCHES = 5.0
MOST_SEEDS = 30  # of an estimator that have a mark
TABLED = ("p_valid", "entropy", "distinct", "nll_gen", "tv")


def draw(comparisons: Comparisons) -> Drawn | None:
    """Draw final quality against final diversity, a row of panels a task."""
    results = comparisons.results
    panels: list[tuple[str, Metric, list[Metric]]] = []
    for task in results.tasks:
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
            chosen = data[(data["task"] == task) & (data["diversity"] == other.name)]
            _panel(ax, chosen, other)
        row[0].set_title(task)
        row[0].set_ylabel(f"{quality.label} ({_arrow(quality)})")
        row[1].tick_params(labelleft=False)
    handles = [
        Line2D(
            [], [], color=look(n).colour, marker=look(n).marker, linestyle="none", label=label(n)
        )
        for n in named
    ]
    if grey:
        others = f"{len(grey)} others"
        handles.append(
            Line2D([], [], color=CONTEXT, marker="o", ms=3, linestyle="none", label=others)
        )
    legend = figure.legend(
        handles=handles, loc="upper left", ncols=columns, fontsize=8, handletextpad=0.1
    )
    entries_of = zip(legend.legend_handles, legend.get_texts(), strict=True)
    for name, entry in zip(named, entries_of, strict=False):
        belongs(entry, name)
    means = data[data["seed"].isna()]
    counts = means[["task", "estimator", "n"]]
    few = data["seed"].isna() | _drawn(data)
    single = "single seeds" if few.all() else f"the first {MOST_SEEDS} seeds (all are in the data)"
    title = "Quality against diversity after the last batch"
    tasks = [task for task, *_ in panels]
    caption = (
        "Quality (up) against diversity (across) of the generator after training. Large mark: "
        f"mean over seeds with 95 % t intervals in both directions, {n_text(counts)}; small marks: "
        f"{single}. Goodness and oracle NLL can be had by repeating a few good sequences: an "
        "estimator is better if it is better on both axes. Held-out NLL is better to the left; "
        "entropy and distinct sequences should be near the data's, not as large as possible."
        f"{few_text(counts['n'])}{lost_note(comparisons, TRAINING, tasks, names)}"
        f"{focus_text(names)}{biased_text(names)}"
    )
    table = _table(comparisons, [task for task, _, _ in panels])
    said = "; ".join(
        f"{row['estimator']} on {row['task']}: {row['quality']} {row['y']:.3g}, "
        f"{row['diversity']} {row['x']:.3g}"
        for row in entries(means)
    )
    return Drawn("diversity", title, caption, f"{title}. {said}.", data, figure, table)


def _arrow(quality: Metric) -> str:
    return {"higher": "higher is better", "lower": "lower is better"}.get(quality.better, "")


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
            nan = float("nan")
            for seed, (a, b) in zip(both.index, both.to_numpy(), strict=True):
                rows.append((*head, seed, float(a), float(b), nan, nan, nan, nan, 1))
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
        with belonging(axes, name):
            sns.scatterplot(
                data=seeds[(seeds["estimator"] == name) & in_focus(name, names)],
                x="x",
                y="y",
                color=look(name).colour,
                marker=look(name).marker,
                s=9,
                alpha=0.4,
                linewidth=0,
                legend=False,
                ax=axes,
            )
    for point in sorted(entries(means), key=lambda p: in_focus(p["estimator"], names)):
        name, x, y = point["estimator"], point["x"], point["y"]
        style, focused = shown(name, names), in_focus(name, names)
        with belonging(axes, name):
            if focused:
                ends = [point["x_low"], point["x_high"]], [point["y_low"], point["y_high"]]
                axes.plot(ends[0], [y, y], color=style.colour, linewidth=1.0)
                axes.plot([x, x], ends[1], color=style.colour, linewidth=1.0)
            size = 6.0 if focused else 3.0
            axes.plot([x], [y], marker=style.marker, color=style.colour, markersize=size)
    axes.set_xlabel(across.axis, fontsize=8)
    axes.set_ylabel("")
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
                estimate: Estimate = comparisons.final(task, estimator, name)
                if estimate.known:
                    row[metric(task, name).label] = with_interval(estimate, "number", 3)
            row["n"] = comparisons.final(task, estimator, quality.name).n
            rows.append(row)
    return pd.DataFrame(rows).fillna("–")

"""How much of a training step is signal, snapshot by snapshot."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from estbench.report.data.comparisons import BASELINED, SNAPSHOTS, Comparisons
from estbench.report.data.trajectory import batch_size
from estbench.report.view.figures.base import (
    Drawn,
    belonging,
    biased_text,
    few_text,
    fewest,
    label_room,
    n_text,
    panel_title,
    stacked,
)
from estbench.report.view.figures.direct import End, label_ends, label_tall
from estbench.report.view.figures.emphasis import focus_text, in_focus, shown
from estbench.report.view.figures.notes import lost_note
from estbench.report.view.style import REFERENCE_LINE

__all__ = ["draw"]


def draw(comparisons: Comparisons) -> Drawn | None:
    """Draw a panel a task: the useful share of a step at every informative snapshot."""
    data = _data(comparisons)
    if data.empty:
        return None
    panels = {str(task): rows for task, rows in data.groupby("task", sort=False)}
    names = comparisons.results.estimators(data)
    tall = [label_tall(rows["estimator"].nunique(), 1.6) for rows in panels.values()]
    figure, axes = stacked(len(panels), height=tall, right=label_room(names), gap=0.74)
    for ax, (task, rows) in zip(axes, panels.items(), strict=True):
        _panel(ax, comparisons, rows)
        panel_title(ax, str(task), "useful share of a step, %")
    counts = fewest(data)
    batches = {f"{batch_size(comparisons.results, str(task)):g}" for task in panels}
    title = "How much of a step is signal"
    caption = (
        "Useful share of a step: 1 / (1 + noise scale / batch), at the batch in use "
        f"({' or '.join(sorted(batches))}); the rest is noise. Informative snapshots of the "
        f"reference trajectory; geometric means of the noise scale over seeds, {n_text(counts)}; "
        "their 95 % t intervals are in the data. Above the level line less than half of a step is "
        "noise. Higher is better."
        f"{few_text(counts['n'])}{lost_note(comparisons, SNAPSHOTS, map(str, panels), names)}"
        f"{focus_text(names)}{biased_text(names)}"
    )
    said = "; ".join(
        f"{task} with {BASELINED} {own['percent'].min():.0f} to {own['percent'].max():.0f} %"
        for task, rows in panels.items()
        if len(own := rows[rows["estimator"] == BASELINED])
    )
    return Drawn("useful_share", title, caption, f"{title}: {said}.", data, figure)


def _data(comparisons: Comparisons) -> pd.DataFrame:
    """Return a row a task, estimator and informative snapshot."""
    rows = []
    for task in comparisons.results.tasks:
        at = comparisons.at(task)
        for name in at.names:
            for place, snapshot in enumerate(at.snapshots):
                share = comparisons.useful_share(task, snapshot, name)
                if at.informative[place] and share.known:
                    ends = (100.0 * end for end in (share.value, share.low, share.high))
                    rows.append((task, name, snapshot, float(at.steps[place]), *ends, share.n))
    columns = ["task", "estimator", "snapshot", "step", "percent", "low", "high", "n"]
    return pd.DataFrame(rows, columns=columns)


def _panel(axes: Axes, comparisons: Comparisons, rows: pd.DataFrame) -> None:
    names = comparisons.results.estimators(rows)
    ends = []
    for name in sorted(names, key=lambda name: in_focus(name, names)):
        own, style = rows[rows["estimator"] == name].sort_values("step"), shown(name, names)
        focused = in_focus(name, names)
        with belonging(axes, name):
            axes.plot(
                own["step"], own["percent"], color=style.colour, linestyle=style.dash,
                marker=style.marker if focused else "", linewidth=1.3 if focused else 0.6,
                zorder=3 if focused else 1.8, clip_on=False,
            )  # fmt: skip
        ends.append(End(name, float(own["percent"].iloc[-1])))
    axes.axhline(50.0, color=REFERENCE_LINE, linewidth=0.8, zorder=1)
    axes.set_ylim(0.0, 100.0)
    first, last = float(rows["step"].min()), float(rows["step"].max())
    axes.set_xlim(first - 0.02 * (last - first or 1.0), last + 0.02 * (last - first or 1.0))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))
    axes.set_xlabel("snapshot: batches of the reference trajectory")
    label_ends(axes, ends)

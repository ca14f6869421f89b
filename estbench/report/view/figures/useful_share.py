"""How much of a training step is signal, snapshot by snapshot."""

from __future__ import annotations

import math

import pandas as pd

from estbench.report.data.comparisons import BASELINED, SNAPSHOTS, Comparisons
from estbench.report.data.trajectory import batch_size
from estbench.report.view.figures.base import Drawn
from estbench.report.view.figures.captions import described
from estbench.report.view.figures.curves import ALONG, curve_labels, curve_panel
from estbench.report.view.figures.direct import line_figure
from estbench.report.view.style import REFERENCE_LINE

__all__ = ["draw"]


def draw(comparisons: Comparisons) -> Drawn | None:
    """Draw a panel a task: the useful share of a step at every informative snapshot."""
    data = _data(comparisons)
    if data.empty:
        return None
    panels = {str(task): rows for task, rows in data.groupby("task", sort=False)}
    figure, axes = line_figure(panels, 1.6)
    for task, rows in panels.items():
        (ax,) = axes[task]
        lines = rows.assign(estimate=rows["percent"], low=math.nan, high=math.nan, seed=math.nan)
        curve_panel(ax, lines, title=task, quantity="useful share of a step, %", xlabel=ALONG)
        ax.axhline(50.0, color=REFERENCE_LINE, linewidth=0.8, zorder=1)
        ax.set_ylim(0.0, 100.0)
        curve_labels(ax, lines)
    batches = sorted({f"{batch_size(comparisons.results, task):g}" for task in panels})
    return described(
        comparisons,
        "useful_share",
        "How much of a step is signal",
        "The useful share of a step at each informative snapshot of the reference trajectory: 1 / "
        f"(1 + noise scale / batch), at the batch in use ({' or '.join(batches)}). The rest is "
        "noise. Geometric means of the noise scale over seeds, {n}; their 95 % t intervals are in "
        "the data. Above the level line less than half of a step is noise. Higher is better.",
        (
            f"{task} with {BASELINED} {own['percent'].min():.0f} to {own['percent'].max():.0f} %"
            for task, rows in panels.items()
            if len(own := rows[rows["estimator"] == BASELINED])
        ),
        data,
        figure,
        kind=SNAPSHOTS,
    )


def _data(comparisons: Comparisons) -> pd.DataFrame:
    """Return a row a task, estimator and informative snapshot."""
    rows = []
    for task in comparisons.results.tasks:
        at = comparisons.at(task)
        for name in at.names:
            for place, snapshot in enumerate(at.snapshots):
                share = comparisons.useful_share(task, snapshot, name)
                if at.informative[place] and share.known:
                    where = (task, name, snapshot, float(at.steps[place]))
                    rows.append((*where, *share.scaled(100.0).numbers))
    columns = ["task", "estimator", "snapshot", "step", "percent", "low", "high", "n"]
    return pd.DataFrame(rows, columns=columns)

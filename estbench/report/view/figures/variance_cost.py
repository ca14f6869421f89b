"""Noise of the trajectory per reward evaluation: to the partner, and to `reinforce-ema`."""

from __future__ import annotations

import pandas as pd

from estbench.report.data.comparisons import BASELINED, PLAIN, SNAPSHOTS, Comparisons
from estbench.report.data.formatting import bounded
from estbench.report.data.labels import peer, without_baseline
from estbench.report.data.ratios import Ratio
from estbench.report.view.figures.base import (
    Drawn,
    biased_text,
    few_text,
    n_text,
    order_rows,
    panel_title,
)
from estbench.report.view.figures.forest import Mark, forest_figure, forest_panel
from estbench.report.view.figures.notes import heavy_text, lost_note, no_variance_text
from estbench.report.view.figures.scales import CUT
from estbench.report.view.variance_findings import span_text
from estbench.report.view.verdicts import mark_of

__all__ = ["draw"]

COST = "evaluation"


def draw(comparisons: Comparisons) -> Drawn | None:
    """Draw a forest a task: a line for the ratio to the partner, one for that to BASELINED."""
    panels: dict[str, list[Mark]] = {}
    rows = []
    for task in comparisons.results.tasks:
        marks: list[Mark] = []
        for estimator in comparisons.measured(task):
            named = True
            for against in dict.fromkeys((peer(estimator), BASELINED)):
                ratio = comparisons.ratio(task, COST, estimator, against)
                if ratio is None:
                    continue
                marks.append(_mark(ratio, named))
                rows.append(_row(task, ratio))
                named = False
        if marks:
            panels[task] = marks
    if not panels:
        return None
    columns = ["task", "estimator", "against", "role", "cost", "estimate", "low", "high", "n"]
    columns += ["least", "most", "survives", "bound", "by_snapshot", "verdict"]
    data = pd.DataFrame(rows, columns=columns)
    figure, axes = forest_figure(
        [len(marks) for marks in panels.values()], columns=3.05, names=data["estimator"], width=6.1
    )
    for ax, (task, marks) in zip(axes, panels.items(), strict=True):
        forest_panel(
            ax,
            marks,
            heads=("ratio [95 % interval]", "to"),
            column_inches=1.66,
            xlabel="noise of the trajectory × reward evaluations, ratio (log axis)",
            reference=1.0,
            stretch=[mark.estimator for mark in marks if without_baseline(mark.estimator)],
        )
        panel_title(ax, task)
    title = "Noise of the trajectory: ratio to the partner and to reinforce-ema"
    caption = (
        "Variance of a draw times its reward evaluations in training, hard and relaxed, integrated "
        "over the batches of the reference trajectory, at equal parameters. For each estimator the "
        "ratio to its partner, the plain estimator with the same baseline, where there is one, and "
        f"to {BASELINED}. Marker and thick whisker: geometric mean over seeds, paired, and its "
        f"95 % t interval ({n_text(data)}). Thin whisker: the ratio's range without any one "
        "snapshot. "
        "Hollow marker with an arrow: heavy tails leave only a bound; where they leave nothing, "
        "nothing is drawn. Left of the line is better. A question mark stands beside a ratio whose "
        "verdict is another without one snapshot. Evaluations that tune an estimator are included, "
        f"and its share of those that a batch makes once. {_bare(data)} no baseline; a "
        f"triangle at the edge stands for a mark off the scale. {CUT}{few_text(data['n'])}"
        f"{lost_note(comparisons, SNAPSHOTS, panels, data['estimator'])}"
        f"{no_variance_text(comparisons, panels)}{heavy_text(comparisons, panels)}"
        f"{biased_text(data['estimator'])}"
    )
    said = "; ".join(
        f"{mark.estimator} on {task} {mark.texts[0]} of {mark.texts[1]}"
        for task, marks in panels.items()
        for mark in marks
    )
    return Drawn("variance_cost", title, caption, f"{title}: {said}.", data, figure, _table(data))


def _mark(ratio: Ratio, named: bool) -> Mark:
    doubt = " ?" if "rests" in mark_of(ratio) else ""
    text = bounded(ratio.estimate, ratio.bound) + doubt
    reach = (ratio.least, ratio.most)
    return Mark(ratio.estimator, ratio.estimate, (text, ratio.against), named, ratio.bound, reach)


def _bare(data: pd.DataFrame) -> str:
    """Return who has no baseline."""
    names = [name for name in order_rows(data["estimator"]) if without_baseline(name)]
    return f"{' and '.join(names) or PLAIN} {'have' if len(names) > 1 else 'has'}"


def _row(task: str, ratio: Ratio) -> tuple[object, ...]:
    own = ratio.estimate
    head = (task, ratio.estimator, ratio.against, ratio.role, COST)
    numbers = (own.value, own.low, own.high, own.n, ratio.least, ratio.most, ratio.survives)
    return (*head, *numbers, ratio.bound, span_text(ratio), mark_of(ratio))


def _table(data: pd.DataFrame) -> pd.DataFrame:
    """Return what is printed beneath the figure."""
    columns = ["task", "estimator", "against", "estimate", "low", "high", "least", "most"]
    return data[[*columns, "bound", "by_snapshot", "verdict", "n"]]

"""Variance times cost: what a reward evaluation, and what a second, buys with each estimator."""

from __future__ import annotations

import pandas as pd

from estbench.report.comparisons import BASELINED, PLAIN, SNAPSHOTS, Comparisons
from estbench.report.figures.base import (
    Drawn,
    biased_text,
    entries,
    few_text,
    n_text,
    order_rows,
    panel_title,
)
from estbench.report.figures.forest import Mark, forest_figure, forest_panel
from estbench.report.figures.notes import heavy_text, lost_note, no_variance_text
from estbench.report.figures.scales import CUT
from estbench.report.formatting import with_interval
from estbench.report.labels import without_baseline
from estbench.report.statistics import Estimate

__all__ = ["draw"]

COSTS = {"variance_per_evaluation": "evaluation", "variance_per_second": "second"}


def draw(comparisons: Comparisons) -> Drawn | None:
    """Draw ratios to the baselined REINFORCE per evaluation (filled) and per second (hollow)."""
    panels: dict[str, list[Mark]] = {}
    rows = []
    for task in comparisons.results.tasks:
        marks = []
        for estimator in comparisons.measured(task):
            if estimator == BASELINED or BASELINED not in comparisons.measured(task):
                continue
            for place, (quantity, cost) in enumerate(COSTS.items()):
                estimate = comparisons.compare(task, quantity, estimator, BASELINED)
                timed = quantity != "variance_per_second" or estimator in comparisons.timed(task)
                text = with_interval(estimate) if timed else "not timed"
                texts = (text, cost)
                marks.append(Mark(estimator, estimate, texts, place == 1, place == 0))
                rows.append(_row(task, estimator, cost, estimate))
        if marks:
            panels[task] = marks
    if not panels:
        return None
    columns = ["task", "estimator", "cost", "against", "estimate", "low", "high", "n"]
    data = pd.DataFrame(rows, columns=columns)
    figure, axes = forest_figure(
        [len(marks) for marks in panels.values()], columns=2.15, names=data["estimator"]
    )
    for ax, (task, marks) in zip(axes, panels.items(), strict=True):
        forest_panel(
            ax,
            marks,
            heads=("ratio [95 % interval]", "per"),
            column_inches=1.4,
            xlabel=f"variance × cost, ratio to {BASELINED} (log axis)",
            reference=1.0,
            stretch=[mark.estimator for mark in marks if without_baseline(mark.estimator)],
        )
        panel_title(ax, task)
    measured = data[data["cost"] == "evaluation"]
    title = f"Variance × cost: ratio to {BASELINED} at equal parameters"
    caption = (
        "What one unit of cost buys: total variance of one draw times what the draw costs, at the "
        f"shared snapshots, as a ratio to {BASELINED} (1×, the line). Upper mark of each pair, "
        "filled: per reward evaluation, hard and relaxed together. Lower mark, hollow: per second "
        "of a generator step in the serial timing pass. Geometric mean over the five snapshots "
        f"within a seed, then mean and 95 % t interval over seeds, paired ({n_text(measured)}); "
        "the interval per second adds that of the time over timing rounds (Welch-Satterthwaite). "
        "Left of the line is better. Evaluations spent on adaptation are not in it (they are in "
        f"tables/variance.csv). {_bare(data)} no baseline; an arrow stands for a mark off the "
        f"scale, whose number is printed. {CUT}{few_text(measured['n'])}"
        f"{lost_note(comparisons, SNAPSHOTS, panels, data['estimator'])}"
        f"{no_variance_text(comparisons, panels)}{heavy_text(comparisons, panels)}"
        f"{biased_text(data['estimator'])}"
    )
    said = "; ".join(
        f"{mark.estimator} on {task} per {'second' if mark.hollow else 'evaluation'} "
        f"{mark.texts[0]}"
        for task, marks in panels.items()
        for mark in marks
    )
    table = _table(data)
    return Drawn("variance_cost", title, caption, f"{title}: {said}.", data, figure, table)


def _bare(data: pd.DataFrame) -> str:
    """Return who has no baseline."""
    names = [name for name in order_rows(data["estimator"]) if without_baseline(name)]
    return f"{' and '.join(names) or PLAIN} {'have' if len(names) > 1 else 'has'}"


def _row(task: str, estimator: str, cost: str, estimate: Estimate) -> tuple[object, ...]:
    values = (estimate.value, estimate.low, estimate.high, estimate.n)
    return (task, estimator, cost, BASELINED, *values)


def _table(data: pd.DataFrame) -> pd.DataFrame:
    """Return a row a task and estimator, a column a cost."""
    rows = []
    for (task, estimator), group in data.groupby(["task", "estimator"], sort=False):
        row: dict[str, object] = {"task": task, "estimator": estimator}
        for entry in entries(group):
            estimate = Estimate(entry["estimate"], entry["low"], entry["high"], entry["n"])
            row[f"per {entry['cost']}"] = with_interval(estimate)
        rows.append(row | {"n": int(group["n"].iloc[0])})
    return pd.DataFrame(rows)

"""Noise of the trajectory at equal baseline: per reward evaluation, and per second."""

from __future__ import annotations

import math

import pandas as pd

from estbench.report.data.comparisons import BASELINED, SNAPSHOTS, Comparisons
from estbench.report.data.labels import peer
from estbench.report.data.ratios import Ratio
from estbench.report.view.figures.base import Drawn, order_rows
from estbench.report.view.figures.captions import described
from estbench.report.view.figures.forest import Forest, Mark, Row, draw_columns
from estbench.report.view.figures.rows import left_out
from estbench.report.view.verdicts import mark_of
from estbench.report.view.words import span_text, times

__all__ = ["draw"]

COLUMNS = ["task", "estimator", "against", "role", "cost", "estimate", "low", "high", "n"]
COLUMNS += ["least", "most", "survives", "bound", "by_snapshot", "verdict"]
COSTS = ("evaluation", "second")
FAR = 50.0  # as a ratio, either way; beyond it a mark is an arrow at the edge


def draw(comparisons: Comparisons) -> Drawn | None:
    """Draw a column a task: the ratio to the partner, or to BASELINED where there is none."""
    panels: dict[str, list[Row]] = {}
    rows = []
    for task in comparisons.results.tasks:
        for name in comparisons.measured(task):
            for against in dict.fromkeys((peer(name), BASELINED)):
                for cost in COSTS:
                    if ratio := comparisons.ratio(task, cost, name, against):
                        rows.append(_entry(task, cost, ratio))
            marks = _marks(comparisons, task, name)
            if marks:
                panels.setdefault(task, []).append(Row(name, marks))
    if not panels:
        return None
    data = pd.DataFrame(rows, columns=COLUMNS)
    names = order_rows(data["estimator"])
    label = "noise, ratio to the plain estimator with the same baseline (log axis)"
    far = [r.estimator for own in panels.values() for r in own if _is_far(r)]
    figure = draw_columns(Forest(panels, label, reference=1.0, stretch=far), names)
    return described(
        comparisons,
        "variance_cost",
        "Noise at equal baseline, per reward evaluation and per second",
        "Noise of the reference trajectory, as a ratio to the partner (the plain estimator with "
        f"the same baseline), or to {BASELINED} where there is none. Left of the line is better. "
        "Full marks: per reward evaluation, those that tune the estimator included. Small open "
        "circles: per second of a generator step. Thick whisker: 95 % t interval over seeds "
        "({n}), paired; thin whisker: the range of the ratio without any one snapshot. Hollow with "
        "an arrow: heavy tails leave only a bound. A triangle, or a whisker at the edge of a "
        "panel, goes on beyond it.",
        (
            f"{ratio.estimator} on {task} {times(ratio.estimate, ratio.bound)} that of "
            f"{ratio.against}"
            for task in panels
            for ratio in comparisons.ratios(task, "evaluation").values()
            if ratio.estimate.known and ratio.against in (peer(ratio.estimator) or BASELINED)
        ),
        data,
        figure,
        data.drop(columns="role"),
        lead="Per reward evaluation: ",
        kind=SNAPSHOTS,
        counts=data[data["cost"] == "evaluation"],
        left_out=left_out(figure, names),
        tailed=True,
    )


def _marks(comparisons: Comparisons, task: str, name: str) -> tuple[Mark, ...]:
    """Return the marks of a row, the one per second beneath."""
    against = peer(name) if comparisons.ratio(task, "evaluation", name, peer(name)) else BASELINED
    ratio, timed = (comparisons.ratio(task, cost, name, against) for cost in COSTS)
    marks = []
    if timed is not None and not timed.bound:
        marks.append(Mark(timed.estimate, marker="o", filled=False, size=3.2, offset=0.26))
    if ratio is not None:
        reach = (ratio.least, ratio.most)
        marks.append(Mark(ratio.estimate, ratio.bound, reach, size=4.2, offset=-0.08))
    return tuple(marks)


def _is_far(row: Row) -> bool:
    values = [mark.shown.value for mark in row.marks if mark.shown.known]
    return any(abs(math.log(value)) > math.log(FAR) for value in values)


def _entry(task: str, cost: str, ratio: Ratio) -> tuple[object, ...]:
    head = (task, ratio.estimator, ratio.against, ratio.role, cost, *ratio.estimate.numbers)
    guard = (ratio.least, ratio.most, ratio.survives, ratio.bound)
    return (*head, *guard, span_text(ratio), mark_of(ratio))

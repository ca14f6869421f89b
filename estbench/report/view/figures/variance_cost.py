"""Noise of the trajectory at equal baseline: per reward evaluation, and per second."""

from __future__ import annotations

import math

import pandas as pd

from estbench.report.data.comparisons import BASELINED, SNAPSHOTS, Comparisons
from estbench.report.data.labels import peer
from estbench.report.data.ratios import Ratio
from estbench.report.view.figures.base import Drawn, biased_text, few_text, n_text, order_rows
from estbench.report.view.figures.forest import Forest, Mark, Row, draw_columns
from estbench.report.view.figures.notes import heavy_text, lost_note, no_variance_text
from estbench.report.view.figures.rows import cut_text
from estbench.report.view.figures.scales import CUT
from estbench.report.view.ratio_words import span_text
from estbench.report.view.verdicts import mark_of
from estbench.report.view.words import times

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
    far = [r.estimator for own in panels.values() for r in own if _is_far(r)]
    forest = Forest(
        panels,
        "noise, ratio to the plain estimator with the same baseline (log axis)",
        reference=1.0,
        stretch=far,
    )
    figure = draw_columns(forest, names)
    shown = len({t.get_text() for ax in figure.axes for t in ax.get_yticklabels()})
    title = "Noise at equal baseline, per reward evaluation and per second"
    counts = data[data["cost"] == "evaluation"]
    caption = (
        "Variance of a draw times its cost, integrated over the batches of the reference "
        "trajectory. Full marks: per reward evaluation in training, hard and relaxed. Small open "
        "circles: per second of a generator step. The ratio is to the estimator's partner, the "
        f"plain one with the same baseline, or to {BASELINED} where there is none. Left of the "
        "line is better. Thick whisker: the geometric mean over seeds, paired, with its 95 % t "
        f"interval ({n_text(counts)}). Thin whisker: the range of the ratio without any one "
        "snapshot. Hollow with an arrow: heavy tails leave only a bound. A triangle at the edge: "
        "the mark is off the scale. Evaluations that tune an estimator are included. "
        f"{CUT}{cut_text(shown, len(names))}{few_text(counts['n'])}"
        f"{lost_note(comparisons, SNAPSHOTS, panels, names)}"
        f"{no_variance_text(comparisons, panels)}{heavy_text(comparisons, panels)}"
        f"{biased_text(names)}"
    )
    said = "; ".join(
        f"{ratio.estimator} on {task} {times(ratio.estimate, ratio.bound)} that of {ratio.against}"
        for task in panels
        for ratio in comparisons.ratios(task, "evaluation").values()
        if ratio.estimate.known and ratio.against in (peer(ratio.estimator) or BASELINED)
    )
    alt = f"{title}. Per reward evaluation: {said}."
    table = data[[c for c in COLUMNS if c != "role"]]
    return Drawn("variance_cost", title, caption, alt, data, figure, table)


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
    own = ratio.estimate
    head = (task, ratio.estimator, ratio.against, ratio.role, cost)
    numbers = (own.value, own.low, own.high, own.n, ratio.least, ratio.most, ratio.survives)
    return (*head, *numbers, ratio.bound, span_text(ratio), mark_of(ratio))

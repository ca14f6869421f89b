"""The first figure: noise per reward evaluation of the estimators that matter most, at a glance."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from estbench.report.data.comparisons import BASELINED, PLAIN, SNAPSHOTS, Comparisons
from estbench.report.data.formatting import NO_STATEMENT
from estbench.report.data.labels import estimator_facts, peer, without_baseline
from estbench.report.data.memory import once
from estbench.report.data.statistics import Estimate
from estbench.report.view.figures.base import Drawn
from estbench.report.view.figures.captions import described
from estbench.report.view.figures.forest import Forest, Mark, Row, draw_stacked
from estbench.report.view.verdicts import useful_shares
from estbench.report.view.words import interval_words, times

__all__ = ["draw", "shown_estimators"]

COST = "evaluation"
LINES = 24  # of the whole figure
MOST, LEAST = 12, 4  # of a panel
FAMILIAR = ("rebar", "relax", "rloo", PLAIN)  # what a reader looks for, if there is room


def draw(comparisons: Comparisons) -> Drawn | None:
    """Draw a panel a task: groups with the same baseline, sorted by value."""
    panels = _panels(comparisons)
    if not panels:
        return None
    every = [(task, row) for task, rows in panels.items() for row in rows]
    names = [row.estimator for _, row in every]
    forest = Forest(
        panels,
        "noise per reward evaluation, ratio to reinforce-ema (log axis)",
        reference=1.0,
        stretch=[name for name in names if without_baseline(name)],
        heads=("ratio (95 % interval)", "useful share"),
    )
    said = [f"{row.estimator} on {task} {row.text or 'reference'}" for task, row in every]
    measured = {name for task in panels for name in comparisons.measured(task)}
    if more := len(measured - set(names)):
        said.append(f"and {more} more")
    return described(
        comparisons,
        "teaser",
        "Noise per reward evaluation at equal parameters",
        "Variance of the gradient times reward evaluations, over the reference trajectory, as a "
        f"ratio to {BASELINED}; left of the line is less noisy. Estimators with the same baseline "
        "are together: the plain one first, in bold, then its control variates. Whiskers: 95 % t "
        "intervals over seeds ({n}). Hollow with an arrow: heavy tails leave only a bound. A "
        "question mark: the verdict is another without one snapshot. Bar: the useful share of a "
        "step at the batch in use, the mean over informative snapshots.",
        said,
        pd.DataFrame([_entry(task, row) for task, row in every]),
        draw_stacked(forest, width=5.3),
        kind=SNAPSHOTS,
    )


def shown_estimators(comparisons: Comparisons) -> set[str]:
    """Return the estimators that the figure shows on any task."""
    return {row.estimator for rows in _panels(comparisons).values() for row in rows}


@once
def _panels(comparisons: Comparisons) -> dict[str, list[Row]]:
    """Return the rows of every task that has the reference."""
    tasks = [t for t in comparisons.results.tasks if BASELINED in comparisons.measured(t)]
    most = max(LEAST, min(MOST, LINES // max(len(tasks), 1)))
    return {task: _rows(comparisons, task, most) for task in tasks}


def _rows(comparisons: Comparisons, task: str, most: int) -> list[Row]:
    """Return the rows of a panel: groups of one baseline, the group with the least noise first."""
    names = _chosen(comparisons, task, most)
    groups: dict[str, list[str]] = {}
    for name in names:
        partner = peer(name)
        groups.setdefault(partner if partner in names else name, []).append(name)

    def value(name: str) -> float:
        return _value(comparisons, task, name)

    rows = []
    for head, members in sorted(groups.items(), key=lambda g: min(map(value, g[1]))):
        inner = sorted((name for name in members if name != head), key=value)
        rows += [_row(comparisons, task, name, name == head) for name in (head, *inner)]
    return rows


def _chosen(comparisons: Comparisons, task: str, most: int) -> list[str]:
    """Return at most `most` estimators: the reference, the least noisy, and the familiar ones.

    With an estimator comes its partner, if there is room for both. What is not ranked is shown only
    where there is room for all.
    """
    there = comparisons.measured(task)
    known = [n for n in there if math.isfinite(_value(comparisons, task, n))]
    if len(known) <= most:
        return known
    ranked = [n for n in known if estimator_facts(n).ranked]
    best = sorted(ranked, key=lambda n: _value(comparisons, task, n))
    wanted = [BASELINED, *best[: most // 3], *FAMILIAR, *best]
    chosen: list[str] = []
    for name in wanted:
        pair = [n for n in (peer(name), name) if n in known and n not in chosen]
        if name in known and len(chosen) + len(pair) <= most:
            chosen += pair
    return chosen


def _value(comparisons: Comparisons, task: str, name: str) -> float:
    if name == BASELINED:
        return 1.0
    ratio = comparisons.ratio(task, COST, name, BASELINED)
    return math.nan if ratio is None else ratio.estimate.value


def _row(comparisons: Comparisons, task: str, name: str, head: bool) -> Row:
    known = useful_shares(comparisons, task, name)
    share = sum(known) / len(known) if known else math.nan
    if name == BASELINED:
        one = Estimate(1.0, n=comparisons.noise(task, name).n)
        return Row(name, (Mark(one),), "1, the reference", head, share)
    ratio = comparisons.ratio(task, COST, name, BASELINED)
    assert ratio is not None
    doubt = " ?" if ratio.verdict and not ratio.survives else ""
    text = times(ratio.estimate, ratio.bound).removesuffix(" times")
    if not ratio.bound:
        text = interval_words(ratio.estimate)
    text = text + (doubt if text != NO_STATEMENT else "")
    return Row(name, (Mark(ratio.estimate, ratio.bound),), text, head, share)


def _entry(task: str, row: Row) -> dict[str, Any]:
    own = row.marks[0].estimate
    head = {"task": task, "estimator": row.estimator, "partner": peer(row.estimator)}
    numbers = dict(zip(("estimate", "low", "high", "n"), own.numbers, strict=True))
    return head | numbers | {"bound": row.marks[0].bound, "useful_share": row.share}

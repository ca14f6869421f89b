"""Which lines are in colour where there are too many to tell apart; the others recede to grey.

A figure of at most `MANY` estimators shows all alike. In a fuller one the eye can follow only a
few lines: the references, and the best by each measure. The rest are thin and grey,
without a label. The choice is made once for a result set, so that a
colour means the same in all its figures.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace

from estbench.report.data.comparisons import BASELINED, PLAIN, Comparisons
from estbench.report.data.formatting import clean
from estbench.report.data.labels import estimator_facts
from estbench.report.data.order import estimator_order
from estbench.report.view.style import CONTEXT, Look, look

__all__ = ["MANY", "context", "focus_text", "focusing", "in_focus", "shown"]

MANY = 12
FOCUSED = 8

_focus: ContextVar[frozenset[str] | None] = ContextVar("focus", default=None)


@contextmanager
def focusing(comparisons: Comparisons) -> Iterator[None]:
    """Draw with the focus that suits a result set."""
    token = _focus.set(_chosen(comparisons))
    try:
        yield
    finally:
        _focus.reset(token)


def in_focus(estimator: str, among: Collection[str]) -> bool:
    """Whether an estimator is drawn in full in a figure of the estimators `among`."""
    focus = _focus.get()
    return focus is None or len(set(among)) <= MANY or estimator in focus


def context(names: Collection[str]) -> list[str]:
    """Return the estimators that recede in a figure of `names`."""
    return [name for name in sorted(set(names), key=estimator_order) if not in_focus(name, names)]


def shown(estimator: str, among: Collection[str]) -> Look:
    """Return how an estimator is drawn in a figure of the estimators `among`."""
    own = look(estimator)
    return own if in_focus(estimator, among) else replace(own, colour=CONTEXT, dark=CONTEXT)


def focus_text(names: Iterable[str]) -> str:
    """Return which estimators are in colour and why, for a caption; nothing where all are."""
    every = set(names)
    grey = context(every)
    if not grey:
        return ""
    coloured = sorted(every - set(grey), key=estimator_order)
    return (
        f" Of {len(every)} estimators {', '.join(clean(name, 40) for name in coloured)} are in "
        "colour: the references, and the best of each measure. The other "
        f"{len(grey)} are thin and grey, with neither seeds nor intervals; those are in the "
        "figure's data."
    )


def _chosen(comparisons: Comparisons) -> frozenset[str] | None:
    """Return the estimators in focus, or None where there are few enough for all."""
    results = comparisons.results
    every = {*results.runs["estimator"], *results.measured["estimator"]}
    if len(every) <= MANY:
        return None
    chosen = [name for name in (PLAIN, BASELINED) if name in every]
    costs = ("variance_per_evaluation", "variance_per_second", "variance_per_sequence")
    firsts = [
        _ranking(comparisons, task, quantity)
        for quantity in (*costs, "quality")
        for task in results.tasks
    ]
    # The best of every measure, then the second of every measure, as far as there is room.
    for place in range(max((len(names) for names in firsts), default=0)):
        for names in firsts:
            if place < len(names) and names[place] not in chosen and len(chosen) < FOCUSED:
                chosen.append(names[place])
    return frozenset(chosen)


def _ranking(comparisons: Comparisons, task: str, quantity: str) -> list[str]:
    """Return the ranked estimators of a task, the best by a quantity first."""
    if quantity == "quality":
        metric = comparisons.primary(task)
        if metric is None or metric.better == "neither":
            return []
        sign = -1.0 if metric.better == "higher" else 1.0
        names = comparisons.trained(task)
        values = {n: sign * comparisons.final(task, n, metric.name).value for n in names}
    else:
        names = comparisons.measured(task)
        values = {
            n: 1.0 if n == BASELINED else comparisons.compare(task, quantity, n, BASELINED).value
            for n in names
        }
    known = [n for n in names if estimator_facts(n).ranked and math.isfinite(values[n])]
    return sorted(known, key=lambda name: values[name])

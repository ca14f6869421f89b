"""What captions say of the records behind a figure: what failed, what is missing, heavy tails."""

from __future__ import annotations

from collections.abc import Iterable

from estbench.report.data.comparisons import Comparisons
from estbench.report.data.formatting import clean
from estbench.report.data.marks import lost_text
from estbench.report.data.tails import tails
from estbench.report.view.figures.base import order_rows

__all__ = ["heavy_text", "lost_note", "no_variance_text"]

NAMED = 6


def lost_note(
    comparisons: Comparisons, kind: str, tasks: Iterable[str], names: Iterable[str]
) -> str:
    """Return which of the records that a figure should show failed or are missing, or nothing.

    Args:
      kind: TRAINING or SNAPSHOTS of `estbench.report.data.comparisons`.
    """
    every = order_rows(names)
    said = [
        f"{clean(name, 40)} on {clean(task, 40)}: {text}"
        for task in dict.fromkeys(tasks)
        for name in every
        if (text := lost_text(comparisons, kind, task, name))
    ]
    if not said:
        return ""
    what = "runs" if kind == "training" else "measurements"
    return f" Not in it, as {what} failed or are missing: {_some(said)}."


def heavy_text(comparisons: Comparisons, tasks: Iterable[str]) -> str:
    """Return which estimators' measurements have heavy tails, or nothing."""
    chosen = set(tasks)
    said = [
        f"{clean(tail.estimator, 40)} on {clean(tail.task, 40)}"
        for tail in tails(comparisons)
        if tail.task in chosen
    ]
    if not said:
        return ""
    return (
        " Heavy tails (few draws make most of the variance, so that it rather reads low; see the "
        f"notes of the page): {_some(said)}."
    )


def no_variance_text(comparisons: Comparisons, tasks: Iterable[str]) -> str:
    """Return which estimators have no variance, and so no logarithm of it, or nothing."""
    chosen = set(tasks)
    measured = comparisons.results.measured
    still = measured[(measured["total_variance"] == 0) & measured["task"].isin(chosen)]
    pairs = dict.fromkeys(still[["task", "estimator"]].itertuples(index=False, name=None))
    said = [f"{clean(name, 40)} on {clean(task, 40)}" for task, name in pairs]
    if not said:
        return ""
    return f" Variance 0, which has no logarithm and is not drawn: {_some(said)}."


def _some(said: list[str]) -> str:
    more = len(said) - NAMED
    return "; ".join(said[:NAMED]) + (f"; and {more} others" if more > 0 else "")

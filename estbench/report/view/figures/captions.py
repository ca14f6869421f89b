"""Captions: what a figure shows, then what limits it (few seeds, failures, heavy tails, marks)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd
from matplotlib.figure import Figure

from estbench.report.data.comparisons import TRAINING, Comparisons
from estbench.report.data.formatting import clean
from estbench.report.data.labels import estimator_facts, unproven_text
from estbench.report.data.marks import lost_text
from estbench.report.data.statistics import ENOUGH_SEEDS
from estbench.report.data.tails import tails
from estbench.report.view.figures.base import Drawn, entries, order_rows
from estbench.report.view.figures.emphasis import focus_text

__all__ = ["described", "lost_note", "n_text"]

NAMED = 6


def described(
    comparisons: Comparisons,
    name: str,
    title: str,
    caption: str,
    said: Iterable[str],
    data: pd.DataFrame,
    figure: Figure,
    table: pd.DataFrame | None = None,
    *,
    lead: str = "",
    kind: str = "",
    counts: pd.DataFrame | None = None,
    unit: str = "seeds",
    left_out: int = 0,
    tailed: bool = False,
) -> Drawn:
    """Return a figure with its alternative text, and its caption with all that limits it.

    Args:
      caption: What the figure shows; {n} in it becomes the number of replicates.
      said: The alternative text, a part a mark; `lead` opens it.
      data: With columns task and estimator, and n unless `counts` is given.
      kind: Whose failures are named: TRAINING or SNAPSHOTS, or "" for none.
      counts: Rows of task, estimator and n, the replicates behind the marks.
      unit: What n counts.
      left_out: Estimators for which the figure has no room.
      tailed: Whether heavy tails and a variance of 0 are named.
    """
    counts = data if counts is None else counts
    counts = counts.groupby(["task", "estimator"], sort=False)["n"].min().reset_index()
    tasks, names = list(dict.fromkeys(data["task"])), order_rows(data["estimator"])
    parts = [caption.replace("{n}", n_text(counts, unit))]
    if left_out:
        parts.append(f"{left_out} of {len(names)} estimators are left out; the table has them all.")
    parts += [few_text(counts["n"], unit), lost_note(comparisons, kind, tasks, names)]
    if tailed:
        parts += [no_variance_text(comparisons, tasks), heavy_text(comparisons, tasks)]
    parts += [focus_text(names), marks_text(names)]
    alt = f"{title}. {lead}{'; '.join(said) or 'none'}."
    return Drawn(name, title, " ".join(filter(None, parts)), alt, data, figure, table)


def n_text(counts: pd.DataFrame, unit: str = "seeds") -> str:
    """Return "n = 10 seeds", with every exception named.

    Args:
      counts: Columns task, estimator, n: the replicates behind each line.
    """
    if counts.empty:
        return "no replicates"
    usual = int(counts["n"].mode().max())
    text = f"n = {usual} {unit if usual != 1 else unit.removesuffix('s')}"
    others = counts[counts["n"] != usual].sort_values("n", kind="stable")
    others = others.drop_duplicates(["task", "estimator"])
    named = [f"{row['estimator']} on {row['task']}: {row['n']}" for row in entries(others)]
    return f"{text} ({_some(named)})" if named else text


def few_text(counts: Iterable[int], unit: str) -> str:
    """Return a warning where any mark has fewer than eight seeds or rounds, else nothing."""
    fewest = min(counts, default=ENOUGH_SEEDS)
    if fewest >= ENOUGH_SEEDS:
        return ""
    if fewest < 2:
        return f"With one {unit.removesuffix('s')} there is no interval."
    return f"Fewer than {ENOUGH_SEEDS} {unit}: the intervals assume normality."


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
    what = "Runs" if kind == TRAINING else "Measurements"
    return f"{what} that are not in it: {_some(said)}." if said else ""


def heavy_text(comparisons: Comparisons, tasks: Sequence[str]) -> str:
    """Return which estimators' measurements have heavy tails, or nothing."""
    said = [
        f"{clean(tail.estimator, 40)} on {clean(tail.task, 40)}"
        for tail in tails(comparisons)
        if tail.task in tasks
    ]
    reads = "a few draws make most of the variance, which then tends to read too low"
    return f"Heavy tails ({reads}): {_some(said)}." if said else ""


def no_variance_text(comparisons: Comparisons, tasks: Sequence[str]) -> str:
    """Return which estimators have no variance, and so no logarithm of it, or nothing."""
    measured = comparisons.results.measured
    still = measured[(measured["total_variance"] == 0) & measured["task"].isin(tasks)]
    pairs = dict.fromkeys(still[["task", "estimator"]].itertuples(index=False, name=None))
    said = [f"{clean(name, 40)} on {clean(task, 40)}" for task, name in pairs]
    return f"Variance 0, so no logarithm and no mark: {_some(said)}." if said else ""


def marks_text(names: Iterable[str]) -> str:
    """Return what the marks beside the names of a figure mean, or nothing."""
    facts = {name: estimator_facts(name) for name in names}
    biased = [f"{n} ({f.why_biased or 'declared so'})" for n, f in facts.items() if f.mark == "†"]
    doubtful = [f"{n} ({unproven_text(f)})" for n, f in facts.items() if f.mark == "‡"]
    said = [f"† biased by design, so not ranked: {'; '.join(biased)}."] if biased else []
    return " ".join([*said, *([f"‡ not ranked: {'; '.join(doubtful)}."] if doubtful else [])])


def _some(said: list[str]) -> str:
    more = len(said) - NAMED
    return "; ".join(said[:NAMED]) + (f"; and {more} others" if more > 0 else "")

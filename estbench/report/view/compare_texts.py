"""The words of a comparison, which the terminal and the Markdown summary share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import pandas as pd

from estbench.report.between.contents import ranges
from estbench.report.between.settings import Difference
from estbench.report.data.comparisons import ALPHA
from estbench.report.data.formatting import clean, p_text, quantity, seconds
from estbench.report.data.labels import metric
from estbench.report.data.statistics import ENOUGH_SEEDS, Estimate
from estbench.report.view.words import count, interval_words, times

if TYPE_CHECKING:
    from estbench.report.between import Between

__all__ = [
    "SAID",
    "cells",
    "grouped",
    "heading",
    "heads",
    "method",
    "notes",
    "sentences",
    "setting_rows",
    "shown",
    "summary",
]

MARKS = {"better": "▼", "worse": "▲", "equal": "=", "not comparable": "✕", "differs": "≠"}
SAID = ("worse", "better", "differs", "not comparable")  # what is never left out
ORDER = (*SAID, "within tolerance", "cannot tell", "equal", "not judged")
TITLES = {
    "variance_per_sequence": "Noise of the reference trajectory: gradient variance per sequence",
    "seconds_per_step": "Time of a generator step",
    "peak_mb": "Peak memory of the worker process (MiB)",
}


def heading(found: Between) -> list[tuple[str, str, str]]:
    """Return (A or B, its folder, what it is) for each set."""
    rows = []
    for side in (found.a, found.b):
        version = side.environment.get("git") or {}
        commit = clean(str(version.get("commit") or "")[:12]) + "+" * bool(version.get("changed"))
        known = clean(side.environment.get("estbench") or "", 40)
        what = [f"estbench {known}"] if known else []
        what += [f"commit {commit}"] if commit else []
        runs = side.results.runs
        trained = int((runs["status"] == "ok").sum())
        what.append(f"{trained} training runs, {len(side.results.measured)} measured snapshots")
        rows.append((side.name, str(side.path), ", ".join(what)))
    return rows


def summary(found: Between) -> str:
    """Return the whole comparison in a sentence."""
    if found.identical:
        same = "times too" if _same_times(found) else "times and memory aside"
        return f"Identical: all {found.records} records are equal to the bit ({same})."
    counts = found.counts
    words = {
        "differs": "differ",
        "cannot tell": "without a difference that was found",
        "equal": "equal to the bit",
        "within tolerance": f"within the tolerance of {_percent(found.margin)}",
    }
    parts = [f"{counts[v]} {words.get(v, v)}" for v in ORDER if v in counts]
    lost = sum(change.worse for change in (*found.failures, *found.proofs))
    text = f"B against A: {', '.join(parts)}"
    return text + (f"; {lost} runs or proofs were lost." if lost else ".")


def sentences(found: Between, most: int = 3) -> list[str]:
    """Return what is worse and what is better in B, the clearest first, in plain sentences."""
    rows = found.frame[found.frame["verdict"].isin(["worse", "better"])]
    order = rows.assign(rank=rows["verdict"].ne("worse")).sort_values(["rank", "p_holm"])
    said = [_sentence(row) for _, row in order.head(most).iterrows()]
    more = len(rows) - len(said)
    return said + ([f"{count(more, 'other difference')} likewise; see the tables."] if more else [])


def _sentence(row: pd.Series[Any]) -> str:
    """Return "Per sequence, rebar is noisier in B than in A on expressions-3: 1.6 times (...)."."""
    name, task = clean(str(row["estimator"]), 60), clean(str(row["task"]), 60)
    size = Estimate(row["estimate"], row["low"], row["high"])
    if row["kind"] == "ratio":
        rises = row["estimate"] > 1.0
        words = {
            "variance_per_sequence": ("Per sequence, {} is", "noisier", "less noisy"),
            "seconds_per_step": ("A step of {} is", "slower", "faster"),
            "peak_mb": ("The memory of {} is", "larger", "smaller"),
        }[row["quantity"]]
        head = words[0].format(name)
        side = words[1] if rises else words[2]
        return f"{head} {side} in B than in A on {task}: {times(size, str(row['bound']))}."
    known = metric(task, str(row["quantity"]))
    near, far = sorted((abs(row["low"]), abs(row["high"])))
    side = "higher" if row["estimate"] > 0 else "lower"
    gap = interval_words(Estimate(abs(row["estimate"]), near, far))
    return f"The {known.label} of {name} is {side} in B than in A on {task}: by {gap}."


def _same_times(found: Between) -> bool:
    own = found.frame[found.frame["family"].isin(["time", "memory"])]
    return len(own) > 0 and bool((own["verdict"] == "equal").all())


def notes(found: Between) -> Iterator[str]:
    """Yield what has to be known to read the numbers."""
    if not found.identical and found.records:
        part = "all" if found.equal == found.records else f"{found.equal} of"
        yield f"Of the records that both hold, {part} {found.records} are equal to the bit."
    for task, (same, seeds) in found.snapshots.items():
        if same < seeds:
            yield (
                f"{clean(task, 60)}: the reference trajectories differ in {seeds - same} of "
                f"{seeds} seeds, so that variances are compared at other parameters of the same "
                "kind."
            )
    for side in (found.a, found.b):
        if kinds := side.results.from_tables:
            yield f"{side.name} has no records in {', '.join(kinds)}: its tables were read."
    machine = found.frame["family"].isin(["time", "memory"])
    if not found.judged and machine.any():
        yield (
            "Made on different machines: time and memory are shown and not judged; "
            f"--margin {found.margin:g} judges them all the same."
        )
    known = found.frame["verdict"].isin(["equal", "not comparable"])
    paired = found.frame.loc[~machine & ~known, "pairs"]
    if len(paired) and int(paired.min()) < ENOUGH_SEEDS:
        yield (
            f"Only {int(paired.min())} seeds in common in places: below {ENOUGH_SEEDS} the "
            "intervals lean on normality, and “cannot tell” says little."
        )


def method(found: Between) -> str:
    """Return how the numbers were made, in small print."""
    return (
        "Ratios are B over A, differences B − A, paired by seed; 95 % t intervals, of time and "
        "memory Welch's. Holm: p-values corrected over all tasks and estimators of variance, of "
        "quality (all final metrics together), of time and of memory. Better or worse: corrected "
        f"p < {ALPHA:g}. Time and memory count beyond a tolerance of {_percent(found.margin)} only."
    )


def grouped(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield (title, rows) by quantity, in the order of the frame."""
    for name in dict.fromkeys(frame["quantity"]):
        own = frame[frame["quantity"] == name]
        if name in TITLES:
            yield TITLES[name], own
            continue
        known = metric(str(own["task"].iloc[0]), name)
        better = "" if known.better == "neither" else f"; {known.better} is better"
        unit = f" ({known.unit})" if known.unit else ""
        yield f"{known.label}{unit}{better}", own


def shown(found: Between) -> tuple[pd.DataFrame, int]:
    """Return the rows to print, and how many are left out.

    Final metrics beside a task's first are many: of them only what differs is printed.
    """
    frame = found.frame
    final = frame["family"].isin(["quality", "description"])
    primary = {
        task: m.name for task in set(frame["task"]) if (m := found.a.comparisons.primary(task))
    }
    first = frame["quantity"] == frame["task"].map(primary)
    says = frame["verdict"].isin(SAID[:3])
    kept = ~final | first | says
    # Memory is the worker's, not the run's: worth a line where something is to be said.
    kept &= (frame["family"] != "memory") | says
    return frame[kept], int((~kept).sum())


def heads(rows: pd.DataFrame) -> list[str]:
    """Return what the columns of `cells` are called, for the rows of one quantity."""
    change = "B/A" if rows["kind"].iloc[0] == "ratio" else "B − A"
    return ["A", "B", change, "95 %", "Holm", "verdict"]


def cells(row: pd.Series[Any]) -> tuple[str, ...]:
    """Return a row of the table, as `heads` names its columns."""
    ratio = row["kind"] == "ratio"

    def change(value: float) -> str:
        if not math.isfinite(value):
            return "–"
        sign = "" if ratio or value <= 0 else "+"
        return f"{sign}{quantity(value)}{'×' if ratio else ''}"

    limits = [change(row[end]).removesuffix("×") for end in ("low", "high")]
    known = math.isfinite(row["low"]) and math.isfinite(row["high"])
    p_holm = row["p_holm"]
    write = seconds if row["family"] == "time" else quantity
    return (
        write(row["a"]),
        write(row["b"]),
        change(row["estimate"]),
        "…".join(limits) if known and row["verdict"] != "equal" else "",
        p_text(p_holm).removeprefix("p ").removeprefix("= ") if math.isfinite(p_holm) else "",
        f"{MARKS.get(row['verdict'], '')} {row['verdict']}".strip(),
    )


def setting_rows(differences: Iterable[Difference]) -> list[tuple[str, str, str, str]]:
    """Return (name, A, B, what it keeps from being compared)."""

    def value(name: str, given: Any) -> str:
        if name == "seeds":
            return ranges(given)
        if given is None:
            return "–"
        return clean(", ".join(map(str, given)) if isinstance(given, list) else given, 200)

    rows = []
    for d in differences:
        matters = "everything" if len(d.matters) == 5 else ", ".join(d.matters)
        rows.append((clean(d.name, 80), value(d.name, d.a), value(d.name, d.b), matters))
    return rows


def _percent(margin: float) -> str:
    return f"{100 * (margin - 1):.3g} %"

"""The table of the first screen: a row a task, with what the tests found there."""

from __future__ import annotations

from dataclasses import dataclass

from estbench.report.data.comparisons import BASELINED, PLAIN, Comparisons
from estbench.report.data.formatting import clean
from estbench.report.data.labels import estimator_facts
from estbench.report.data.learning import level
from estbench.report.view.answers import Said, ending_better, firm, noise_shares
from estbench.report.view.notes import (
    BOUNDS,
    GUARD,
    record_notes,
    seed_count,
    seeds_note,
    task_notes,
)
from estbench.report.view.words import BASELINED_WORDS, about, count, percent_words, times

__all__ = ["Overview", "overview"]

HEADS = ("task", "noise in a step", "least noise per evaluation", "per second", "after training")
NONE = "no difference found"


@dataclass(frozen=True)
class Overview:
    """The table.

    Attributes:
      caption: What its numbers are.
      heads: Of the columns.
      rows: A task each: a cell for each of `heads`, the first being its name.
    """

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[Said, ...], ...]


def overview(comparisons: Comparisons) -> Overview:
    """Return the table; a column that is empty for every task is left out."""
    rows = [_row(comparisons, task) for task in comparisons.results.tasks]
    kept = [i for i in range(len(HEADS)) if any(row[i].text != "–" for row in rows)]
    return Overview(
        f"From {count(seed_count(comparisons), 'seed')}. Noise is relative to {BASELINED_WORDS} "
        f"({BASELINED}), with 95 % intervals.",
        tuple(HEADS[i] for i in kept),
        tuple(tuple(row[i] for i in kept) for row in rows),
    )


def _row(comparisons: Comparisons, task: str) -> list[Said]:
    few = tuple(note for note in (seeds_note(comparisons),) if note)
    return [
        Said(clean(task, 60), few),
        _noise(comparisons, task),
        _least(comparisons, task, "evaluation"),
        _least(comparisons, task, "second"),
        _trained(comparisons, task),
    ]


def _noise(comparisons: Comparisons, task: str) -> Said:
    shares = noise_shares(comparisons, task, BASELINED)
    if not shares:
        return Said("–")
    low, high = percent_words(min(shares)), percent_words(max(shares))
    text = high if low == high else f"{low.removesuffix(' %')} to {high}"
    return Said(text.replace(" %", "\u00a0%"), tuple(task_notes(comparisons, task)[:1]))


def _least(comparisons: Comparisons, task: str, cost: str) -> Said:
    """Return who is the least noisy by a verdict that no omission turns over."""
    ratios = comparisons.ratios(task, cost).values()
    if not any(ratio.verdict for ratio in ratios if ratio.against == BASELINED):
        return Said("–")
    lower = firm(comparisons, task, cost)
    if not lower:
        return Said("none found", (GUARD,))
    best = min(lower, key=lambda ratio: ratio.estimate.value)
    text = times(best.estimate, best.bound).replace(" times", "×")
    return Said(f"{clean(best.estimator, 60)}: {text}", (BOUNDS,) if best.bound else ())


def _trained(comparisons: Comparisons, task: str) -> Said:
    """Return who ends best, or that no difference from the plain estimator was found."""
    goal, names = level(comparisons, task), comparisons.trained(task)
    if goal is None or len(names) < 2:
        return Said("–")
    sign = 1.0 if goal.metric.better == "higher" else -1.0
    finals = {n: comparisons.final(task, n, goal.metric.name) for n in names}
    better = [
        name
        for name in ending_better(comparisons, task)
        if finals[name].known and estimator_facts(name).ranked
    ]
    best = max(better, key=lambda n: sign * finals[n].value, default=goal.of)
    score = f"{goal.metric.label} {about(finals[best].value, 3)}"
    against = "" if goal.of == PLAIN else f" from {goal.of}"
    text = f"{clean(best, 60)}: {score}" if better else f"{NONE}{against} ({score})"
    return Said(text, tuple(record_notes(comparisons)))

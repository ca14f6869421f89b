"""The first things to read: a verdict a task and estimator, and what limits all that follows."""

from __future__ import annotations

from dataclasses import dataclass

from estbench.report.comparisons import BASELINED, SNAPSHOTS, Comparisons
from estbench.report.formatting import with_interval
from estbench.report.labels import estimator_facts, unproven_text
from estbench.report.marks import lost_text
from estbench.report.statistics import ENOUGH_SEEDS, Estimate
from estbench.report.tails import tails_text

__all__ = ["Verdict", "caveats", "verdicts"]

EVALUATION = "variance_per_evaluation"


@dataclass(frozen=True)
class Verdict:
    """A cell of the first table: one estimator on one task, against the baselined REINFORCE.

    Attributes:
      text: The ratio per reward evaluation with its interval, and in brackets n where it is small
        and what failed.
      mark: "lower", "higher", "cannot tell", "biased" or "not proven" (so not ranked), or "" where
        there is nothing to compare.
    """

    text: str
    mark: str


def verdicts(comparisons: Comparisons) -> dict[str, dict[str, Verdict]]:
    """Return estimator -> task -> verdict, on variance per reward evaluation."""
    results = comparisons.results
    table: dict[str, dict[str, Verdict]] = {}
    for estimator in results.estimators(results.measured):
        for task in results.tasks:
            estimate = comparisons.compare(task, EVALUATION, estimator, BASELINED)
            if estimator == BASELINED and comparisons.log_variance(task, estimator).known:
                cell = Verdict("1×", "")
            elif not estimate.known:
                cell = Verdict("–", "")
            else:
                text = f"{with_interval(estimate)}{_note(comparisons, task, estimator, estimate)}"
                facts = estimator_facts(estimator)
                apart = comparisons.told_apart(task, EVALUATION, estimator, BASELINED)
                side = "lower" if estimate.value < 1.0 else "higher"
                unranked = "not proven" if facts.unproven else "biased"
                mark = unranked if not facts.ranked else side if apart else "cannot tell"
                cell = Verdict(text, mark)
            table.setdefault(estimator, {})[task] = cell
    return table


def _note(comparisons: Comparisons, task: str, estimator: str, estimate: Estimate) -> str:
    """Return " (n = 3, 1 failed)" where the seeds are few or measurements failed."""
    said = [f"n = {estimate.n}"] if estimate.n < ENOUGH_SEEDS else []
    lost = lost_text(comparisons, SNAPSHOTS, task, estimator, BASELINED)
    said += [lost] if lost else []
    return f" ({', '.join(said)})" if said else ""


def caveats(comparisons: Comparisons) -> list[str]:
    """Return what a reader has to know before any number: failures, few seeds, what is absent."""
    results = comparisons.results
    said = []
    states = results.runs["status"]
    failed, missing = int((states == "failed").sum()), int((states == "missing").sum())
    others = [failure for failure in results.failures if failure.kind != "training"]
    if failed:
        said.append(f"{failed} of {len(states)} training runs failed; they are listed below.")
    if missing:
        said.append(f"{missing} of {len(states)} training runs of the experiment are not there.")
    if others:
        kinds = ", ".join(sorted({failure.kind for failure in others}))
        said.append(f"{len(others)} other records failed ({kinds}); they are listed below.")
    seeds = max(results.runs["seed"].nunique(), results.measured["seed"].nunique())
    if 0 < seeds < ENOUGH_SEEDS:
        said.append(
            f"{seeds} seed{'s' * (seeds != 1)}: fewer than {ENOUGH_SEEDS}. "
            + (
                "Nothing can be tested."
                if seeds < 2
                else "Intervals lean on normality; rank by none."
            )
        )
    said += [text for task in results.tasks if (text := tails_text(comparisons, task))]
    measured = set(results.measured["estimator"])
    if measured and BASELINED not in measured:
        said.append(
            f"{BASELINED} was not measured, so nothing here is compared at equal baseline; "
            f"add it with --estimators."
        )
    for name in results.estimators(results.variance):
        facts = estimator_facts(name)
        if facts.unbiased is False:
            why = f": {facts.why_biased}" if facts.why_biased else ""
            said.append(f"{name} is biased by design and is not ranked{why}.")
        elif facts.unproven:
            said.append(f"{name} is not ranked: {unproven_text(facts)}.")
    return said

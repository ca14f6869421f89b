"""Notes: what qualifies a sentence or a number. The page numbers and folds them."""

from __future__ import annotations

from collections.abc import Iterable

from estbench.report.data.comparisons import BASELINED, Comparisons
from estbench.report.data.formatting import clean, quantity
from estbench.report.data.labels import estimator_facts, peer, unproven_text
from estbench.report.data.ratios import HIGHER, LOWER
from estbench.report.data.statistics import ENOUGH_SEEDS
from estbench.report.data.tails import POWERS, tails
from estbench.report.view.words import about, batches_text, listed, rests_text, times

__all__ = [
    "BOUNDS",
    "GUARD",
    "every_note",
    "record_notes",
    "seed_count",
    "seeds_note",
    "task_notes",
]

GUARD = (
    "A verdict counts only if it is the same without any one snapshot. Where it is not, a question "
    "mark (?) stands beside the number, and no sentence is made of it."
)
BOUNDS = (
    "“At least”, “at most” and “no statement”: a few long draws make most of this estimator's "
    "variance. Its measured variance is then likelier too low than too high, and a ratio is only "
    "a bound."
)
NAMED = 8


def every_note(comparisons: Comparisons) -> list[str]:
    """Return all notes that a result set calls for, the weightiest first."""
    tasks = comparisons.results.tasks
    found = [*record_notes(comparisons), seeds_note(comparisons)]
    found += [note for task in tasks for note in task_notes(comparisons, task)]
    found += [note for task in tasks for note in _noise_notes(comparisons, task)]
    return [note for note in [*found, *_missing(comparisons), *_unranked(comparisons)] if note]


def record_notes(comparisons: Comparisons) -> list[str]:
    """Return what failed and what is missing."""
    results = comparisons.results
    states = results.runs["status"]
    failed, missing = int((states == "failed").sum()), int((states == "missing").sum())
    others = [failure for failure in results.failures if failure.kind != "training"]
    said = []
    if failed:
        said.append(f"{failed} of {len(states)} training runs failed; they are listed below.")
    if missing:
        said.append(f"{missing} of {len(states)} training runs of the experiment are missing.")
    if others:
        kinds = ", ".join(sorted({failure.kind for failure in others}))
        said.append(f"{len(others)} other records failed ({kinds}); they are listed below.")
    return said


def seed_count(comparisons: Comparisons) -> int:
    """Return the seeds of the result set, trained or measured."""
    results = comparisons.results
    return int(max(results.runs["seed"].nunique(), results.measured["seed"].nunique()))


def seeds_note(comparisons: Comparisons) -> str:
    """Return what few seeds mean, or nothing where there are enough."""
    seeds = seed_count(comparisons)
    if not 0 < seeds < ENOUGH_SEEDS:
        return ""
    if seeds < 2:
        return f"1 seed: fewer than {ENOUGH_SEEDS}. Nothing can be tested."
    return (
        f"{seeds} seeds: fewer than {ENOUGH_SEEDS}, too few to rank by. The intervals assume that "
        "the seeds are normally distributed."
    )


def task_notes(comparisons: Comparisons, task: str) -> list[str]:
    """Return what limits the measurements on one task."""
    return [note for note in (_uninformative(comparisons, task), _tails(comparisons, task)) if note]


def _uninformative(comparisons: Comparisons, task: str) -> str:
    """Return which snapshots of a task enter no ratio, or nothing."""
    at = comparisons.at(task)
    out = [float(step) for step, told in zip(at.steps, at.informative, strict=True) if not told]
    if not out:
        return ""
    which = "That snapshot is" if len(out) == 1 else "Those snapshots are"
    return (
        f"{clean(task, 60)}: at {batches_text(out)} of the reference trajectory the reward does "
        f"not distinguish sequences, or the gradient is almost zero. {which} shown, but left out "
        "of every ratio and verdict."
    )


def _tails(comparisons: Comparisons, task: str) -> str:
    """Return which estimators have heavy tails on a task, or nothing."""
    own = [tail for tail in tails(comparisons) if tail.task == task]
    if not own:
        return ""
    names = [
        f"{clean(tail.estimator, 60)} ({tail.heavy} of {tail.measurements} measurements, kurtosis "
        f"up to {about(tail.kurtosis, 3)})"
        for tail in own[:2]
    ]
    names += [clean(tail.estimator, 60) for tail in own[2:]]
    limits = sorted({quantity(tail.limit) for tail in own}, key=float)
    powers = sum(tail.powers for tail in own)
    index = f", or their tail index is {POWERS[0]} to {POWERS[1]} (in {powers})" if powers else ""
    return (
        f"Heavy tails on {clean(task, 60)}: {listed(names, NAMED)}. The kurtosis of these "
        f"measurements is above {' or '.join(limits)} (half the root of the number of draws)"
        f"{index}. The interval of such a measurement may cover less than 90 %, and the variance "
        "reads rather low; tables/variance.csv has every kurtosis."
    )


def _noise_notes(comparisons: Comparisons, task: str) -> list[str]:
    """Return verdicts that one snapshot turns over, and what other measures of noise say."""
    where = clean(task, 60)
    found = []
    fragile = [
        f"{clean(r.estimator, 60)} to {clean(r.against, 60)} is {times(r.estimate, r.bound)} "
        f"({r.verdict}), but this {rests_text(r)}"
        for r in comparisons.ratios(task, "evaluation").values()
        if r.verdict and not r.survives and r.estimate.known
    ]
    if fragile:
        more = f"; and {len(fragile) - NAMED} more (tables/ratios.csv)" * (len(fragile) > NAMED)
        listing = "; ".join(fragile[:NAMED])
        found.append(f"Not to be relied on, per evaluation on {where}: {listing}{more}.")
    adam = comparisons.ratios(task, "adam")
    turned = [
        f"{clean(pair[0], 60)} has {times(plain.estimate, plain.bound)} the noise of "
        f"{clean(pair[1], 60)} in tr Cov and {times(adam[pair].estimate, adam[pair].bound)} in "
        "Adam's metric"
        for pair, plain in comparisons.ratios(task, "sequence").items()
        if pair in adam and {plain.verdict, adam[pair].verdict} == {LOWER, HIGHER}
    ]
    if turned:
        listing = "; ".join(turned[:NAMED])
        found.append(f"Per sequence on {where} the two metrics rank differently: {listing}.")
    whole = [r for r in comparisons.ratios(task, "step").values() if r.verdict == LOWER]
    if firm := [r for r in whole if r.survives and r.against == BASELINED]:
        best = min(firm, key=lambda r: r.estimate.value)
        found.append(
            f"A training step on {where} has the noise of the data too. With the noise of the data "
            f"included, {clean(best.estimator, 60)} has {times(best.estimate, best.bound)} the "
            f"noise of {BASELINED} per sequence."
        )
    return found


def _missing(comparisons: Comparisons) -> Iterable[str]:
    """Yield which references were not measured."""
    measured = set(comparisons.results.measured["estimator"])
    if measured and BASELINED not in measured:
        yield (
            f"{BASELINED} was not measured, so there is no common reference; add it with "
            "--estimators."
        )
    for task in comparisons.results.tasks:
        there = comparisons.measured(task)
        lacking: dict[str, list[str]] = {}
        for name in there:
            if peer(name) and peer(name) not in there and estimator_facts(name).ranked:
                lacking.setdefault(peer(name), []).append(clean(name, 60))
        for partner, names in lacking.items():
            yield (
                f"Not compared at equal baseline on {clean(task, 60)}: {listed(names, NAMED)}. "
                f"The partner {partner} was not measured."
            )


def _unranked(comparisons: Comparisons) -> Iterable[str]:
    """Yield who is not ranked, and why; estimators that are biased alike share a note."""
    reasons: dict[str, list[str]] = {}
    for name in comparisons.results.estimators(comparisons.results.variance):
        facts = estimator_facts(name)
        if facts.unbiased is False:
            why = f": {facts.why_biased}" if facts.why_biased else ""
            text = f"{{}} biased by design{why} (†)"
            reasons.setdefault(text, []).append(clean(name, 60))
        elif facts.unproven:
            yield f"{clean(name, 60)} is not ranked: {unproven_text(facts)} (‡)."
    for text, names in reasons.items():
        verb = f"{listed(names)} {'is' if len(names) == 1 else 'are'}"
        yield f"{text.replace('{}', verb)}."
    if any("(†)" in text for text in reasons):
        yield "† is shown and never ranked: a biased estimator can have any variance it likes."

"""What was found, in plain sentences made from the tests; a number never stands without its n."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from estbench.report.data.comparisons import ALPHA, PLAIN, TRAINING, Comparisons
from estbench.report.data.duels import quality_duels
from estbench.report.data.formatting import clean, p_text, quantity, seconds, with_interval
from estbench.report.data.gained import gained_sentence
from estbench.report.data.labels import Metric, estimator_facts, size_text
from estbench.report.data.marks import lost_text
from estbench.report.data.statistics import ENOUGH_SEEDS, Estimate, holm
from estbench.report.view.arrivals import arrivals
from estbench.report.view.variance_findings import variance_findings

__all__ = ["TaskFindings", "task_findings"]

TELLING = 1.0  # part of the gradient; a limit on bias above it says nothing


@dataclass(frozen=True)
class TaskFindings:
    """The sentences about one task, the weightiest first."""

    task: str
    sentences: tuple[str, ...]


def task_findings(comparisons: Comparisons) -> list[TaskFindings]:
    """Return the findings of every task that has any."""
    found = []
    for task in comparisons.results.tasks:
        sentences = (
            *variance_findings(comparisons, task),
            *gained_sentence(comparisons.results.progress, task),
            *_quality(comparisons, task),
            *arrivals(comparisons, task),
            *_since_start(comparisons, task),
            *_time(comparisons, task),
            *_bias(comparisons, task),
        )
        if sentences:
            found.append(TaskFindings(task, sentences))
    return found


def _quality(comparisons: Comparisons, task: str) -> Iterator[str]:
    """Say which trained estimators ended best on the task's own metric, by the paired test."""
    metric = comparisons.primary(task)
    if metric is None or metric.better == "neither":
        return
    names = comparisons.trained(task)
    finals = {name: comparisons.final(task, name, metric.name) for name in names}
    known = {name: value for name, value in finals.items() if value.known}
    ranked = [name for name in known if _ranked(name)]
    if len(ranked) < 2:
        return
    sign = 1.0 if metric.better == "higher" else -1.0
    best = max(ranked, key=lambda name: sign * known[name].value)
    tied: list[str] = []
    apart: list[str] = []
    for name in ranked:
        if name != best:
            told = comparisons.differ(task, "quality", best, name)
            (apart if told else tied).append(name)
    parts = [f"no difference from it was found for {_list(tied)}"] if tied else []
    parts += [_worse(comparisons, task, metric, name, best) for name in apart]
    digits = _digits(known[best])
    n = _n(known[best], comparisons, TRAINING, task, *ranked)
    text = (
        f"After training, {metric.label} on {clean(task, 60)} is best for {best}, "
        f"{with_interval(known[best], 'number', digits)}; {'; '.join(parts)} ({n})."
    )
    others = [f"{_name(n)} {with_interval(known[n], 'number', digits)}" for n in known]
    unranked = [said for said, n in zip(others, known, strict=True) if n not in ranked]
    yield text + (f" Not ranked: {', '.join(unranked)}." if unranked else "")


def _since_start(comparisons: Comparisons, task: str) -> Iterator[str]:
    """Say what adversarial training changed, and where a lower NLL was paid for in diversity."""
    metric = comparisons.primary(task)
    if metric is None or metric.better == "neither":
        return
    changes = {
        name: change
        for name in comparisons.trained(task)
        if (change := comparisons.change(task, name, metric.name)).known
    }
    if changes:
        listed = ", ".join(
            f"{_name(name)} {with_interval(change, 'number', 3)}"
            for name, change in changes.items()
        )
        least = min(changes.values(), key=lambda change: change.n)
        n = _n(least, comparisons, TRAINING, task, *changes)
        yield (
            f"From the pre-trained generator to the last batch {metric.label} changed by: "
            f"{listed} ({metric.better} is better; paired by seed, {n})."
        )
    for name in comparisons.trained(task):
        nll, forward = (comparisons.change(task, name, m) for m in ("nll_oracle", "kl_forward"))
        if not (nll.known and forward.known):
            continue
        if nll.value < 0 < forward.value:
            sure = nll.has_interval and forward.has_interval and nll.high < 0 < forward.low
            yield (
                f"Beware: {name}'s oracle NLL fell by {_size(nll)} while KL(oracle || generator) "
                f"rose by {_size(forward)}"
                f"{'' if sure else ' (neither is sure at this number of seeds)'}. Sampling at a "
                "lower temperature does the same: a lower oracle NLL alone is no gain."
            )


def _size(change: Estimate) -> str:
    near, far = sorted((abs(change.low), abs(change.high)))
    return with_interval(Estimate(abs(change.value), near, far, change.n), "number", 3)


def _worse(comparisons: Comparisons, task: str, metric: Metric, name: str, best: str) -> str:
    gap = comparisons.compare(task, "quality", name, best)
    side = "lower" if gap.value < 0 else "higher"
    near, far = sorted((abs(gap.low), abs(gap.high)))
    size = Estimate(abs(gap.value), near, far, gap.n)
    p_value = comparisons.p_holm(task, "quality", name, best)
    digits = _digits(size)
    duels = quality_duels(comparisons, task)
    duel = duels.duel(best, name) if duels else None
    seeds = f", {best} better in {duel.wins} of {duel.n} seeds" if duel else ""
    return (
        f"{name} is {side} by {with_interval(size, 'number', digits)} "
        f"(Holm {p_text(p_value)}{seeds})"
    )


def _time(comparisons: Comparisons, task: str) -> Iterator[str]:
    """Say what a step takes."""
    base = comparisons.seconds(task, PLAIN)
    if not base.known:
        return
    others = [
        f"{_name(name)} {with_interval(estimate)}"
        for name in comparisons.timed(task)
        if name != PLAIN
        and (estimate := comparisons.compare(task, "seconds_per_step", name, PLAIN)).known
    ]
    if others:
        yield (
            f"A generator step of {PLAIN} takes {seconds(base.value)}; the others take a multiple "
            f"of it: {', '.join(others)} ({base.n} round{'s' * (base.n != 1)})."
        )


def _bias(comparisons: Comparisons, task: str) -> Iterator[str]:
    """Say whose bias was found, and how much the others could still hide."""
    estimates = {name: comparisons.bias(task, name) for name in comparisons.measured(task)}
    known = {name: value for name, value in estimates.items() if value.has_interval}
    # One-sided (a squared bias is not negative), and Holm over the estimators of the task.
    sides = [v.p_value / 2 if v.value > 0 else 1 - v.p_value / 2 for v in known.values()]
    adjusted = dict(zip(known, holm(sides), strict=True))
    found = [name for name in known if adjusted[name] < ALPHA]
    clear = {name: value for name, value in known.items() if name not in found}
    if found:
        listed = ", ".join(f"{name} {_percent(known[name])}" for name in found)
        yield (
            f"The mean gradient differs from the true one by more than noise (Holm) for {listed}."
        )
    # Without a baseline these draws would leave any bias possible.
    telling = [name for name, value in clear.items() if value.high < TELLING]
    if telling:
        worst = max(telling, key=lambda name: clear[name].high)
        yield (
            f"No bias was found for {_list(telling)}; the largest that these draws cannot rule out "
            f"is {quantity(100 * clear[worst].high)} % of the gradient ({worst})."
        )
    mute = [name for name in clear if name not in telling]
    if mute:
        yield (f"For {_list(mute)}, these draws cannot rule out a bias as large as the gradient.")
    proven = [name for name in known if estimator_facts(name).proof == "unbiased"]
    for reach in sorted({estimator_facts(name).reach for name in proven}):
        names = [name for name in proven if estimator_facts(name).reach == reach]
        size = f"; this task: {here}" if reach and (here := size_text(task)) else ""
        yield (
            "Proven unbiased beforehand, on problems whose exact gradient is known"
            f"{f' ({reach}{size})' if reach else ''}: {_list(names)}."
        )


def _percent(value: Estimate) -> str:
    low, high = quantity(100 * value.low), quantity(100 * value.high)
    return f"({quantity(100 * value.value)} % [{low}, {high}] of the gradient)"


def _ranked(estimator: str) -> bool:
    return estimator_facts(estimator).ranked


def _n(estimate: Estimate, comparisons: Comparisons, kind: str, task: str, *names: str) -> str:
    """Return "n = 9, 1 failed": the replicates, and what should be among them and is not."""
    few = ", too few to rank by" if estimate.n < ENOUGH_SEEDS else ""
    lost = lost_text(comparisons, kind, task, *names)
    return f"n = {estimate.n}{few}{lost and ', ' + lost}"


def _name(estimator: str) -> str:
    """Return an estimator's name, with its mark if it is not ranked."""
    return clean(estimator, 60) + estimator_facts(estimator).mark


def _digits(estimate: Estimate) -> int:
    """Return the decimals that a score's interval justifies."""
    width = estimate.high - estimate.low if estimate.has_interval else abs(estimate.value)
    return 2 if width >= 0.1 or not width > 0 else 3


def _list(names: Sequence[str]) -> str:
    names = [clean(name, 60) for name in names]
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"

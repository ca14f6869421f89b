"""What was found, in plain sentences made from the tests; a number never stands without its n."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from estbench.report.arrivals import arrivals
from estbench.report.comparisons import (
    ALPHA,
    BASELINED,
    PLAIN,
    SNAPSHOTS,
    TRAINING,
    Comparisons,
)
from estbench.report.formatting import clean, p_text, quantity, ratio, seconds, with_interval
from estbench.report.gained import gained_sentence
from estbench.report.improvement import quality_duels
from estbench.report.labels import Metric, estimator_facts, peer, without_baseline
from estbench.report.marks import lost_text
from estbench.report.statistics import ENOUGH_SEEDS, Estimate, holm

__all__ = ["TaskFindings", "task_findings"]

EVALUATION = "variance_per_evaluation"
SEQUENCE = "variance_per_sequence"
SECOND = "variance_per_second"
LISTED_PAIRS = 6
TELLING = 1.0  # part of the gradient: a limit on bias above it tells nothing


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
            *gained_sentence(comparisons.results.progress, task),
            *_control_variates(comparisons, task),
            *_lowest(comparisons, task),
            *_baseline_alone(comparisons, task),
            *_quality(comparisons, task),
            *arrivals(comparisons, task),
            *_since_start(comparisons, task),
            *_time(comparisons, task),
            *_bias(comparisons, task),
        )
        if sentences:
            found.append(TaskFindings(task, sentences))
    return found


def _lowest(comparisons: Comparisons, task: str) -> Iterator[str]:
    """Say which estimators have the least variance for each cost, and who ties with them."""
    ranked = [name for name in comparisons.measured(task) if _ranked(name)]
    words = {EVALUATION: "per reward evaluation", SECOND: "per second", SEQUENCE: "per sequence"}
    parts = []
    for cost, per in words.items():
        values = {name: _against(comparisons, task, cost, name) for name in ranked}
        known = {name: value for name, value in values.items() if value.known}
        if len(known) < 2 or BASELINED not in ranked:
            continue
        best = min(known, key=lambda name: known[name].value)
        tied = [
            name
            for name in known
            if name != best and not comparisons.told_apart(task, cost, best, name)
        ]
        text = f"{per} {best}"
        if best != BASELINED:
            plain = comparisons.compare(task, cost, best, PLAIN)
            text += f", {with_interval(known[best])} of {BASELINED}'s"
            if plain.known and best != PLAIN:
                text += f" and {ratio(plain.value)} of un-baselined {PLAIN}'s"
        tie = f"cannot be told from {_list(tied)}" if tied else "told apart from all others"
        n = _n(known[best], comparisons, SNAPSHOTS, task, *known)
        parts.append(f"{text} ({tie}, {n})")
    if parts:
        yield f"Lowest gradient variance: {'; '.join(parts)}."


def _control_variates(comparisons: Comparisons, task: str) -> Iterator[str]:
    """Say what each control variate is worth at equal baseline, and at what cost."""
    told = []
    for name in comparisons.measured(task):
        equal = peer(name) if peer(name) in comparisons.measured(task) else ""
        gain = comparisons.control_variate_gain(task, name)
        if without_baseline(name) or name == BASELINED or not (gain.known or _family(name)):
            continue
        against = equal or BASELINED
        sequence, evaluation, second = (
            comparisons.compare(task, q, name, against) for q in (SEQUENCE, EVALUATION, SECOND)
        )
        if not evaluation.known:
            continue
        told.append(name)
        p_value = comparisons.p_holm(task, EVALUATION, name, against)
        apart = comparisons.told_apart(task, EVALUATION, name, against)
        label = estimator_facts(name).baseline
        baseline = f"same baseline ({label})" if equal else "which has another baseline"
        n = _n(evaluation, comparisons, SNAPSHOTS, task, name, against)
        text = (
            f"At equal reward evaluations {_name(name)}'s variance is {with_interval(evaluation)} "
            f"of {_name(against)}'s, {baseline}, on {clean(task, 60)}"
            f"{'' if apart else ': the two cannot be told apart'} (Holm {p_text(p_value)}, {n}). "
            f"Per sequence it is {with_interval(sequence)}"
        )
        if second.known:
            text += f", per second {with_interval(second)}"
        if gain.known:
            text += (
                f"; against its own draws with the control variate left out {with_interval(gain)}"
            )
        yield text + "."
    yield from _open_pairs(comparisons, task, told)


def _open_pairs(comparisons: Comparisons, task: str, names: Sequence[str]) -> Iterator[str]:
    """Say which control variates the test does not tell apart from each other."""
    pairs = [
        f"{_name(first)} and {_name(second)} ({with_interval(estimate)})"
        for second, first in combinations(names, 2)
        if not comparisons.told_apart(task, EVALUATION, first, second)
        and (estimate := comparisons.compare(task, EVALUATION, first, second)).known
    ]
    if pairs:
        more = len(pairs) - LISTED_PAIRS
        others = f", and {more} other pairs (tables/comparisons.csv)" if more > 0 else ""
        yield (
            "At equal reward evaluations these cannot be told apart: "
            f"{', '.join(pairs[:LISTED_PAIRS])}{others}."
        )


def _baseline_alone(comparisons: Comparisons, task: str) -> Iterator[str]:
    """Say what a baseline alone gives, so that no ratio to `reinforce` is read as more."""
    estimate = comparisons.compare(task, SEQUENCE, BASELINED, PLAIN)
    if estimate.known:
        n = _n(estimate, comparisons, SNAPSHOTS, task, BASELINED, PLAIN)
        yield (
            f"A baseline alone takes {PLAIN}'s variance per sequence to {with_interval(estimate)} "
            f"({BASELINED}, {n}): every ratio to {PLAIN} holds that factor."
        )


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
            told = comparisons.told_apart(task, "quality", best, name)
            (apart if told else tied).append(name)
    parts = [f"{_list(tied)} cannot be told apart from it"] if tied else []
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
            f"A generator step takes {PLAIN} {seconds(base.value)} and the others a multiple of "
            f"it: {', '.join(others)} ({base.n} round{'s' * (base.n != 1)})."
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
    # Without a baseline these draws would leave any bias possible: of that nothing is said.
    telling = [name for name, value in clear.items() if value.high < TELLING]
    if telling:
        worst = max(telling, key=lambda name: clear[name].high)
        yield (
            f"No bias is found for {_list(telling)}; the largest that the draws leave possible "
            f"is {quantity(100 * clear[worst].high)} % of the gradient ({worst})."
        )
    mute = [name for name in clear if name not in telling]
    if mute:
        yield (
            f"Of {_list(mute)} these draws are too few and too noisy to exclude a bias as large as "
            "the gradient itself."
        )
    proven = [name for name in known if estimator_facts(name).proof == "unbiased"]
    if proven:
        yield (
            "Proven unbiased beforehand, on problems whose exact gradient is known: "
            f"{_list(proven)}."
        )


def _percent(value: Estimate) -> str:
    low, high = quantity(100 * value.low), quantity(100 * value.high)
    return f"({quantity(100 * value.value)} % [{low}, {high}] of the gradient)"


def _ranked(estimator: str) -> bool:
    return estimator_facts(estimator).ranked


def _family(estimator: str) -> bool:
    """Whether an estimator is of a control variate family."""
    return estimator.split("-")[0] in ("rebar", "relax")


def _against(comparisons: Comparisons, task: str, cost: str, name: str) -> Estimate:
    if name == BASELINED:
        own = comparisons.log_variance(task, name)
        timed = cost != SECOND or name in comparisons.timed(task)
        return Estimate(1.0, n=own.n) if own.known and timed else Estimate(float("nan"))
    return comparisons.compare(task, cost, name, BASELINED)


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

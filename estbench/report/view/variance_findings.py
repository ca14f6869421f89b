"""What was found of the estimators' noise, in sentences that a reader may try to refute.

A verdict is printed plainly only if it is the same without any one snapshot. The others say which
snapshots they rest on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from estbench.report.data.comparisons import BASELINED, SNAPSHOTS, Comparisons
from estbench.report.data.formatting import bounded, clean, number, quantity, with_interval
from estbench.report.data.labels import estimator_facts, peer
from estbench.report.data.marks import lost_text
from estbench.report.data.ratios import (
    EMA,
    HEAVY_PART,
    HIGHER,
    LOWER,
    OPEN,
    PARTNER,
    Omission,
    Ratio,
    verdict_of,
)
from estbench.report.data.statistics import ENOUGH_SEEDS
from estbench.report.data.trajectory import batch_size

__all__ = ["batches_text", "missing_partners", "rests_text", "span_text", "variance_findings"]

LISTED = 8  # ratios in a sentence; tables/ratios.csv has them all
LITTLE = 0.1  # of a step: with less noise than that the choice of estimator hardly matters
HALF = 0.5

WORDS = {LOWER: "less noisy than", HIGHER: "noisier than"}


def variance_findings(comparisons: Comparisons, task: str) -> Iterator[str]:
    """Yield the sentences on one task, the weightiest first."""
    yield from _limit(comparisons, task)
    for role, whom, where in (
        (PARTNER, "their partner", "At equal baseline and per reward evaluation"),
        (EMA, BASELINED, "Per reward evaluation"),
    ):
        yield from _grouped(comparisons, task, "evaluation", role, whom, where)
    yield from _grouped(comparisons, task, "second", EMA, BASELINED, "Per second", (LOWER,))
    yield from _grouped(
        comparisons,
        task,
        "step",
        EMA,
        BASELINED,
        "Per sequence of a training step, the noise of the data included",
    )
    yield from _control_variates(comparisons, task)
    yield from _adam(comparisons, task)
    lacking = missing_partners(comparisons, task)
    if lacking:
        listed = "; ".join(
            f"{_list(names)} ({'their' if len(names) > 1 else 'its'} partner {partner} was not "
            "measured)"
            for partner, names in lacking
        )
        yield f"Not compared at equal baseline: {listed}."


def missing_partners(comparisons: Comparisons, task: str) -> list[tuple[str, list[str]]]:
    """Return (partner, estimators) where the partner of a measured estimator was not measured."""
    names = comparisons.measured(task)
    found: dict[str, list[str]] = {}
    for name in names:
        if peer(name) and peer(name) not in names and estimator_facts(name).ranked:
            found.setdefault(peer(name), []).append(clean(name, 60))
    return list(found.items())


def span_text(ratio: Ratio) -> str:
    """Return the range of a ratio over the informative snapshots."""
    low, high = (quantity(end) for end in ratio.span)
    return low if low == high else f"{low} to {high}"


def rests_text(ratio: Ratio) -> str:
    """Return which snapshots a verdict rests on, and what is left without the worst of them."""
    if not ratio.omissions:
        return "rests on the only informative snapshot"
    turned = ratio.turned_by
    # Without which the result is the farthest from what was found.
    worst = max(turned, key=lambda omission: omission.p_holm)
    if ratio.verdict == OPEN:
        worst = min(turned, key=lambda omission: omission.p_holm)
    return (
        f"rests on the snapshot{'s' * (len(turned) > 1)} at "
        f"{batches_text([o.step for o in turned])}: without the one at batch {worst.step:g} it is "
        f"{with_interval(worst.estimate)}, {_said(ratio, worst)}"
    )


def batches_text(steps: Sequence[float]) -> str:
    """Return "batch 29", or "batches 29 and 58"."""
    return f"batch{'es' * (len(steps) > 1)} {_list([f'{step:g}' for step in steps])}"


def _said(ratio: Ratio, omission: Omission) -> str:
    verdict = verdict_of(omission.estimate, omission.p_holm, ratio.bound)
    return {OPEN: "and no difference is found", "": "and is not tested"}.get(verdict, verdict)


def _limit(comparisons: Comparisons, task: str) -> Iterator[str]:
    """Say whether noise limits the task at the batch that is used."""
    batch = batch_size(comparisons.results, task)
    at = comparisons.at(task)
    shown = [s for s, told in zip(at.snapshots, at.informative, strict=True) if told]

    def noise(name: str) -> list[float]:
        shares = [comparisons.useful_share(task, snapshot, name) for snapshot in shown]
        return [1.0 - share.value for share in shares if share.known]

    usual = noise(BASELINED) if BASELINED in at.places else []
    if not usual:
        return
    ratios = comparisons.ratios(task, "sequence").values()
    lower = [
        ratio
        for ratio in ratios
        if ratio.against == BASELINED and ratio.verdict == LOWER and ratio.survives
    ]
    text = f"At batch {batch:g} noise takes {_percents(usual)} of a step with {BASELINED}"
    if lower:
        best = min(lower, key=lambda ratio: ratio.estimate.value).estimator
        text += (
            f", and {_percents(noise(best))} with {clean(best, 60)}, the least noisy unbiased "
            "estimator per sequence"
        )
    worst = max(usual)
    limited = sum(share > HALF for share in usual)
    if worst <= LITTLE:
        end = "the estimator hardly matters here"
    elif not limited:
        end = "noise takes less than half of every step here"
    else:
        end = f"noise limits the step at {limited} of {len(usual)} informative snapshots"
    yield f"{text}: {end}."


def _grouped(
    comparisons: Comparisons,
    task: str,
    cost: str,
    role: str,
    whom: str,
    where: str,
    verdicts: Sequence[str] = (LOWER, HIGHER, OPEN, ""),
) -> Iterator[str]:
    """Say what was found against one kind of reference: firm verdicts, open ones, fragile ones."""
    family = comparisons.ratios(task, cost).values()
    tests = sum(ratio.verdict != "" for ratio in family)
    own = [
        ratio for ratio in family if ratio.estimate.known and _ranked(ratio) and ratio.role == role
    ]

    def told(chosen: Callable[[Ratio], bool], text: Callable[[Ratio], str]) -> str:
        ratios = [ratio for ratio in own if chosen(ratio)]
        said = [text(ratio) for ratio in ratios]
        more = len(said) - LISTED
        rest = f"; and {more} more (tables/ratios.csv)" if more > 0 else ""
        if not said:
            return ""
        holm = f"Holm over {tests} tests, " if tests > 1 else ""
        return f"{'; '.join(said[:LISTED])}{rest} ({holm}{_n(comparisons, task, ratios)})"

    def written(ratio: Ratio) -> str:
        of = f" of {clean(ratio.against, 60)}" if role == PARTNER else ""
        return (
            f"{clean(ratio.estimator, 60)} {bounded(ratio.estimate, ratio.bound)}{of} (by snapshot "
            f"{span_text(ratio)})"
        )

    def fragile(ratio: Ratio) -> str:
        verdict = "no difference was found" if ratio.verdict == OPEN else ratio.verdict
        return f"{written(ratio)}: {verdict}, but this {rests_text(ratio)}"

    for verdict in (LOWER, HIGHER):
        if verdict in verdicts:
            listed = told(lambda r, v=verdict: r.survives and r.verdict == v, written)  # type: ignore[misc]
            if listed:
                yield f"{where}, {WORDS[verdict]} {whom}: {listed}."
            elif len(verdicts) == 1 and tests and all(r.verdict != verdict for r in own):
                yield f"{where} no estimator was found to be {WORDS[verdict]} {whom}."
    if OPEN in verdicts:
        listed = told(lambda r: r.survives and r.verdict == OPEN and not r.bound, written)
        if listed:
            yield f"{where}, no difference from {whom} was found for {listed}."
        listed = told(lambda r: r.survives and r.verdict == OPEN and bool(r.bound), written)
        if listed:
            yield f"{where}, heavy tails leave no verdict against {whom} on {listed}."
    doubtful = {verdict for verdict in verdicts if verdict}
    listed = told(lambda r: not r.survives and r.verdict in doubtful, fragile)
    if listed:
        yield f"{where}, not to be relied on against {whom}: {listed}."
    if "" in verdicts:
        listed = told(lambda r: r.verdict == "", written)
        if listed:
            yield f"{where}, not tested against {whom} (one seed has no test): {listed}."


def _control_variates(comparisons: Comparisons, task: str) -> Iterator[str]:
    """Say what a control variate does, against the same draws without it."""
    said = []
    for name in comparisons.measured(task):
        gain = comparisons.control_variate_gain(task, name)
        if not gain.known or not estimator_facts(name).ranked:
            continue
        at = comparisons.at(task)
        if at.heavy_part("sequence")[at.places[name]] >= HEAVY_PART:
            said.append(f"{clean(name, 60)} no statement (heavy tails)")
            continue
        sign = 1.0 if gain.value <= 1.0 else -1.0

        def percent(ratio: float, sign: float = sign) -> float:
            return 100.0 * sign * (1.0 - ratio)

        verb = "removes" if sign > 0.0 else "adds"
        text = f"{clean(name, 60)} {verb} {quantity(percent(gain.value))} %"
        if gain.has_interval:
            low, high = sorted(map(percent, (gain.low, gain.high)))
            text += f" [{quantity(low)}, {quantity(high)}]"
        first, last = sorted(map(percent, comparisons.control_variate_span(task, name)))
        said.append(f"{text} (by snapshot {number(first, 1)} to {number(last, 1)})")
    if said:
        more = len(said) - LISTED
        rest = f", and {more} more (tables/summary.csv)" if more > 0 else ""
        yield (
            "Share of the noise that the control variate itself removes or adds, against the same "
            f"draws without it: {', '.join(said[:LISTED])}{rest}."
        )


def _adam(comparisons: Comparisons, task: str) -> Iterator[str]:
    """Say where Adam's metric ranks a pair the other way round, both tests being significant."""
    said = []
    for pair, adam in comparisons.ratios(task, "adam").items():
        plain = comparisons.ratios(task, "sequence")[pair]
        if {plain.verdict, adam.verdict} == {LOWER, HIGHER}:
            said.append(
                f"{clean(pair[0], 60)} has {bounded(plain.estimate, plain.bound)} of the noise of "
                f"{clean(pair[1], 60)} in tr Cov and {bounded(adam.estimate, adam.bound)} in "
                f"Adam's metric (by snapshot {span_text(plain)} and {span_text(adam)})"
            )
    if said:
        yield f"Per sequence the two metrics rank differently: {'; '.join(said)}."


def _ranked(ratio: Ratio) -> bool:
    return all(estimator_facts(name).ranked for name in (ratio.estimator, ratio.against))


def _n(comparisons: Comparisons, task: str, ratios: Sequence[Ratio]) -> str:
    """Return the seeds behind some ratios, and what should be among them and is not."""
    counts = [ratio.estimate.n for ratio in ratios]
    least, most = min(counts), max(counts)
    few = ", too few to rank by" if least < ENOUGH_SEEDS else ""
    names = dict.fromkeys(name for ratio in ratios for name in (ratio.estimator, ratio.against))
    lost = lost_text(comparisons, SNAPSHOTS, task, *names)
    span = f"n = {least}" if least == most else f"n = {least} to {most}"
    return f"{span}{few}{lost and ', ' + lost}"


def _percents(shares: Sequence[float]) -> str:
    low, high = (quantity(100.0 * end) for end in (min(shares), max(shares)))
    return f"{low} %" if low == high else f"{low} to {high} %"


def _list(names: Sequence[str]) -> str:
    return "".join(names) if len(names) < 2 else f"{', '.join(names[:-1])} and {names[-1]}"

"""What was found, in plain sentences made from the tests: the abstract, and an answer a question.

A sentence is made only of verdicts that are the same without any one snapshot. It holds at most two
numbers besides an interval, and carries the notes that qualify it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from estbench.report.data.comparisons import ALPHA, BASELINED, PLAIN, Comparisons
from estbench.report.data.formatting import clean
from estbench.report.data.gained import gained, own_batch
from estbench.report.data.labels import estimator_facts, without_baseline
from estbench.report.data.learning import level, level_duels
from estbench.report.data.paper import published
from estbench.report.data.ratios import HEAVY_PART, HIGHER, LOWER, PARTNER, Ratio
from estbench.report.data.statistics import ENOUGH_SEEDS, Estimate, holm
from estbench.report.data.trajectory import batch_size
from estbench.report.view.notes import (
    BOUNDS,
    GUARD,
    record_notes,
    seed_count,
    seeds_note,
    task_notes,
)
from estbench.report.view.verdicts import useful_shares
from estbench.report.view.words import (
    BASELINED_WORDS,
    about,
    at_most,
    count,
    interval_words,
    listed,
    marked,
    partner_words,
    percent_words,
    times,
)

__all__ = ["Answer", "Said", "abstract", "answers", "ending_better", "firm", "noise_shares"]

LITTLE, HALF = 0.1, 0.5  # of a step
TELLING = 1.0  # part of the gradient; a limit on bias above it says nothing
NAMED = 4

VARIANCE, ELEMENT = "log_variance", "log_bias_element_variance"  # in the paper, and here
PAPER_NOTE = (
    "The paper has one seed, a reward exp(p_D) without a baseline, and biased forms of REBAR and "
    "RELAX. Each estimator is at its own parameters, so a lower variance may come from a better "
    "estimator or merely from another policy."
)

QUESTIONS = {
    "limit": "Does noise limit learning here?",
    "noise": "Which estimator has the least noise, at what cost?",
    "learning": "Does it learn better?",
    "bias": "Is it unbiased?",
    "sources": "Where does the noise come from?",
    "paper": "How does it compare with the paper?",
}


@dataclass(frozen=True)
class Said:
    """A sentence, and the notes that qualify it."""

    text: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """A question and its answer.

    Attributes:
      key: One of `QUESTIONS`; figures name it.
      question: In words.
      sentences: The answer.
      compared: Whether there is anything to compare; if not, its figure does not answer it.
    """

    key: str
    question: str
    sentences: tuple[Said, ...]
    compared: bool = True


def abstract(comparisons: Comparisons) -> list[Said]:
    """Return the findings in at most four sentences."""
    found: list[Said] = []
    if few := seeds_note(comparisons):
        seeds = count(seed_count(comparisons), "seed")
        found.append(Said(f"These are results of {seeds}, too few to rank by.", (few,)))
    noise = list(_noise(comparisons))
    learning = _learning(comparisons) if _trained_several(comparisons) else ()
    parts = (_limit(comparisons), noise[:1], _per_second(comparisons), learning)
    found += [said for part in parts for said in list(part)[:1]]
    found += noise[1:] if len(found) < 4 else []
    return found[:4]


def answers(comparisons: Comparisons) -> list[Answer]:
    """Return the questions that the result set has an answer to, in the order of the page."""
    said = {
        "limit": (*_limit(comparisons), *_gained(comparisons)),
        "noise": (*_noise(comparisons), *_per_second(comparisons)),
        "learning": tuple(_learning(comparisons)),
        "bias": tuple(_bias(comparisons)),
        "sources": tuple(_sources(comparisons)),
        "paper": tuple(_paper(comparisons)),
    }
    compared = dict.fromkeys(said, True)
    compared["learning"] = _trained_several(comparisons)
    compared["paper"] = len(_of_the_paper(comparisons)) > 1
    return [Answer(key, QUESTIONS[key], own, compared[key]) for key, own in said.items()]


def _trained_several(comparisons: Comparisons) -> bool:
    return any(len(comparisons.trained(task)) > 1 for task in comparisons.results.tasks)


def _on(comparisons: Comparisons, task: str) -> str:
    """Return " on TASK", or nothing where there is one task."""
    return f" on {clean(task, 60)}" if len(comparisons.results.tasks) > 1 else ""


# Does noise limit learning here? ------------------------------------------------------------------


def noise_shares(comparisons: Comparisons, task: str, name: str) -> list[float]:
    """Return the share of a step that is noise at each informative snapshot, as far as known."""
    return [1.0 - share for share in useful_shares(comparisons, task, name)]


def _limit(comparisons: Comparisons) -> Iterator[Said]:
    """Say whether noise limits learning at the batch that is used."""
    tasks = comparisons.results.tasks
    worst = {t: max(s) for t in tasks if (s := noise_shares(comparisons, t, BASELINED))}
    if not worst:
        return
    batches = {batch_size(comparisons.results, task) for task in worst}
    batch = f" at a batch of {batches.pop():g} sequences" if len(batches) == 1 else ""
    limited = [task for task, share in worst.items() if share > HALF]
    most = max(worst, key=lambda task: worst[task])
    notes = tuple(note for task in worst for note in task_notes(comparisons, task)[:1])
    if limited:
        where = "" if len(tasks) == 1 else f" on {_tasks(limited, tasks)}"
        text = f"Noise limits learning{where}: {at_most(worst[most], 'up to')}"
    elif worst[most] > LITTLE:
        text = f"Noise takes less than half of every step: at most {percent_words(worst[most])}"
    else:
        text = f"The choice of estimator hardly matters here: at most {percent_words(worst[most])}"
    yield Said(f"{text} of a step of {BASELINED_WORDS} is noise{batch}.", notes)
    if lower := firm(comparisons, most, "sequence"):
        best = min(lower, key=lambda r: r.estimate.value).estimator
        if shares := noise_shares(comparisons, most, best):
            yield Said(
                f"With {clean(best, 60)}, the least noisy unbiased estimator per sequence"
                f"{_on(comparisons, most)}, it is {at_most(max(shares), 'at most')}."
            )


def _gained(comparisons: Comparisons) -> Iterator[Said]:
    """Say what several steps of Adam gain, where it was measured."""
    progress = comparisons.results.progress
    for task in comparisons.results.tasks:
        batch = own_batch(progress, task) if len(progress) else None
        if batch is None:
            continue
        table = gained(progress[(progress["task"] == task) & (progress["batch"] == batch)])
        rows = table[(table["optimiser"] == "adam") & (table["measure"] == "preset")]
        rows = rows[rows["steps"] == rows["steps"].max()]
        names = list(rows["estimator"])
        if not names:
            continue
        name = BASELINED if BASELINED in names else names[0]
        row = rows[rows["estimator"] == name].iloc[0]
        gain = Estimate(row["estimate"], row["low"], row["high"], int(row["n"]))
        yield Said(
            f"On {clean(task, 60)}, {int(row['steps'])} steps of Adam with {marked(name)} gain "
            f"{interval_words(gain)} of what the exact gradient gains."
        )
        return


# Which estimator has the least noise, at what cost? -----------------------------------------------


def _noise(comparisons: Comparisons) -> Iterator[Said]:
    """Say who is less noisy than its partner per reward evaluation, and who is noisier."""
    tasks = comparisons.results.tasks
    ratios = {task: list(comparisons.ratios(task, "evaluation").values()) for task in tasks}
    tested = [r for own in ratios.values() for r in own if r.verdict and r.estimate.known]
    partnered = [r for r in tested if r.role == PARTNER]
    if not tested:
        return
    words = "than its partner" if partnered else f"than {BASELINED_WORDS}"
    equal = "At equal baseline and per reward evaluation" if partnered else "Per reward evaluation"
    chosen = {t: [r for r in own if r in (partnered or tested)] for t, own in ratios.items()}
    for verdict, less in ((LOWER, "less noisy"), (HIGHER, "noisier")):
        if found := _by_estimator(chosen, verdict):
            yield _found(comparisons, found, f"Per reward evaluation, {{}} is {less}", verdict)
        else:
            yield Said(f"{equal}, no estimator was found to be {less} {words}.", (GUARD,))


def _per_second(comparisons: Comparisons) -> Iterator[Said]:
    """Say who is less noisy than `reinforce-ema` per second."""
    ratios = {
        task: [r for r in comparisons.ratios(task, "second").values() if r.against == BASELINED]
        for task in comparisons.results.tasks
    }
    if not any(r.verdict for own in ratios.values() for r in own):
        return
    if found := _by_estimator(ratios, LOWER):
        yield _found(comparisons, found, "Per second, {} is less noisy", LOWER)
    else:
        text = f"Per second, no estimator was found to be less noisy than {BASELINED_WORDS}."
        yield Said(text, (GUARD,))


def firm(comparisons: Comparisons, task: str, cost: str) -> list[Ratio]:
    """Return the ratios to BASELINED that are lower by a verdict that no omission turns over."""
    ratios = comparisons.ratios(task, cost).values()
    return [r for r in ratios if r.against == BASELINED and _is_firm(r, LOWER)]


def _is_firm(ratio: Ratio, verdict: str) -> bool:
    return ratio.verdict == verdict and ratio.survives and ratio.estimate.known


def _by_estimator(
    ratios: Mapping[str, Sequence[Ratio]], verdict: str
) -> dict[str, dict[str, Ratio]]:
    """Return estimator -> task -> ratio, of those with a verdict that no omission turns over."""
    found: dict[str, dict[str, Ratio]] = {}
    for task, own in ratios.items():
        for ratio in own:
            if _is_firm(ratio, verdict):
                found.setdefault(ratio.estimator, {})[task] = ratio
    return found


def _found(
    comparisons: Comparisons, found: Mapping[str, Mapping[str, Ratio]], text: str, verdict: str
) -> Said:
    """Return the sentence on the estimator that has a verdict on most tasks, and most clearly."""
    sign = 1.0 if verdict == LOWER else -1.0
    tasks = [task for task in comparisons.results.tasks if comparisons.measured(task)]

    def rank(name: str) -> tuple[int, int, float]:
        # Of noisier ones, those that the paper recommends are of more interest than a control.
        published = name in ("rebar", "relax") and verdict == HIGHER
        # Most of what a ratio to plain REINFORCE shows is what any baseline gives.
        plain = any(ratio.against == PLAIN for ratio in found[name].values())
        logs = [sign * math.log(ratio.estimate.value) for ratio in found[name].values()]
        return int(plain) - int(published), -len(logs), float(np.mean(logs))

    name = min(found, key=rank)
    own = found[name]
    task = min(own, key=lambda t: sign * own[t].estimate.value)
    ratio = own[task]
    words = (
        partner_words(ratio.against)
        if ratio.role == PARTNER and not text.startswith("Per second")
        else BASELINED_WORDS
    )
    where = f" on {_tasks(list(own), tasks)}" if len(own) > 1 else ""
    on = f" on {clean(task, 60)}" if len(tasks) > 1 else ""
    few = f" (n = {ratio.estimate.n})" if ratio.estimate.n < ENOUGH_SEEDS else ""
    return Said(
        f"{text.format(clean(name, 60))} than {words}{where}: "
        f"{times(ratio.estimate, ratio.bound)}{on}{few}.",
        (GUARD, BOUNDS) if ratio.bound else (GUARD,),
    )


def _tasks(chosen: Sequence[str], every: Sequence[str]) -> str:
    """Return some of the tasks in words: "both tasks", "3 of 4 tasks", "expressions-3"."""
    if len(chosen) == len(every) > 1:
        return "both tasks" if len(every) == 2 else f"all {len(every)} tasks"
    if len(chosen) <= 2:
        return listed([clean(task, 60) for task in chosen])
    return f"{len(chosen)} of {len(every)} tasks"


# Does it learn better? ----------------------------------------------------------------------------


def _learning(comparisons: Comparisons) -> Iterator[Said]:
    """Say who ends better than the plain estimator, and who gets there sooner."""
    goals = {
        task: goal
        for task in comparisons.results.tasks
        if (goal := level(comparisons, task)) and len(comparisons.trained(task)) > 1
    }
    if not goals:
        tasks = comparisons.results.tasks
        if names := list(dict.fromkeys(n for t in tasks for n in comparisons.trained(t))):
            only = f"Only {listed(names)} was trained on each task"
            yield Said(f"{only}, so nothing can be compared.")
        return
    notes = (*record_notes(comparisons), *_gamed(comparisons))
    plain = partner_words(next(iter(goals.values())).of).replace(" the same", " a")
    if not any(
        math.isfinite(comparisons.p_holm(task, "quality", name, goal.of))
        for task, goal in goals.items()
        for name in comparisons.trained(task)
    ):
        yield Said("One seed cannot show who learns better.", notes)
        return
    better = [(task, name) for task in goals for name in ending_better(comparisons, task)]
    if not better:
        yield Said(f"After training, no estimator was found to end better than {plain}.", notes)
    else:
        task, name = better[0]
        goal = goals[task]
        gap = comparisons.compare(task, "quality", name, goal.of)
        near, far = sorted((abs(gap.low), abs(gap.high)))
        size = interval_words(Estimate(abs(gap.value), near, far, gap.n))
        also = f", and {count(len(better) - 1, 'other result')} likewise" if len(better) > 1 else ""
        yield Said(
            f"After training on {clean(task, 60)}, {clean(name, 60)} ends better than "
            f"{partner_words(goal.of)}: its {goal.metric.label} is {goal.metric.better} by "
            f"{size}{also}.",
            notes,
        )
    yield from _sooner(comparisons, list(goals), plain)


def ending_better(comparisons: Comparisons, task: str) -> list[str]:
    """Return the estimators found to end better than the one whose final score is the level."""
    goal = level(comparisons, task)
    if goal is None:
        return []
    sign = 1.0 if goal.metric.better == "higher" else -1.0
    return [
        name
        for name in comparisons.trained(task)
        if comparisons.differ(task, "quality", name, goal.of)
        and sign * comparisons.compare(task, "quality", name, goal.of).value > 0.0
    ]


def _sooner(comparisons: Comparisons, tasks: Sequence[str], plain: str) -> Iterator[Said]:
    """Say who reaches the level at which the plain estimator ends in fewer batches."""
    sooner = []
    for task in tasks:
        goal, duels = level(comparisons, task), level_duels(comparisons, task, "batches")
        if goal is None or duels is None:
            continue
        for name in comparisons.trained(task):
            duel = duels.duel(name, goal.of)
            if name != goal.of and duels.told_apart(name, goal.of) and duel.wins > duel.losses:
                sooner.append((task, name, duel))
    if not sooner:
        yield Said(f"No estimator was found to reach the final score of {plain} in fewer batches.")
        return
    task, name, duel = sooner[0]
    yield Said(
        f"On {clean(task, 60)}, {clean(name, 60)} reaches the final score of {plain} in fewer "
        f"batches in {duel.wins} of {duel.n} seeds."
    )


def _gamed(comparisons: Comparisons) -> Iterator[str]:
    """Warn where a lower NLL was paid for in diversity."""
    for task in comparisons.results.tasks:
        names, sure = [], True
        for name in comparisons.trained(task):
            nll, forward = (comparisons.change(task, name, m) for m in ("nll_oracle", "kl_forward"))
            if nll.known and forward.known and nll.value < 0 < forward.value:
                names.append(marked(name))
                ends = nll.has_interval and forward.has_interval
                sure = sure and ends and nll.high < 0 < forward.low
        if names:
            unsure = "" if sure else " These seeds do not make both changes certain."
            yield (
                f"Beware on {clean(task, 60)}: during training the oracle NLL fell while "
                f"KL(oracle || generator) rose, for {listed(names)}. Sampling at a lower "
                f"temperature does the same: a lower oracle NLL alone is no gain.{unsure}"
            )


# Is it unbiased? ----------------------------------------------------------------------------------


def _bias(comparisons: Comparisons) -> Iterator[Said]:
    """Say whose bias was found, and how much the others could still hide."""
    found: list[tuple[str, str, Estimate]] = []
    clear: list[tuple[str, str, Estimate]] = []
    for task in comparisons.results.tasks:
        values = {n: comparisons.bias(task, n) for n in comparisons.measured(task)}
        known = {n: v for n, v in values.items() if v.has_interval}
        # One-sided (a squared bias is not negative), and Holm over the estimators of the task.
        sides = [v.p_value / 2 if v.value > 0 else 1 - v.p_value / 2 for v in known.values()]
        for (name, value), p_value in zip(known.items(), holm(sides), strict=True):
            if estimator_facts(name).unbiased is not False:
                (found if p_value < ALPHA else clear).append((task, name, value))
    if found:
        task, name, value = max(found, key=lambda entry: entry[2].value)
        also = len({n for _, n, _ in found}) - 1
        others = f", and of {count(also, 'other estimator')}" if also else ""
        yield Said(
            f"The mean gradient of {marked(name)}{others} differs from the exact one by more than "
            f"noise: by {interval_words(value, ' %', 100.0)} of the gradient"
            f"{_on(comparisons, task)}."
        )
    limits = sorted(value.high for _, _, value in clear if value.high < TELLING)
    if limits:
        what = "the others" if found else "the estimators that are declared unbiased"
        half = about(100 * limits[len(limits) // 2])
        mostly = " but the noisiest" if len(limits) < len(clear) else " of them"
        yield Said(
            f"No bias was found in {what}: for half of them these draws rule out more than {half} %"
            f" of the gradient, and for all{mostly} more than {about(100 * limits[-1])} %."
        )
    mute = list(dict.fromkeys(marked(name) for _, name, value in clear if value.high >= TELLING))
    notes = (f"These draws cannot rule out a bias as large as the gradient for {listed(mute)}.",)
    names = comparisons.results.estimators(comparisons.results.measured)
    proven = [name for name in names if estimator_facts(name).proof == "unbiased"]
    reaches = sorted({estimator_facts(name).reach for name in proven} - {""})
    if proven:
        reach = (f"The proofs covered {'; '.join(reaches)}.",) if reaches else ()
        some = "All" if len(proven) == len(names) > 1 else f"{len(proven)} of"
        yield Said(
            f"{some} {count(len(names), 'estimator')} were proven unbiased beforehand, "
            "on problems whose exact gradient is known.",
            (*reach, *(notes if mute else ())),
        )
    elif mute:
        yield Said("For some estimators these draws are too noisy to say.", notes)


# Where does the noise come from? ------------------------------------------------------------------


def _sources(comparisons: Comparisons) -> Iterator[Said]:
    """Say what control variates remove, and which part of the policy the variance is in."""
    gains: list[tuple[float, str, str, Estimate]] = []
    for task in comparisons.results.tasks:
        for name in comparisons.measured(task):
            gain, at = comparisons.control_variate_gain(task, name), comparisons.at(task)
            heavy = at.heavy_part("sequence")[at.places[name]] >= HEAVY_PART
            kept = estimator_facts(name).ranked and not without_baseline(name)
            if gain.has_interval and kept and not heavy:
                gains.append((gain.value, task, name, gain))
    if gains and min(gains)[0] < 1.0:
        _, task, name, gain = min(gains, key=lambda entry: entry[0])
        part = Estimate(1.0 - gain.value, 1.0 - gain.high, 1.0 - gain.low, gain.n)
        yield Said(
            f"The control variate of {clean(name, 60)} removes "
            f"{interval_words(part, ' %', 100.0)} of the noise{_on(comparisons, task)}, against "
            "the same draws without it."
        )
    rows = comparisons.results.sources
    rows = rows[(rows["by"] == "tensor") & (rows["estimator"] == BASELINED)]
    means = rows.groupby(["task", "part"], sort=False)["share"].mean()
    if len(means.dropna()):
        task, part = map(str, means.idxmax())  # type: ignore[call-overload]
        yield Said(
            f"With {BASELINED_WORDS}, the tensor {clean(part, 60)} has the largest share: "
            f"{percent_words(float(means.max()))} of the variance on {clean(task, 60)}."
        )


# How does it compare with the paper? --------------------------------------------------------------


def _paper(comparisons: Comparisons) -> Iterator[Said]:
    """Say who ended with the lowest log variance in the paper, and who does here."""
    if len(_of_the_paper(comparisons)) < 2 and _shared_tasks(comparisons):
        yield Said("The paper's estimators were not trained here, so nothing can be compared.")
    for task in comparisons.results.tasks:
        theirs = {n: v[-1] for (t, q, n), v in published().items() if (t, q) == (task, VARIANCE)}
        finals = {n: comparisons.final(task, n, ELEMENT).value for n in theirs}
        ours = {name: value for name, value in finals.items() if math.isfinite(value)}
        if len(ours) < 2:
            continue
        there, here = min(theirs, key=theirs.__getitem__), min(ours, key=ours.__getitem__)
        theirs_text = "as in the paper" if there == here else f"in the paper it is {there}"
        yield Said(
            f"On {clean(task, 60)}, {here} ends with the lowest log variance of one gradient "
            f"element{',' if there == here else ';'} {theirs_text}.",
            (PAPER_NOTE,),
        )


def _shared_tasks(comparisons: Comparisons) -> set[str]:
    """Return the tasks of the paper that were trained on."""
    tasks = {task for task, _, _ in published()}
    return {task for task in comparisons.results.tasks if comparisons.trained(task)} & tasks


def _of_the_paper(comparisons: Comparisons) -> set[str]:
    """Return the estimators of the paper that were trained on its tasks."""
    trained = {n for task in _shared_tasks(comparisons) for n in comparisons.trained(task)}
    return trained & {name for _, _, name in published()}

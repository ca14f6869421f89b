"""Sentences on how soon each estimator reaches the score that plain REINFORCE ends with."""

from __future__ import annotations

import math
from collections.abc import Iterator

from estbench.report.data.comparisons import TRAINING, Comparisons
from estbench.report.data.duels import Duels
from estbench.report.data.formatting import clean, number, p_text, quantity
from estbench.report.data.labels import estimator_facts
from estbench.report.data.learning import Level, TimeToLevel, level, level_duels, time_to_level
from estbench.report.data.marks import lost_text
from estbench.report.data.statistics import ENOUGH_SEEDS, Estimate

__all__ = ["arrivals", "level_text", "time_text"]


def arrivals(comparisons: Comparisons, task: str) -> Iterator[str]:
    """Say in what time, in batches and in seconds, and who is there before whom."""
    goal = level(comparisons, task)
    if goal is None:
        return
    for unit in ("batches", "seconds"):
        times = {
            name: time
            for name in comparisons.trained(task)
            if not math.isnan((time := time_to_level(comparisons, task, name, unit)).median.value)
        }
        duels = level_duels(comparisons, task, unit)
        if len(times) < 2 or duels is None:
            continue
        if unit == "batches" and _at_once(times):
            yield (
                f"Every run is at {level_text(goal)}, from its first evaluation on: on "
                f"{clean(task, 60)} this schedule does not show who learns sooner."
            )
            return
        listed = ", ".join(
            f"{_name(name)} {time_text(time, lost_text(comparisons, TRAINING, task, name))}"
            for name, time in times.items()
        )
        counts = [time.median.n for time in times.values()]
        few = "; too few seeds to rank by" if min(counts) < ENOUGH_SEEDS else ""
        where = (
            f"Median batches on {clean(task, 60)} to {level_text(goal)}"
            if unit == "batches"
            else "In seconds (batches times the seconds of a generator step in the timing pass)"
        )
        against = goal.of if goal.of in times else ""
        order = _order(duels, list(times), against) if against else ""
        yield f"{where}: {listed}{few}.{order}"


def _at_once(times: dict[str, TimeToLevel]) -> bool:
    """Whether every run reached the level, all at the same batch."""
    return (
        all(time.reached == time.median.n for time in times.values())
        and len({time.latest for time in times.values()} | {t.first for t in times.values()}) == 1
    )


def level_text(goal: Level) -> str:
    """Return what the level is."""
    return f"{goal.metric.label} {number(goal.value, 3)}, the mean with which {_name(goal.of)} ends"


def time_text(time: TimeToLevel, lost: str = "") -> str:
    """Return "40 [30, 55] (9 of 9 seeds, 1 failed)"; what is never reached is said so."""
    median = time.median
    write = _batches if time.unit == "batches" else quantity
    head = write(median.value) if math.isfinite(median.value) else "not reached by half"
    ends = ""
    if not math.isnan(median.low) and math.isfinite(median.low):
        high = write(median.high) if math.isfinite(median.high) else "no limit"
        ends = f" [{write(median.low)}, {high}]"
    return f"{head}{ends} ({time.reached} of {median.n} seeds{lost and ', ' + lost})"


def _order(duels: Duels, names: list[str], against: str) -> str:
    """Say who is there before and after the estimator that the level is of, by the sign test."""
    sides: dict[str, list[str]] = {"sooner": [], "later": [], "open": []}
    for name in names:
        duel = duels.duel(name, against)
        if name == against or duel.n == 0:
            continue
        estimate: Estimate = duel.estimate
        apart = duels.told_apart(name, against)
        side = "open" if not apart else "sooner" if estimate.value > 0.5 else "later"
        wins = duel.losses if side == "later" else duel.wins
        half = [(duel.ties, "tied"), (duel.undecided, "undecided")]
        rest = ", ".join(f"{count} {word}" for count, word in half if count)
        said = f"{_name(name)} in {wins} of {duel.n} seeds{rest and f' ({rest})'}"
        p_value = f", Holm {p_text(duels.p_holm(name, against))}" if apart else ""
        sides[side].append(said + p_value)
    heads = {
        "sooner": f"There before {_name(against)}:",
        "later": f"There after {_name(against)}:",
        "open": f"No difference from {_name(against)} was found; sooner:",
    }
    return "".join(f" {heads[side]} {'; '.join(said)}." for side, said in sides.items() if said)


def _batches(value: float) -> str:
    return f"{value:.0f}" if value == round(value) else f"{value:.1f}"


def _name(estimator: str) -> str:
    return clean(estimator, 60) + estimator_facts(estimator).mark

"""Noise over several tasks: the mean over tasks, and the profile of single tasks and seeds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from estbench.report.data.across import Across, across_tasks, profile
from estbench.report.data.comparisons import BASELINED, SNAPSHOTS, Comparisons
from estbench.report.data.labels import estimator_facts
from estbench.report.data.statistics import Estimate
from estbench.report.view.figures.base import Drawn, belonging, entries, order_rows
from estbench.report.view.figures.captions import described
from estbench.report.view.figures.direct import label_ends, line_figure
from estbench.report.view.figures.emphasis import in_focus, shown
from estbench.report.view.figures.forest import Forest, Mark, Row, draw_columns
from estbench.report.view.figures.rows import left_out
from estbench.report.view.figures.scales import plain_log_ticks
from estbench.report.view.style import REFERENCE_LINE
from estbench.report.view.words import times

__all__ = ["draw", "draw_profile"]

EVERY = "all tasks"
FARTHEST = 16.0  # ratio, either way, at the ends of the profile
POINTS = 129
FAR = 50.0


def draw(comparisons: Comparisons) -> Drawn | None:
    """Draw the mean over tasks of every estimator that was measured on all of them."""
    found = {name: one for name, one in _ranked(comparisons).items() if one.estimate.known}
    if not found:
        return None
    rows = [
        (EVERY, name, BASELINED, *one.estimate.numbers, one.bound, *_extremes(one))
        for name, one in found.items()
    ]
    columns = ["task", "estimator", "against", "estimate", "low", "high", "n", "bound"]
    data = pd.DataFrame(rows, columns=[*columns, "best_task", "best", "worst_task", "worst"])
    panel = [Row(name, _marks(one)) for name, one in found.items()]
    far = [n for n, one in found.items() if abs(math.log(one.estimate.value)) > math.log(FAR)]
    names = order_rows(found)
    label = f"noise per reward evaluation, ratio to {BASELINED} (log axis)"
    figure = draw_columns(Forest({EVERY: panel}, label, reference=1.0, stretch=far), names)
    tasks = map(str, next(iter(found.values())).logs)
    return described(
        comparisons,
        "across",
        "Noise per reward evaluation, averaged over tasks",
        f"Ratio to {BASELINED}, geometric mean over {', '.join(tasks)}. Left of the line is less "
        "noisy. Whiskers: 95 % t intervals over seeds ({n}); tasks are averaged within a seed, so "
        "that the interval speaks of these tasks and no others. Small open circles: single tasks. "
        "Hollow with an arrow: heavy tails leave only a bound. Estimators that do not fit one of "
        "the tasks, or are not ranked, are left out.",
        (f"{name} {times(one.estimate, one.bound)}" for name, one in found.items()),
        data,
        figure,
        kind=SNAPSHOTS,
        left_out=left_out(figure, names),
    )


def draw_profile(comparisons: Comparisons) -> Drawn | None:
    """Draw on what share of tasks and seeds an estimator is at most so noisy."""
    found = {name: one for name, one in _ranked(comparisons).items() if not one.logs.dropna().empty}
    if not found:
        return None
    tasks = len({task for one in found.values() for task in one.logs})
    at = np.geomspace(1 / FARTHEST, FARTHEST, POINTS)
    data = pd.concat(
        pd.DataFrame(
            {
                "task": EVERY,
                "estimator": name,
                "ratio": at,
                "share": profile(one, tasks, at),
                "n": int(one.logs.notna().any(axis=1).sum()),
            }
        )
        for name, one in found.items()
    )
    figure, axes = line_figure({EVERY: data}, 2.6)
    (ax,) = axes[EVERY]
    names = order_rows(found)
    ax.axvline(1.0, color=REFERENCE_LINE, linewidth=0.9, zorder=1)
    for name in sorted(names, key=lambda name: in_focus(name, names)):
        own = data[data["estimator"] == name]
        style, focused = shown(name, names), in_focus(name, names)
        drawn: dict[str, Any] = {"color": style.colour, "linewidth": 0.6, "zorder": 1.8}
        if focused:
            drawn = style.line | {"linewidth": 1.5, "zorder": 3}
        with belonging(ax, name):
            ax.step(own["ratio"], own["share"], where="post", **drawn)
    ax.set_xscale("log")
    ax.set_xlim(1 / FARTHEST, FARTHEST)
    ax.set_ylim(-0.02, 1.02)
    plain_log_ticks(ax.xaxis, ratio=True)
    ax.set_xlabel(f"noise, ratio to {BASELINED} (log axis)")
    ax.set_ylabel("share of tasks and seeds")
    label_ends(
        ax, {name: float(data.loc[data["estimator"] == name, "share"].iloc[-1]) for name in names}
    )
    half = data[data["share"] >= 0.5].groupby("estimator", sort=False)["ratio"].min()
    return described(
        comparisons,
        "profile",
        "On what share of tasks and seeds an estimator is at most so noisy",
        f"Up: the share of tasks and seeds on which the noise is at most so many times that of "
        f"{BASELINED}; farther up and left is better. All {tasks} tasks weigh the same; one that "
        "an estimator does not fit counts as never reached. {n} a task. It describes these runs; "
        "95 % intervals are in the figure of the mean over tasks.",
        (f"{row['estimator']} {row['ratio']:.2g}" for row in entries(half.reset_index())),
        data,
        figure,
        half.reset_index().assign(task=EVERY)[["task", "estimator", "ratio"]],
        lead="The ratio that half of them reach: ",
        kind=SNAPSHOTS,
        counts=data,
    )


def _ranked(comparisons: Comparisons) -> dict[str, Across]:
    every = across_tasks(comparisons)
    return {name: one for name, one in every.items() if estimator_facts(name).ranked}


def _marks(one: Across) -> tuple[Mark, ...]:
    single = [float(np.exp(one.logs[task].mean())) for task in one.logs]
    small = [
        Mark(Estimate(value), marker="o", filled=False, size=2.4, offset=0.26) for value in single
    ]
    return (*small, Mark(one.estimate, one.bound, size=4.2, offset=-0.08))


def _extremes(one: Across) -> tuple[object, ...]:
    """Return the tasks on which the ratio is smallest and largest, with the ratios."""
    means = one.logs.mean().sort_values()
    ends = (means.index[0], means.index[-1])
    return tuple(part for task in ends for part in (task, float(np.exp(means[task]))))

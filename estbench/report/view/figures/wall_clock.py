"""Seconds per generator step, from the serial timing pass."""

from __future__ import annotations

import pandas as pd

from estbench.report.data.comparisons import PLAIN, Comparisons
from estbench.report.data.formatting import interval, quantity, with_interval
from estbench.report.data.statistics import Estimate
from estbench.report.view.figures.base import Drawn, biased_text, few_text, n_text, panel_title
from estbench.report.view.figures.forest import Mark, forest_figure, forest_panel
from estbench.report.view.figures.scales import CUT

__all__ = ["draw"]


def draw(comparisons: Comparisons) -> Drawn | None:
    """Draw milliseconds per step, with the ratio to `reinforce` beside it."""
    panels: dict[str, list[Mark]] = {}
    rows = []
    for task in comparisons.results.tasks:
        for estimator in comparisons.timed(task):
            own = comparisons.seconds(task, estimator)
            against = comparisons.compare(task, "seconds_per_step", estimator, PLAIN)
            step = Estimate(1e3 * own.value, 1e3 * own.low, 1e3 * own.high, own.n)
            ratio_text = "1×" if estimator == PLAIN else with_interval(against)
            texts = (f"{quantity(step.value)} {interval(step)}", ratio_text)
            panels.setdefault(task, []).append(Mark(estimator, step, texts))
            numbers = (own.value, own.low, own.high, own.n)
            rows.append((task, estimator, *numbers, against.value, against.low, against.high))
    if not panels:
        return None
    columns = ["task", "estimator", "seconds_per_step", "low", "high", "n"]
    data = pd.DataFrame(rows, columns=[*columns, "ratio", "ratio_low", "ratio_high"])
    figure, axes = forest_figure(
        [len(marks) for marks in panels.values()], columns=2.42, names=data["estimator"]
    )
    for ax, (task, marks) in zip(axes, panels.items(), strict=True):
        forest_panel(
            ax,
            marks,
            heads=("milliseconds", f"ratio to {PLAIN}"),
            column_inches=1.2,
            xlabel="ms per step (log axis)",
            ratio=False,
        )
        panel_title(ax, task)
    title = "Wall-clock: time of one generator step"
    caption = (
        "Milliseconds per generator step (sampling, reward, backward pass, total variance, "
        "adaptation and update, for one batch; the discriminator is not in it), from a timing pass "
        "of its own: serial, one thread, estimators interleaved, after warm-up. Geometric mean "
        "over rounds and its 95 % t interval, "
        f"{n_text(data[['task', 'estimator', 'n']], 'rounds')}; ratios to {PLAIN} are paired by "
        "round. Left is faster. Rounds on one machine: the interval covers its noise, not other "
        f"machines. {CUT}{few_text(data['n'], 'rounds')}{biased_text(data['estimator'])}"
    )
    said = "; ".join(
        f"{mark.estimator} on {task} {mark.texts[0]} ms, {mark.texts[1]}"
        for task, marks in panels.items()
        for mark in marks
    )
    table = pd.DataFrame(
        [
            {
                "task": task,
                "estimator": mark.estimator,
                "milliseconds per step": mark.texts[0],
                f"ratio to {PLAIN}": mark.texts[1],
                "rounds": mark.estimate.n,
            }
            for task, marks in panels.items()
            for mark in marks
        ]
    )
    return Drawn("wall_clock", title, caption, f"{title}: {said}.", data, figure, table)

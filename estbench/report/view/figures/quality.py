"""How good the generated sequences are: goodness, or NLL under the oracle, by batch and by time."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from estbench.report.data.comparisons import TRAINING, Comparisons
from estbench.report.data.formatting import clean, number, quantity, with_interval
from estbench.report.data.labels import Metric, batch_name, best_value, estimator_facts
from estbench.report.data.learning import TimeToLevel, level, time_to_level
from estbench.report.view.figures.base import (
    Drawn,
    belonging,
    biased_text,
    entries,
    few_text,
    label_room,
    n_text,
    order_rows,
    stacked,
)
from estbench.report.view.figures.curves import (
    curve_data,
    curve_labels,
    curve_panel,
    drawable,
    seeds_text,
    smoothing_text,
)
from estbench.report.view.figures.direct import label_tall
from estbench.report.view.figures.emphasis import focus_text, in_focus, shown
from estbench.report.view.figures.log_variance import last_points, last_table
from estbench.report.view.figures.notes import lost_note
from estbench.report.view.figures.scales import plain_log_ticks
from estbench.report.view.style import MUTED, REFERENCE_LINE

__all__ = ["best_line", "draw", "draw_seconds"]

WORDS = {"higher": "higher is better", "lower": "lower is better", "neither": "neither is better"}
FAR = 6.0  # times the shortest training; beyond it the axis of seconds is logarithmic

Panels = dict[str, tuple[Metric, pd.DataFrame]]


def draw(comparisons: Comparisons) -> Drawn | None:
    """Draw each task's own metric of quality; nothing where no task has one."""
    panels = _panels(comparisons)
    if not panels:
        return None
    data = pd.concat([rows for _, rows in panels.values()], ignore_index=True)
    figure, axes = _figure(panels)
    said, lined = [], []
    for ax, (task, (metric, rows)) in zip(axes, panels.items(), strict=True):
        direction = WORDS.get(metric.better, "")
        curve_panel(ax, rows, title=task, quantity=f"{metric.axis}, {direction}", labels=False)
        lined.append(best_line(ax, task, metric.name))
        curve_labels(ax, rows)
        said.append(f"{metric.label} on {task}: {direction}")
    last = last_points(data)
    caption = (
        f"Quality of the generated sequences at every {batch_name(*panels)} ({'; '.join(said)}). "
        f"{_lines_text(comparisons, data, last)}"
        + (" Level line: the best value there is." if any(lined) else "")
        + " Goodness and oracle NLL ignore diversity: read them with the figure of diversity."
        + _notes(comparisons, panels, last)
    )
    title = "Quality of the generated sequences during training"
    ends = "; ".join(
        f"{row['estimator']} on {row['task']} {number(row['estimate'])}" for row in entries(last)
    )
    alt = f"{title}. At the end: {ends}."
    return Drawn("quality", title, caption, alt, data, figure, last_table(last))


def draw_seconds(comparisons: Comparisons) -> Drawn | None:
    """Draw the same against wall-clock: what a second of training buys."""
    panels: Panels = {}
    untimed: list[str] = []
    timed_by: dict[str, str] = {}
    for task, (metric, rows) in _panels(comparisons).items():
        pace, timed_by[task] = _pace(comparisons, task)
        untimed += [
            f"{clean(n, 40)} on {clean(task, 40)}"
            for n in order_rows(rows["estimator"])
            if n not in pace
        ]
        kept = rows[rows["estimator"].isin(list(pace))]
        if not kept.empty:
            seconds = (kept["step"] + 1.0) * kept["estimator"].map(pace)
            panels[task] = (metric, kept.assign(seconds=seconds, timed_by=timed_by[task]))
    if not panels:
        return None
    data = pd.concat([rows for _, rows in panels.values()], ignore_index=True)
    figure, axes = _figure(panels)
    for ax, (task, (metric, rows)) in zip(axes, panels.items(), strict=True):
        curve_panel(
            ax,
            rows,
            title=task,
            quantity=f"{metric.axis}, {WORDS.get(metric.better, '')}",
            xlabel="seconds of generator steps",
            across="seconds",
            labels=False,
        )
        _time_axis(ax, rows)
        best_line(ax, task, metric.name)
        _level_line(ax, comparisons, task)
        _run_outs(ax, rows)
        curve_labels(ax, rows)
    last = last_points(data)
    sources = {
        by: [t for t in panels if timed_by[t] == by] for by in dict.fromkeys(data["timed_by"])
    }
    caption = (
        f"The curves of quality against wall-clock. {_pace_text(sources)} "
        f"{_lines_text(comparisons, data, last)} All have the same number of batches, so a line "
        f"that ends early (dot) is of a faster estimator.{_level_text(comparisons, panels)}"
        + (f" Not timed, so not drawn: {'; '.join(untimed)}." if untimed else "")
        + _notes(comparisons, panels, last)
    )
    title = "Quality of the generated sequences against wall-clock"
    table = _times(comparisons, panels)
    said = "; ".join(
        f"{row['estimator']} on {row['task']}: {row['seconds to the level']}"
        for row in entries(table)
    )
    alt = f"{title}. Seconds to the level at which the plain estimator ends: {said}."
    return Drawn("quality_seconds", title, caption, alt, data, figure, table)


def _panels(comparisons: Comparisons) -> Panels:
    """Return each task's metric and curves, where it has both."""
    panels: Panels = {}
    for task in comparisons.results.tasks:
        metric = comparisons.primary(task)
        if metric:
            rows = curve_data(comparisons.results.curves, task, metric.name)
            if not rows.empty:
                panels[task] = (metric, drawable(rows).assign(metric=metric.name))
    return panels


def _figure(panels: Panels) -> tuple[Figure, list[Axes]]:
    names = [name for _, rows in panels.values() for name in rows["estimator"].unique()]
    tall = [label_tall(rows["estimator"].nunique(), 1.95) for _, rows in panels.values()]
    return stacked(len(panels), height=tall, right=label_room(names))


def _lines_text(comparisons: Comparisons, data: pd.DataFrame, last: pd.DataFrame) -> str:
    return (
        f"Line: mean over seeds, {n_text(last)}; band: 95 % t interval over seeds, point by point; "
        f"{seeds_text(data)}. {smoothing_text(data)}"
    )


def _notes(comparisons: Comparisons, panels: Panels, last: pd.DataFrame) -> str:
    names = list(last["estimator"])
    lost = lost_note(comparisons, TRAINING, panels, names)
    return f"{few_text(last['n'])}{lost}{focus_text(names)}{biased_text(names)}"


def _pace(comparisons: Comparisons, task: str) -> tuple[dict[str, float], str]:
    """Return seconds a batch of each estimator, and whether "timing" or "runs" told them."""
    timed = {name: comparisons.seconds(task, name).value for name in comparisons.timed(task)}
    if timed:
        return timed, "timing"
    curves = comparisons.results.curves
    rows = curves[(curves["task"] == task) & curves["seconds"].notna()]
    ends = rows.groupby(["estimator", "seed"]).last()
    means = (ends["seconds"] / (ends["step"] + 1.0)).groupby("estimator").mean()
    return {str(name): float(value) for name, value in means.items() if value > 0.0}, "runs"


def _pace_text(sources: dict[str, list[str]]) -> str:
    """Return where the seconds are from."""
    said = {
        "timing": "Seconds are batches times the seconds of a generator step in the serial timing "
        "pass; discriminator and evaluation, the same for all, are not in them.",
        "runs": "Seconds are those of the runs themselves, everything in them, on a machine that "
        "they may have shared: no timing pass was made.",
    }
    if len(sources) == 1:
        return said[next(iter(sources))]
    return " ".join(f"On {', '.join(tasks)}: {said[by]}" for by, tasks in sources.items())


def _time_axis(axes: Axes, rows: pd.DataFrame) -> None:
    """Make the axis of seconds logarithmic where estimators differ much in speed."""
    ends = rows.groupby("estimator")["seconds"].max()
    if len(ends) > 1 and float(ends.max()) > FAR * float(ends.min()):
        axes.set_xscale("log")
        first = 0.9 * float(rows["seconds"].min())
        axes.set_xlim(max(first, float(ends.min()) / 50.0), 1.05 * float(ends.max()))
        plain_log_ticks(axes.xaxis)
        axes.set_xlabel("seconds of generator steps (log axis)")
    else:
        axes.set_xlim(0.0, 1.015 * float(ends.max()))


def _run_outs(axes: Axes, rows: pd.DataFrame) -> None:
    """Mark where each line ends, and lead the eye from there to its label."""
    means = rows[rows["seed"].isna()]
    names = order_rows(means["estimator"])
    _, edge = axes.get_xlim()
    for name in names:
        end = means[means["estimator"] == name].iloc[-1]
        style, focused = shown(name, names), in_focus(name, names)
        x, y = float(end["seconds"]), float(end["estimate"])
        with belonging(axes, name):
            if focused:
                axes.plot([x], [y], marker="o", markersize=3.0, color=style.colour, zorder=4)
            axes.plot([x, edge], [y, y], color=style.colour, linewidth=0.5, alpha=0.45, zorder=1.6)


def _level_line(axes: Axes, comparisons: Comparisons, task: str) -> None:
    """Draw the level that times are taken to."""
    goal = level(comparisons, task)
    if goal is None:
        return
    axes.axhline(
        goal.value, color=REFERENCE_LINE, linewidth=0.8, linestyle=(0.0, (4.0, 3.0)), zorder=1
    )


def _level_text(comparisons: Comparisons, panels: Panels) -> str:
    """Return whose final mean is the level, task by task if they differ."""
    of = {task: goal.of for task in panels if (goal := level(comparisons, task))}
    if not of:
        return ""
    whose = clean(next(iter(of.values())), 40)
    if len(set(of.values())) > 1:
        whose = "; ".join(f"{clean(name, 40)} (on {clean(task, 40)})" for task, name in of.items())
    return (
        f" Dashed level: the mean with which {whose} ends. Times to it are medians over seeds by "
        "Kaplan and Meier, with log-log 95 % limits; seeds that never reach it count as longer."
    )


def _times(comparisons: Comparisons, panels: Panels) -> pd.DataFrame:
    """Return final quality and the times to the level, a row a task and estimator."""
    rows = []
    for task, (metric, _) in panels.items():
        goal = level(comparisons, task)
        for name in comparisons.trained(task):
            row: dict[str, object] = {
                "task": task,
                "estimator": clean(name, 60) + estimator_facts(name).mark,
                "at the last batch": with_interval(
                    comparisons.final(task, name, metric.name), "number", 3
                ),
                "level": number(goal.value, 3) if goal else "–",
            }
            for unit in ("batches", "seconds"):
                time = time_to_level(comparisons, task, name, unit)
                known = not np.isnan(time.median.value)
                row[f"{unit} to the level"] = time_text(time) if known else "–"
            rows.append(row)
    return pd.DataFrame(rows)


def time_text(time: TimeToLevel) -> str:
    """Return "40 (30 to 55), 9 of 9 seeds"; a level that half never reach says so."""
    median = time.median
    write = (lambda value: f"{value:g}") if time.unit == "batches" else quantity
    head = write(median.value) if math.isfinite(median.value) else "not reached by half"
    if not math.isnan(median.low) and math.isfinite(median.low):
        high = write(median.high) if math.isfinite(median.high) else "no limit"
        head += f" ({write(median.low)} to {high})"
    return f"{head}, {time.reached} of {median.n} seeds"


def best_line(axes: Axes, task: str, metric: str) -> bool:
    """Draw the best value that the metric can have on the task, where it is near and known."""
    value, name = best_value(task, metric)
    low, high = axes.get_ylim()
    is_ceiling = value > 0.5 * (low + high)
    if not math.isfinite(value) or not low - (high - low) <= value <= high + (high - low):
        return False
    # The name stands beyond the line, where no curve can be.
    room = 0.085 * (high - low)
    axes.set_ylim(min(low, value - room), max(high, value + room))
    axes.axhline(value, color=REFERENCE_LINE, linewidth=0.8, zorder=1)
    axes.annotate(
        name,
        (0.0, value),
        (3.0, 1.0 if is_ceiling else -1.5),
        ("axes fraction", "data"),
        "offset points",
        va="bottom" if is_ceiling else "top",
        color=MUTED,
        size=7,
    )
    return True

"""How good the generated sequences are: goodness, or NLL under the oracle, by batch and by time."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from estbench.report.data.comparisons import TRAINING, Comparisons
from estbench.report.data.formatting import clean, number, quantity, with_interval
from estbench.report.data.labels import Metric, batch_name, best_value, estimator_facts
from estbench.report.data.learning import TimeToLevel, level, time_to_level
from estbench.report.view.figures.base import Drawn, belonging, entries, order_rows
from estbench.report.view.figures.captions import described
from estbench.report.view.figures.curves import (
    curve_data,
    curve_labels,
    curve_panel,
    curves_text,
    drawable,
    last_points,
    last_table,
)
from estbench.report.view.figures.direct import line_figure
from estbench.report.view.figures.emphasis import in_focus, shown
from estbench.report.view.figures.scales import plain_log_ticks
from estbench.report.view.style import MUTED, REFERENCE_LINE

__all__ = ["draw", "draw_seconds", "time_text"]

FAR = 6.0  # times the shortest training; beyond it the axis of seconds is logarithmic


def draw(comparisons: Comparisons) -> Drawn | None:
    """Draw each task's own metric of quality; nothing where no task has one."""
    metrics, panels = _panels(comparisons)
    if not panels:
        return None
    data = pd.concat(panels.values(), ignore_index=True)
    figure, axes = line_figure(panels, 1.95)
    lined = False
    for task, rows in panels.items():
        (ax,), metric = axes[task], metrics[task]
        curve_panel(ax, rows, title=task, quantity=f"{metric.axis}, {metric.better} is better")
        lined = _best_line(ax, task, metric.name) or lined
        curve_labels(ax, rows)
    last = last_points(data)
    said = "; ".join(f"{m.label} on {t}: {m.better} is better" for t, m in metrics.items())
    return described(
        comparisons,
        "quality",
        "Quality of the generated sequences during training",
        f"Quality of the generated sequences at every {batch_name(*panels)} ({said}). "
        + curves_text(data)
        + " Level line: the best value there is." * lined
        + " Goodness and oracle NLL ignore diversity: read them with the figure of diversity.",
        (f"{r['estimator']} on {r['task']} {number(r['estimate'])}" for r in entries(last)),
        data,
        figure,
        last_table(last),
        lead="At the end: ",
        kind=TRAINING,
        counts=last,
    )


def draw_seconds(comparisons: Comparisons) -> Drawn | None:
    """Draw the same against wall-clock: what a second of training buys."""
    metrics, panels = _panels(comparisons)
    untimed: list[str] = []
    sources: dict[str, list[str]] = {}
    for task, rows in list(panels.items()):
        pace, timed_by = _pace(comparisons, task)
        names = order_rows(rows["estimator"])
        untimed += [f"{clean(n, 40)} on {clean(task, 40)}" for n in names if n not in pace]
        kept = rows[rows["estimator"].isin(list(pace))]
        if kept.empty:
            del panels[task]
            continue
        seconds = (kept["step"] + 1.0) * kept["estimator"].map(pace)
        panels[task] = kept.assign(seconds=seconds, timed_by=timed_by)
        sources.setdefault(timed_by, []).append(task)
    if not panels:
        return None
    data = pd.concat(panels.values(), ignore_index=True)
    figure, axes = line_figure(panels, 1.95)
    for task, rows in panels.items():
        (ax,), metric = axes[task], metrics[task]
        up = f"{metric.axis}, {metric.better} is better"
        along = "seconds of generator steps"
        curve_panel(ax, rows, title=task, quantity=up, xlabel=along, across="seconds")
        _time_axis(ax, rows)
        _best_line(ax, task, metric.name)
        if goal := level(comparisons, task):
            dash = (0.0, (4.0, 3.0))
            ax.axhline(goal.value, color=REFERENCE_LINE, linewidth=0.8, linestyle=dash, zorder=1)
        _run_outs(ax, rows)
        curve_labels(ax, rows)
    table = _times(comparisons, {task: metrics[task] for task in panels})
    caption = [
        f"The curves of quality against wall-clock. {_pace_text(sources)} {curves_text(data)}",
        "All have the same number of batches, so a line that ends early (dot) is of a faster "
        "estimator.",
        _level_text(comparisons, list(panels)),
        f"Not timed, so not drawn: {'; '.join(untimed)}." if untimed else "",
    ]
    return described(
        comparisons,
        "quality_seconds",
        "Quality of the generated sequences against wall-clock",
        " ".join(filter(None, caption)),
        (f"{r['estimator']} on {r['task']}: {r['seconds to the level']}" for r in entries(table)),
        data,
        figure,
        table,
        lead="Seconds to the level at which the plain estimator ends: ",
        kind=TRAINING,
        counts=last_points(data),
    )


def _panels(comparisons: Comparisons) -> tuple[dict[str, Metric], dict[str, pd.DataFrame]]:
    """Return each task's metric and its curves, where it has both."""
    metrics, panels = {}, {}
    for task in comparisons.results.tasks:
        metric = comparisons.primary(task)
        rows = curve_data(comparisons.results.curves, task, metric.name if metric else "")
        if metric and not rows.empty:
            metrics[task], panels[task] = metric, drawable(rows).assign(metric=metric.name)
    return metrics, panels


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
        "pass, without discriminator and evaluation, which cost all the same.",
        "runs": "Seconds are those of whole runs, on a machine that they may have shared: no "
        "timing pass was made.",
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


def _level_text(comparisons: Comparisons, tasks: list[str]) -> str:
    """Return whose final mean is the level, task by task if they differ."""
    of = {task: clean(goal.of, 40) for task in tasks if (goal := level(comparisons, task))}
    if not of:
        return ""
    whose = next(iter(of.values()))
    if len(set(of.values())) > 1:
        whose = "; ".join(f"{name} (on {clean(task, 40)})" for task, name in of.items())
    return (
        f"Dashed level: the mean with which {whose} ends. Times to it are medians over seeds with "
        "95 % limits; seeds that never reach it count as longer (Kaplan-Meier)."
    )


def _times(comparisons: Comparisons, metrics: dict[str, Metric]) -> pd.DataFrame:
    """Return final quality and the times to the level, a row a task and estimator."""
    rows = []
    for task, metric in metrics.items():
        goal = level(comparisons, task)
        for name in comparisons.trained(task):
            final = comparisons.final(task, name, metric.name)
            row = {
                "task": task,
                "estimator": clean(name, 60) + estimator_facts(name).mark,
                "at the last batch": with_interval(final, "number", 3),
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


def _best_line(axes: Axes, task: str, metric: str) -> bool:
    """Draw the best value that the metric can have on the task, where it is near and known."""
    value, name = best_value(task, metric)
    low, high = axes.get_ylim()
    is_ceiling = value > 0.5 * (low + high)
    if not math.isfinite(value) or not low - (high - low) <= value <= high + (high - low):
        return False
    # The name is beyond the line, where no curve can be.
    room = 0.085 * (high - low)
    axes.set_ylim(min(low, value - room), max(high, value + room))
    axes.axhline(value, color=REFERENCE_LINE, linewidth=0.8, zorder=1)
    above, beside = (1.0, "bottom") if is_ceiling else (-1.5, "top")
    place = ((0.0, value), (3.0, above), ("axes fraction", "data"), "offset points")
    axes.annotate(name, *place, va=beside, color=MUTED, size=7)
    return True

"""Relative bias of the measured gradient at the shared snapshots."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from estbench.report.data.comparisons import SNAPSHOTS, Comparisons
from estbench.report.data.formatting import quantity
from estbench.report.data.statistics import Estimate, interval_frame
from estbench.report.view.figures.base import (
    Drawn,
    belonging,
    belongs,
    biased_text,
    few_text,
    fewest,
    label,
    n_text,
    name_room,
    panel_title,
    stacked,
)
from estbench.report.view.figures.notes import lost_note
from estbench.report.view.figures.scales import CUT, view
from estbench.report.view.style import INK, MUTED, REFERENCE_LINE, look

__all__ = ["draw"]

ROUNDING = 1e-5  # of the gradient: less is how single precision rounds it

ROW_INCHES = 0.3
FAR = 10.0  # per cent; beyond it the axis becomes logarithmic outside +- 1 %


def draw(comparisons: Comparisons) -> Drawn | None:
    """Draw, an estimator a row, the bias at each snapshot and print its mean."""
    rows = comparisons.results.measured.dropna(subset=["relative_bias"])
    if rows.empty:
        return None
    data = _data(rows)
    tasks = [task for task in comparisons.results.tasks if task in set(data["task"])]
    panels = {task: data[data["task"] == task] for task in tasks}
    heights = [ROW_INCHES * part["estimator"].nunique() + 0.12 for part in panels.values()]
    figure, axes = stacked(
        len(tasks),
        height=heights,
        left=name_room(data["estimator"]),
        right=1.42,
        top=0.42,
        bottom=0.46,
        gap=0.9,
    )
    printed = []
    for ax, (task, part) in zip(axes, panels.items(), strict=True):
        printed += _panel(ax, comparisons, task, part)
    data = pd.concat(panels.values(), ignore_index=True)
    counts = fewest(data)
    names = set(data["estimator"])
    title = "Relative bias of the gradient at the shared snapshots"
    clipped = not (rows["relative_bias_squared"] < 0.0).any()
    caption = (
        "Distance of the mean gradient from the exact gradient (by enumeration, or a many-draw "
        "reference where that is too large), over the norm of the exact gradient. Squared, with "
        "the noise of both gradients subtracted, then averaged over seeds; mark and whisker are "
        f"the roots of that mean and of its 95 % t interval, {n_text(counts)}. A mark for each "
        "snapshot, the first on top; the number is over all of them. Nearer to zero is "
        "better. A whisker that reaches zero finds no bias, and its right end is the bias that the "
        f"draws leave possible; of many, about one in forty clears zero by chance. {CUT}"
        + (" The records hold no bias below zero, so marks lean to the right." if clipped else "")
        + few_text(counts["n"])
        + lost_note(comparisons, SNAPSHOTS, tasks, names)
        + biased_text(names)
    )
    said = "; ".join(f"{row['estimator']} on {row['task']} {row['mean']}" for row in printed)
    table = pd.DataFrame(printed)
    return Drawn("bias", title, caption, f"{title}: {said}.", data, figure, table)


def _data(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the root mean square over seeds, with limits, a row an estimator and snapshot."""
    squares = interval_frame(rows, ["task", "estimator", "snapshot"], "relative_bias_squared")
    ends = ["estimate", "low", "high"]
    squares[ends] = np.sqrt(squares[ends].clip(lower=0.0))
    return squares


def _panel(
    axes: Axes, comparisons: Comparisons, task: str, rows: pd.DataFrame
) -> list[dict[str, object]]:
    """Draw one task and return what is printed beside its rows."""
    names = comparisons.results.estimators(rows)
    snapshots = sorted(rows["snapshot"].unique())
    offsets = dict(zip(snapshots, np.linspace(-0.3, 0.3, len(snapshots)), strict=True))
    axes.axvline(0.0, color=REFERENCE_LINE, linewidth=0.9, zorder=1)
    printed: list[dict[str, object]] = []
    for place, name in enumerate(names):
        own, style = rows[rows["estimator"] == name], look(name)
        middle = 100.0 * own["estimate"].to_numpy(np.float64)
        arms = 100.0 * np.vstack([own["estimate"] - own["low"], own["high"] - own["estimate"]])
        with belonging(axes, name):
            axes.errorbar(
                middle,
                [place + offsets[snapshot] for snapshot in own["snapshot"]],
                xerr=np.nan_to_num(arms),
                fmt=style.marker,
                color=style.colour,
                markersize=3.2,
                elinewidth=0.8,
            )
        mean = comparisons.bias(task, name)
        text = _percent(mean)
        printed.append({"task": task, "estimator": name, "mean": text, "n": mean.n})
        beside = axes.annotate(
            text,
            (1.0, place),
            (8.0, 0.0),
            ("axes fraction", "data"),
            "offset points",
            va="center_baseline",
            size=7.5,
            color=INK,
        )
        belongs(beside, name)
    axes.annotate(
        "RMS [95 % interval], %",
        (1.0, 1.0),
        (8.0, 5.0),
        "axes fraction",
        "offset points",
        size=7,
        color=MUTED,
    )
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.set_yticks(range(len(names)), [label(name) for name in names])
    for tick, name in zip(axes.get_yticklabels(), names, strict=True):
        tick.set_color(look(name).colour)
        belongs(tick, name)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="y")
    _scale(axes, rows)
    axes.set_xlabel("relative bias (%)", fontsize=8)
    panel_title(axes, task)
    return printed


def _scale(axes: Axes, rows: pd.DataFrame) -> None:
    """Choose a level axis, or one that is logarithmic outside one per cent."""
    _, high = view(100.0 * rows["estimate"], 0.0, 100.0 * rows["high"], least=0.05)
    if high > FAR:
        axes.set_xscale("symlog", linthresh=1.0)
        decades = range(math.ceil(math.log10(1.6 * high)))
        axes.set_xlim(-0.06, 1.6 * high)
        axes.set_xticks([0.0, *(10.0**d for d in decades[:: 1 + len(decades) // 4])])
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.set_xlim(-0.02 * high, 1.06 * high)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def _percent(estimate: Estimate) -> str:
    """Return "0.12 [−0.05, 0.29]", in per cent."""
    if not estimate.known:
        return "–"
    if (estimate.high if estimate.has_interval else estimate.value) < ROUNDING:
        return "0"
    head = quantity(100.0 * estimate.value)
    if not estimate.has_interval:
        return head
    return f"{head} [{quantity(100.0 * estimate.low)}, {quantity(100.0 * estimate.high)}]"

"""Quality against diversity as the temperature moves: what a single number can be gamed by."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from estbench.report.data.comparisons import TRAINING, Comparisons
from estbench.report.data.labels import Metric, metric
from estbench.report.data.statistics import mean_interval
from estbench.report.view.figures.base import (
    Drawn,
    belonging,
    biased_text,
    entries,
    few_text,
    fewest,
    label_room,
    n_text,
    order_rows,
    panel_title,
    stacked,
)
from estbench.report.view.figures.direct import End, label_ends, label_tall
from estbench.report.view.figures.emphasis import focus_text, in_focus, shown
from estbench.report.view.figures.notes import lost_note
from estbench.report.view.style import MUTED, Look

__all__ = ["draw"]

# (across, up), the first pair that a task recorded: diversity from held-out data or from within
# the sample, quality from the oracle or from text.
PAIRS = (("nll_gen", "nll_oracle"), ("self_bleu_4", "bleu_4"))


def draw(comparisons: Comparisons) -> Drawn | None:
    """Draw each task's sweep, a line an estimator through its temperatures."""
    frame = comparisons.results.temperatures
    panels: list[tuple[str, Metric, Metric]] = []
    for task in comparisons.results.tasks:
        recorded = set(frame.loc[frame["task"] == task, "metric"])
        pair = next((p for p in PAIRS if set(p) <= recorded), None)
        if pair:
            panels.append((task, metric(task, pair[0]), metric(task, pair[1])))
    if not panels:
        return None
    data = pd.concat([_data(frame, *panel) for panel in panels], ignore_index=True)
    names = order_rows(data["estimator"])
    tall = label_tall(len(names), 2.5)
    figure, axes = stacked(len(panels), height=tall, left=0.55, right=label_room(names))
    for ax, (task, across, up) in zip(axes, panels, strict=True):
        _panel(ax, data[data["task"] == task], task, across, up)
    title = "Quality against diversity over temperatures"
    coldest, hottest = data["temperature"].min(), data["temperature"].max()
    counts = fewest(data)
    tasks = [task for task, *_ in panels]
    caption = (
        "The generator after its last batch, sampled and scored at temperatures from "
        f"{coldest:.2g} to {hottest:.2g}; a line joins them, the large mark is temperature 1. "
        "Both axes are taken at the same temperature: means over seeds, "
        f"{n_text(counts)}, with 95 % t intervals at temperature 1. "
        f"Up is {_words(panels[0][2])}, across {_words(panels[0][1])}. "
        "An estimator is better where its whole line is; a point further along the same line "
        "is only colder or hotter."
        f"{few_text(counts['n'])}{lost_note(comparisons, TRAINING, tasks, names)}"
        f"{focus_text(names)}{biased_text(names)}"
    )
    nearest = min(data["temperature"], key=lambda t: abs(t - 1.0))
    at_one = data[data["temperature"] == nearest]
    said = "; ".join(
        f"{row['estimator']} on {row['task']}: {row['up']} {row['y']:.3g} at {row['across']} "
        f"{row['x']:.3g}"
        for row in entries(at_one)
    )
    table = data[["task", "estimator", "temperature", "across", "x", "up", "y", "n"]]
    alt = f"{title}. At temperature 1: {said}."
    return Drawn("temperature", title, caption, alt, data, figure, table)


def _words(of: Metric) -> str:
    better = {"higher": ", higher is better", "lower": ", lower is better"}.get(of.better, "")
    return f"{of.label}{better}"


def _data(frame: pd.DataFrame, task: str, across: Metric, up: Metric) -> pd.DataFrame:
    """Return a row an estimator and temperature, with t intervals over seeds."""
    own = frame[frame["task"] == task]
    rows = []
    for (estimator, temperature), part in own.groupby(["estimator", "temperature"], sort=True):
        by_metric = part.groupby("metric")["value"]
        x, y = (
            mean_interval(by_metric.get_group(name).to_numpy(np.float64))
            for name in (across.name, up.name)
        )
        rows.append(
            {
                "task": task,
                "estimator": estimator,
                "temperature": temperature,
                "across": across.name,
                "up": up.name,
                "x": x.value,
                "y": y.value,
                "x_low": x.low,
                "x_high": x.high,
                "y_low": y.low,
                "y_high": y.high,
                "n": min(x.n, y.n),
            }
        )
    return pd.DataFrame(rows)


def _panel(axes: Axes, rows: pd.DataFrame, task: str, across: Metric, up: Metric) -> None:
    names = order_rows(rows["estimator"])
    ends = []
    temperatures = sorted(rows["temperature"].unique())
    one = min(temperatures, key=lambda t: abs(t - 1.0))
    for name in names:
        own = rows[rows["estimator"] == name].sort_values("temperature")
        with belonging(axes, name):
            _sweep(axes, own, one, shown(name, names), in_focus(name, names))
        ends.append(End(name, float(own.sort_values("x")["y"].iloc[-1])))
    first = entries(rows[rows["estimator"] == names[0]].sort_values("temperature"))
    axes.margins(0.12, 0.14)
    axes.autoscale_view()
    axes.set_ylim(axes.get_ylim())  # labels at the ends of lines are placed within final limits
    middle = sum(axes.get_xlim()) / 2.0
    for point, beyond in ((first[0], -12.0), (first[-1], 6.0)):
        at_right = point["x"] > middle  # there the labels of the lines begin
        axes.annotate(
            f"temperature {point['temperature']:.2g}",
            (point["x"], point["y"]),
            (4.0 if at_right else -4.0, beyond),
            textcoords="offset points",
            color=MUTED,
            size=7.5,
            ha="right" if at_right else "left",
        )
    panel_title(axes, task, up.axis)
    axes.set_xlabel(across.axis)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    label_ends(axes, ends)


def _sweep(axes: Axes, own: pd.DataFrame, one: float, style: Look, focused: bool) -> None:
    """Draw one estimator's line through its temperatures, and its mark at temperature `one`."""
    wide = 1.1 if focused else 0.7
    axes.plot(own["x"], own["y"], color=style.colour, linestyle=style.dash, linewidth=wide)
    if not focused:
        return
    axes.plot(own["x"], own["y"], color=style.colour, marker=".", linestyle="none", ms=3)
    point = own[own["temperature"] == one].iloc[0]
    for xs, ys in (
        ([point["x_low"], point["x_high"]], [point["y"], point["y"]]),
        ([point["x"], point["x"]], [point["y_low"], point["y_high"]]),
    ):
        axes.plot(xs, ys, color=style.colour, linewidth=0.9)
    axes.plot([point["x"]], [point["y"]], color=style.colour, marker=style.marker, ms=6)

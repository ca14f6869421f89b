"""Quality against diversity as the temperature moves: what a single number can be gamed by."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from estbench.report.data.comparisons import TRAINING, Comparisons
from estbench.report.data.labels import Metric, metric
from estbench.report.data.statistics import mean_interval
from estbench.report.view.figures.base import (
    Drawn,
    belonging,
    cross,
    entries,
    order_rows,
    panel_title,
)
from estbench.report.view.figures.captions import described
from estbench.report.view.figures.direct import label_ends, line_figure
from estbench.report.view.figures.emphasis import in_focus, shown
from estbench.report.view.style import MUTED

__all__ = ["draw"]

# (across, up), the first pair that a task recorded: diversity from held-out data or from within
# the sample, quality from the oracle or from text.
PAIRS = (("nll_gen", "nll_oracle"), ("self_bleu_4", "bleu_4"))


def draw(comparisons: Comparisons) -> Drawn | None:
    """Draw each task's sweep, a line an estimator through its temperatures."""
    frame = comparisons.results.temperatures
    axes_of: dict[str, tuple[Metric, Metric]] = {}
    panels: dict[str, pd.DataFrame] = {}
    for task in comparisons.results.tasks:
        recorded = set(frame.loc[frame["task"] == task, "metric"])
        if pair := next((p for p in PAIRS if set(p) <= recorded), None):
            axes_of[task] = metric(task, pair[0]), metric(task, pair[1])
            panels[task] = _data(frame, task, *axes_of[task])
    if not panels:
        return None
    data = pd.concat(panels.values(), ignore_index=True)
    figure, grid = line_figure(panels, 2.5)
    for task, rows in panels.items():
        _panel(grid[task][0], rows, task, *axes_of[task])
    across, up = next(iter(axes_of.values()))
    coldest, hottest = data["temperature"].min(), data["temperature"].max()
    at_one = data[data["temperature"] == _nearest_to_one(data)]
    return described(
        comparisons,
        "temperature",
        "Quality against diversity over temperatures",
        "The generator after its last batch, sampled at temperatures from "
        f"{coldest:.2g} to {hottest:.2g}; a line joins them, the large mark is temperature 1. Up "
        f"is {_words(up)}, across {_words(across)}: means over seeds, {{n}}, with 95 % t intervals "
        "at temperature 1. An estimator is better where its whole line is; a point further along "
        "the same line is only colder or hotter.",
        (
            f"{row['estimator']} on {row['task']}: {row['up']} {row['y']:.3g} at "
            f"{row['across']} {row['x']:.3g}"
            for row in entries(at_one)
        ),
        data,
        figure,
        data[["task", "estimator", "temperature", "across", "x", "up", "y", "n"]],
        lead="At temperature 1: ",
        kind=TRAINING,
    )


def _nearest_to_one(data: pd.DataFrame) -> float:
    return min(map(float, data["temperature"]), key=lambda temperature: abs(temperature - 1.0))


def _words(of: Metric) -> str:
    better = {"higher": ", higher is better", "lower": ", lower is better"}.get(of.better, "")
    return f"{of.label}{better}"


def _data(frame: pd.DataFrame, task: str, across: Metric, up: Metric) -> pd.DataFrame:
    """Return a row an estimator and temperature, with t intervals over seeds."""
    own = frame[frame["task"] == task]
    rows = []
    for (estimator, temperature), part in own.groupby(["estimator", "temperature"], sort=True):
        by_metric = part.groupby("metric")["value"]
        x, y = (mean_interval(by_metric.get_group(m.name).astype(float)) for m in (across, up))
        head = (task, estimator, temperature, across.name, up.name)
        rows.append((*head, x.value, y.value, x.low, x.high, y.low, y.high, min(x.n, y.n)))
    columns = ["task", "estimator", "temperature", "across", "up", "x", "y"]
    return pd.DataFrame(rows, columns=[*columns, "x_low", "x_high", "y_low", "y_high", "n"])


def _panel(axes: Axes, rows: pd.DataFrame, task: str, across: Metric, up: Metric) -> None:
    names = order_rows(rows["estimator"])
    lines = {n: rows[rows["estimator"] == n].sort_values("temperature") for n in names}
    one = _nearest_to_one(rows)
    for name, own in lines.items():
        style, focused = shown(name, names), in_focus(name, names)
        wide = 1.1 if focused else 0.7
        with belonging(axes, name):
            axes.plot(own["x"], own["y"], linewidth=wide, **style.line)
            if focused:
                axes.plot(own["x"], own["y"], ".", color=style.colour, markersize=3)
                point = entries(own[own["temperature"] == one])[0]
                cross(axes, point, style, 0.9, 6.0)
    first = entries(lines[names[0]])
    axes.margins(0.12, 0.14)
    axes.autoscale_view()
    axes.set_ylim(axes.get_ylim())  # labels at the ends of lines are placed within final limits
    middle = sum(axes.get_xlim()) / 2.0
    for point, beyond in ((first[0], -12.0), (first[-1], 6.0)):
        # At the right the labels of the lines begin.
        away, side = (4.0, "right") if point["x"] > middle else (-4.0, "left")
        place = ((point["x"], point["y"]), (away, beyond), "data", "offset points")
        text = f"temperature {point['temperature']:.2g}"
        axes.annotate(text, *place, color=MUTED, size=7.5, ha=side)
    panel_title(axes, task, up.axis)
    axes.set_xlabel(across.axis)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    ends = {name: float(own.sort_values("x")["y"].iloc[-1]) for name, own in lines.items()}
    label_ends(axes, ends)

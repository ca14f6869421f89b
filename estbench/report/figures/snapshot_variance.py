"""Variance at equal parameters: every estimator at the five snapshots of one trajectory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from estbench.report.comparisons import BASELINED, PLAIN, SNAPSHOTS, Comparisons
from estbench.report.figures.base import (
    Drawn,
    belonging,
    belongs,
    biased_text,
    few_text,
    fewest,
    label_room,
    n_text,
    panel_title,
    stacked,
)
from estbench.report.figures.direct import End, label_ends, label_tall
from estbench.report.figures.emphasis import focus_text, in_focus, shown
from estbench.report.figures.notes import heavy_text, lost_note, no_variance_text
from estbench.report.figures.scales import CUT, log_view, plain_log_ticks
from estbench.report.formatting import ratio, with_interval
from estbench.report.labels import without_baseline
from estbench.report.style import MUTED, PAPER, REFERENCE_LINE, look

__all__ = ["draw"]

RATIOS = {
    "ratio": f"ratio to {BASELINED}: what is won beyond a baseline",
    "ratio_to_plain": f"ratio to {PLAIN}: most of it is what any baseline gives",
}
DODGE = 0.62  # of the distance between two snapshots, shared by all estimators


def draw(comparisons: Comparisons) -> Drawn | None:
    """Draw variance per sequence above and its ratio to the baselined REINFORCE below."""
    data = _data(comparisons)
    if data.empty:
        return None
    tasks = [task for task in comparisons.results.tasks if task in set(data["task"])]
    heights, gaps = [], []
    for task in tasks:
        lines = data.loc[data["task"] == task, "estimator"].nunique()
        heights += [label_tall(lines, 1.75), label_tall(lines, 1.3), label_tall(lines, 1.1)]
        gaps += [0.42, 0.42, 0.78]
    names = sorted(set(data["estimator"]))
    figure, axes = stacked(
        3 * len(tasks), height=heights, gap=gaps[:-1], right=label_room(names), bottom=0.45
    )
    for index, task in enumerate(tasks):
        rows = data[data["task"] == task]
        upper, *lower = axes[3 * index : 3 * index + 3]
        _panel(upper, comparisons, rows[rows["quantity"] == "variance_per_sequence"])
        panel_title(upper, task, "total variance per sequence (log axis)")
        for ax, (quantity, words) in zip(lower, RATIOS.items(), strict=True):
            _panel(ax, comparisons, rows[rows["quantity"] == quantity], is_ratio=True)
            panel_title(ax, "", "")
            ax.set_title(f"{words} (log axis)", fontweight="normal", fontsize=8.0, color=MUTED)
        for ax in (upper, lower[0]):
            ax.tick_params(labelbottom=False)
        lower[1].set_xlabel("snapshot: batches of the reference trajectory")
    headline = _headline(comparisons, tasks)
    counts = fewest(data)
    caption = (
        "Every estimator at the same frozen policies and rewards: five snapshots of one reference "
        "trajectory a seed (rloo's), after 0, 1/8, 1/4, 1/2 and all batches. Above: total variance "
        "of the gradient per sequence (variance of one draw times its sequences), geometric mean "
        f"over seeds, {n_text(counts)}. Below: ratios to {BASELINED} and to {PLAIN}, paired by "
        "seed. Whiskers: 95 % t intervals of the mean log over seeds. Lower is better. Marks are "
        f"set side by side for legibility only; {PLAIN} has no baseline, and most of its distance "
        "to the others is what any constant baseline gives. The headline ratio averages the log "
        "ratio over the five snapshots within a seed, each alike, before its interval over seeds. "
        f"{CUT}{few_text(counts['n'])}{lost_note(comparisons, SNAPSHOTS, tasks, names)}"
        f"{no_variance_text(comparisons, tasks)}{heavy_text(comparisons, tasks)}"
        f"{focus_text(names)}{biased_text(names)}"
    )
    title = "Gradient variance at shared snapshots (equal parameters)"
    alt = f"{title}. Mean ratio to {BASELINED}: {headline}."
    return Drawn("snapshot_variance", title, caption, alt, data, figure, _table(comparisons, tasks))


def _data(comparisons: Comparisons) -> pd.DataFrame:
    """Return task, quantity, estimator, snapshot, step, estimate, low, high, n."""
    logs, rows = comparisons.snapshot_logs, []
    keys = ["task", "snapshot"]
    for key, group in logs.groupby(keys, sort=True):
        task, snapshot = str(key[0]), int(cast(int, key[1]))
        step = float(group["step"].astype("float64").mean())
        for estimator in comparisons.measured(task):
            variance = comparisons.variance_at(task, snapshot, estimator)
            against = comparisons.compare_at(task, snapshot, estimator, BASELINED)
            plain = comparisons.compare_at(task, snapshot, estimator, PLAIN)
            values = {"variance_per_sequence": variance, "ratio": against, "ratio_to_plain": plain}
            for quantity, value in values.items():
                if value.known and not (quantity == "ratio_to_plain" and estimator == PLAIN):
                    numbers = (value.value, value.low, value.high, value.n)
                    rows.append((task, quantity, estimator, snapshot, step, *numbers))
    columns = ["task", "quantity", "estimator", "snapshot", "step", "estimate", "low", "high", "n"]
    return pd.DataFrame(rows, columns=columns)


def _panel(
    axes: Axes, comparisons: Comparisons, rows: pd.DataFrame, is_ratio: bool = False
) -> None:
    """Draw one panel; in a ratio panel un-baselined REINFORCE may be off the scale, and says so."""
    if rows.empty:
        axes.set_axis_off()
        return
    snapshots = sorted(rows["snapshot"].unique())
    at = {snapshot: place for place, snapshot in enumerate(snapshots)}
    names = comparisons.results.estimators(rows)
    aside = [name for name in names if in_focus(name, names)]
    places = np.linspace(-0.5, 0.5, len(aside)) * DODGE if len(aside) > 1 else np.zeros(1)
    offsets = dict.fromkeys(names, 0.0) | dict(zip(aside, places, strict=True))
    axes.set_yscale("log")
    ends, beyond = [], _off_scale(rows) if is_ratio else {}
    for name in names:
        if name in beyond:
            continue
        own, style = rows[rows["estimator"] == name].sort_values("snapshot"), shown(name, names)
        x = [at[snapshot] + offsets[name] for snapshot in own["snapshot"]]
        middle = own["estimate"].to_numpy()
        arms = np.vstack([middle - own["low"], own["high"] - middle])
        with belonging(axes, name):
            axes.plot(x, middle, color=style.colour, linestyle=style.dash, linewidth=0.8, alpha=0.6)
            if in_focus(name, names):
                axes.errorbar(
                    x,
                    middle,
                    yerr=np.nan_to_num(arms),
                    color=style.colour,
                    fmt=style.marker,
                    markersize=4.0,
                    elinewidth=1.0,
                )
        ends.append(End(name, float(middle[-1])))
    axes.set_xlim(-0.5, len(snapshots) - 0.5)
    steps = rows.drop_duplicates("snapshot").set_index("snapshot")["step"]
    axes.set_xticks(range(len(snapshots)), [f"{steps[s]:g}" for s in snapshots])
    axes.grid(visible=False, axis="x")
    for place in range(len(snapshots) - 1):
        axes.axvline(place + 0.5, color=REFERENCE_LINE, linewidth=0.4, alpha=0.5)
    if is_ratio:
        axes.axhline(1.0, color=REFERENCE_LINE, linewidth=0.8, zorder=1)
    kept = rows[~rows["estimator"].isin(list(beyond))]
    axes.set_ylim(*log_view(kept["estimate"], kept["low"], kept["high"], margin=0.08))
    for place, (name, (low, high)) in enumerate(beyond.items()):
        text = f"▲ {name}: {ratio(low)} to {ratio(high)}, off the scale"
        note = axes.annotate(
            text,
            (1.0, 1.0),
            (-2.0, -2.0 - 9.0 * place),
            "axes fraction",
            "offset points",
            ha="right",
            va="top",
            size=7,
            color=look(name).colour,
            bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.8},
            zorder=5,
        )
        belongs(note, name)
        bottom, top = axes.get_ylim()
        axes.set_ylim(bottom, top * (top / bottom) ** 0.16)
    plain_log_ticks(axes.yaxis, ratio=is_ratio)
    label_ends(axes, ends)


def _off_scale(rows: pd.DataFrame) -> Mapping[str, tuple[float, float]]:
    """Return un-baselined estimators, and their range, where they would flatten the others."""
    bare = rows["estimator"].map(without_baseline)
    others = rows[~bare]
    if others.empty:
        return {}
    _, edge = log_view(others["estimate"], others["low"], others["high"])
    found = {}
    for name, own in rows[bare].groupby("estimator")["estimate"]:
        if own.min() > edge:
            found[str(name)] = (float(own.min()), float(own.max()))
    return found


def _headline(comparisons: Comparisons, tasks: list[str]) -> str:
    """Return the mean ratios in words."""
    said = []
    for task in tasks:
        for name in comparisons.measured(task):
            estimate = comparisons.compare(task, "variance_per_sequence", name, BASELINED)
            if name != BASELINED and estimate.known:
                said.append(f"{name} on {task} {with_interval(estimate)}")
    return "; ".join(said) or "not measured"


def _table(comparisons: Comparisons, tasks: list[str]) -> pd.DataFrame:
    """Return the headline: mean log variance and ratios, a row a task and estimator."""
    rows = []
    for task in tasks:
        for name in comparisons.measured(task):
            log = comparisons.log_variance(task, name)
            row: dict[str, object] = {"task": task, "estimator": name, "n": log.n}
            row["log variance per sequence"] = with_interval(log, "number")
            for against in (BASELINED, PLAIN):
                estimate = comparisons.compare(task, "variance_per_sequence", name, against)
                row[f"ratio to {against}"] = "1" if name == against else with_interval(estimate)
            rows.append(row)
    return pd.DataFrame(rows)

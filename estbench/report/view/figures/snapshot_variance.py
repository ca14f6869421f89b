"""Variance at equal parameters: every estimator at the snapshots of one trajectory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from estbench.report.data.comparisons import BASELINED, SNAPSHOTS, Comparisons
from estbench.report.data.formatting import bounded, with_interval
from estbench.report.data.formatting import ratio as ratio_text
from estbench.report.data.labels import peer, without_baseline
from estbench.report.data.ratios import EMA, PARTNER, Ratio
from estbench.report.view.figures.base import Drawn, belonging, belongs, panel_title
from estbench.report.view.figures.captions import described
from estbench.report.view.figures.curves import ALONG
from estbench.report.view.figures.direct import label_ends, line_figure
from estbench.report.view.figures.emphasis import in_focus, shown
from estbench.report.view.figures.scales import log_view, plain_log_ticks
from estbench.report.view.style import CONTEXT, MUTED, PAPER, REFERENCE_LINE, look
from estbench.report.view.words import span_text

__all__ = ["draw"]

COST = "evaluation"
VARIANCE = "variance_per_sequence"
RATIO = f"ratio_to_{EMA}"  # the data has the ratios to the partner too
WORDS = {
    VARIANCE: "total variance per sequence (log axis)",
    RATIO: f"per reward evaluation, ratio to {BASELINED} (log axis)",
}
COLUMNS = ["task", "quantity", "estimator", "against", "snapshot", "step", "informative"]
COLUMNS += ["estimate", "low", "high", "n", "bound"]
DODGE = 0.62  # of the distance between two snapshots, shared by all estimators


def draw(comparisons: Comparisons) -> Drawn | None:
    """Draw the variance per sequence of each task, and beneath it the ratio to BASELINED."""
    data = _data(comparisons)
    if data.empty:
        return None
    panels = {str(task): rows for task, rows in data.groupby("task", sort=False)}
    below = {task: int(rows["quantity"].eq(RATIO).any()) for task, rows in panels.items()}
    figure, axes = line_figure(panels, 1.75, below)
    for task, rows in panels.items():
        for ax, quantity in zip(axes[task], WORDS, strict=False):
            _panel(ax, comparisons, rows[rows["quantity"] == quantity], quantity == RATIO)
        panel_title(axes[task][0], task, WORDS[VARIANCE])
        axes[task][-1].set_xlabel(ALONG)
        for ax in axes[task][1:]:
            ax.set_title(WORDS[RATIO], fontweight="normal", fontsize=8.0, color=MUTED)
    grey = (
        ""
        if data["informative"].all()
        else (
            " Grey: there the reward does not distinguish sequences; it enters no ratio of the "
            "trajectory, and its marks may be off the scale."
        )
    )
    hollow = " Hollow: heavy tails leave only a bound." if data["bound"].ne("").any() else ""
    tasks = list(panels)
    return described(
        comparisons,
        "snapshot_variance",
        "Gradient variance at shared snapshots (equal parameters)",
        "Every estimator at the same frozen policies and rewards: the snapshots of one reference "
        "trajectory for each seed (rloo's). Above: variance of the gradient per sequence, "
        "geometric mean over seeds, {n}. Below: variance of a draw times its reward evaluations, "
        f"as a ratio to {BASELINED}, paired by seed (ratios to the partner are in the data). "
        "Whiskers: 95 % t intervals; one at the edge of a panel goes on beyond it. Lower is "
        f"better.{grey}{hollow}",
        _said(comparisons, tasks),
        data,
        figure,
        _table(comparisons, tasks),
        lead="Per reward evaluation, noise of the trajectory: ",
        kind=SNAPSHOTS,
        tailed=True,
    )


def _data(comparisons: Comparisons) -> pd.DataFrame:
    """Return a row a task, quantity, estimator and snapshot, with the columns COLUMNS."""
    rows: list[tuple[object, ...]] = []
    for task in comparisons.results.tasks:
        at = comparisons.at(task)
        for place, snapshot in enumerate(at.snapshots):
            where = (snapshot, float(at.steps[place]), bool(at.informative[place]))
            for name in at.names:
                value = comparisons.variance_at(task, snapshot, name)
                if value.known:
                    rows.append((task, VARIANCE, name, "", *where, *value.numbers, ""))
        for role in (PARTNER, EMA):
            for name in at.names:
                ratio = _ratio(comparisons, task, name, role)
                for part in ratio.parts if ratio else ():
                    if ratio and part.estimate.known:
                        head = (task, f"ratio_to_{role}", name, ratio.against)
                        where = (part.snapshot, part.step, part.informative)
                        rows.append((*head, *where, *part.estimate.numbers, part.bound))
    return pd.DataFrame(rows, columns=COLUMNS)


def _ratio(comparisons: Comparisons, task: str, name: str, role: str) -> Ratio | None:
    return comparisons.ratio(task, COST, name, peer(name) if role == PARTNER else BASELINED)


def _panel(axes: Axes, comparisons: Comparisons, rows: pd.DataFrame, is_ratio: bool) -> None:
    """Draw one panel; in a ratio panel un-baselined REINFORCE may be off the scale, and says so.

    Uninformative snapshots are grey, and do not stretch the axis of ratios.
    """
    snapshots = rows.drop_duplicates("snapshot").sort_values("snapshot")
    at = {snapshot: place for place, snapshot in enumerate(snapshots["snapshot"])}
    axes.set_yscale("log")
    axes.set_xlim(-0.5, len(at) - 0.5)
    axes.set_xticks(range(len(at)), [f"{step:g}" for step in snapshots["step"]])
    axes.grid(visible=False, axis="x")
    for place, told in enumerate(snapshots["informative"]):
        if not told:
            axes.axvspan(place - 0.5, place + 0.5, color=CONTEXT, alpha=0.18, lw=0, zorder=0)
        if place:
            axes.axvline(place - 0.5, color=REFERENCE_LINE, linewidth=0.4, alpha=0.5)
    beyond = _off_scale(rows) if is_ratio else {}
    kept = rows[~rows["estimator"].isin(list(beyond))]
    ends = _lines(axes, kept.assign(x=kept["snapshot"].map(at)), comparisons)
    if is_ratio:
        axes.axhline(1.0, color=REFERENCE_LINE, linewidth=0.8, zorder=1)
        kept = kept[kept["informative"]] if kept["informative"].any() else kept
    axes.set_ylim(*log_view(kept["estimate"], kept["low"], kept["high"], margin=0.08))
    for place, (name, (low, high)) in enumerate(beyond.items()):
        text = f"▲ {name}: {ratio_text(low)} to {ratio_text(high)}, off scale"
        corner = ((1.0, 1.0), (-2.0, -2.0 - 9.0 * place), "axes fraction", "offset points")
        ground = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.8}
        words: dict[str, Any] = {"size": 7, "color": look(name).colour, "ha": "right", "va": "top"}
        belongs(axes.annotate(text, *corner, bbox=ground, zorder=5, **words), name)
        bottom, top = axes.get_ylim()
        axes.set_ylim(bottom, top * (top / bottom) ** 0.16)
    plain_log_ticks(axes.yaxis, ratio=is_ratio)
    label_ends(axes, ends)


def _lines(axes: Axes, rows: pd.DataFrame, comparisons: Comparisons) -> dict[str, float]:
    """Draw lines with whiskers, side by side at each `x`; return where each line ends."""
    names = comparisons.results.estimators(rows)
    aside = [name for name in names if in_focus(name, names)]
    places = np.linspace(-0.5, 0.5, len(aside)) * DODGE if len(aside) > 1 else np.zeros(1)
    offsets = dict.fromkeys(names, 0.0) | dict(zip(aside, places, strict=True))
    ends = {}
    for name in names:
        own, style = rows[rows["estimator"] == name].sort_values("x"), shown(name, names)
        x, middle = own["x"].to_numpy() + offsets[name], own["estimate"].to_numpy()
        arms = np.nan_to_num(np.vstack([middle - own["low"], own["high"] - middle]))
        firm = own["bound"].eq("").to_numpy()
        with belonging(axes, name):
            axes.plot(x, middle, linewidth=0.8, alpha=0.6, **style.line)
            for some, filling in ((firm, style.colour), (~firm, PAPER)):
                if name in aside and some.any():
                    arm = np.where(firm, arms, 0.0)[:, some]
                    marks: dict[str, Any] = {"markerfacecolor": filling, "markersize": 4.0}
                    marks |= {"elinewidth": 1.0, "linestyle": "none"} | style.mark
                    axes.errorbar(x[some], middle[some], yerr=arm, **marks)
        ends[name] = float(middle[-1])
    return ends


def _off_scale(rows: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """Return un-baselined estimators, and their range, where they would flatten the others."""
    rows = rows[rows["informative"]] if rows["informative"].any() else rows
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


def _said(comparisons: Comparisons, tasks: list[str]) -> list[str]:
    """Return the ratios of the whole trajectory in words, with their range by snapshot."""
    ratios = [(t, r) for t in tasks for r in comparisons.ratios(t, COST).values()]
    return [
        f"{ratio.estimator} on {task} {bounded(ratio.estimate, ratio.bound)} of {ratio.against} "
        f"(by snapshot {span_text(ratio)})"
        for task, ratio in ratios
        if ratio.estimate.known
    ]


def _table(comparisons: Comparisons, tasks: list[str]) -> pd.DataFrame:
    """Return the headline: noise of the trajectory and its ratios, a row a task and estimator."""
    rows = []
    for task in tasks:
        for name in comparisons.measured(task):
            noise = comparisons.noise(task, name)
            row: dict[str, object] = {"task": task, "estimator": name, "n": noise.n}
            row["mean variance per sequence"] = with_interval(noise, "quantity")
            row["partner"] = peer(name)
            for role, words in ((PARTNER, "ratio to the partner"), (EMA, f"ratio to {BASELINED}")):
                ratio = _ratio(comparisons, task, name, role)
                same = role == EMA and name == BASELINED
                known = bounded(ratio.estimate, ratio.bound) if ratio else "–"
                row[words] = "1" if same else known
                row["by snapshot" + " to ema" * (role == EMA)] = span_text(ratio) if ratio else "–"
            rows.append(row)
    return pd.DataFrame(rows)

"""Variance at equal parameters: every estimator at the snapshots of one trajectory."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from estbench.report.data.comparisons import BASELINED, SNAPSHOTS, Comparisons
from estbench.report.data.formatting import bounded, with_interval
from estbench.report.data.formatting import ratio as ratio_text
from estbench.report.data.labels import peer, without_baseline
from estbench.report.data.ratios import EMA, PARTNER, Ratio
from estbench.report.data.statistics import Estimate
from estbench.report.view.figures.base import (
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
from estbench.report.view.figures.direct import End, label_ends, label_tall
from estbench.report.view.figures.emphasis import focus_text, in_focus, shown
from estbench.report.view.figures.notes import heavy_text, lost_note, no_variance_text
from estbench.report.view.figures.scales import CUT, log_view, plain_log_ticks
from estbench.report.view.ratio_words import span_text
from estbench.report.view.style import CONTEXT, MUTED, PAPER, REFERENCE_LINE, look

__all__ = ["draw"]

COST = "evaluation"
VARIANCE = "variance_per_sequence"
WORDS = {
    VARIANCE: "total variance per sequence",
    f"ratio_to_{PARTNER}": "per reward evaluation, ratio to the partner with the same baseline",
    f"ratio_to_{EMA}": f"per reward evaluation, ratio to {BASELINED}",
}
DRAWN = (VARIANCE, f"ratio_to_{EMA}")  # the data has the ratios to the partner too
COLUMNS = ["task", "quantity", "estimator", "against", "snapshot", "step", "informative"]
COLUMNS += ["estimate", "low", "high", "n", "bound"]
DODGE = 0.62  # of the distance between two snapshots, shared by all estimators


def draw(comparisons: Comparisons) -> Drawn | None:
    """Draw variance per sequence above, and below its ratios to the partner and to BASELINED."""
    data = _data(comparisons)
    if data.empty:
        return None
    tasks = [task for task in comparisons.results.tasks if task in set(data["task"])]
    heights, gaps = [], []
    panels = {
        task: [q for q in DRAWN if (data["task"].eq(task) & data["quantity"].eq(q)).any()]
        for task in tasks
    }
    for task, quantities in panels.items():
        lines = data.loc[data["task"] == task, "estimator"].nunique()
        heights += [label_tall(lines, 1.75 if q == VARIANCE else 1.3) for q in quantities]
        gaps += [0.42] * (len(quantities) - 1) + [0.78]
    names = sorted(set(data["estimator"]))
    figure, axes = stacked(
        len(heights), height=heights, gap=gaps[:-1], right=label_room(names), bottom=0.45
    )
    free = iter(axes)
    for task, quantities in panels.items():
        rows = data[data["task"] == task]
        for quantity, ax in zip(quantities, free, strict=False):
            is_ratio = quantity != VARIANCE
            _panel(ax, comparisons, rows[rows["quantity"] == quantity], is_ratio=is_ratio)
            words = f"{WORDS[quantity]} (log axis)"
            panel_title(ax, "" if is_ratio else task, "" if is_ratio else words)
            if is_ratio:
                ax.set_title(words, fontweight="normal", fontsize=8.0, color=MUTED)
            if quantity == quantities[-1]:
                ax.set_xlabel("snapshot: batches of the reference trajectory")
                break
            ax.tick_params(labelbottom=False)
    headline = _headline(comparisons, tasks)
    counts = fewest(data)
    grey = (
        "Grey: at that snapshot the reward does not tell sequences apart; it enters no ratio of "
        "the trajectory, and its marks may be off the scale. "
        if not data["informative"].all()
        else ""
    )
    hollow = "Hollow: heavy tails leave only a bound. " if data["bound"].ne("").any() else ""
    caption = (
        "Every estimator at the same frozen policies and rewards: snapshots of one reference "
        "trajectory a seed (rloo's). Above: total variance of the gradient per sequence (variance "
        f"of one draw times its sequences), geometric mean over seeds, {n_text(counts)}. Below: "
        f"variance of a draw times its reward evaluations, as a ratio to {BASELINED}, paired by "
        "seed; ratios to the partner with the same baseline are in the data. Whiskers: 95 % "
        "t intervals of the mean log over seeds. Lower is better. Marks are set side by side for "
        f"legibility only. {grey}{hollow}"
        f"{CUT}{few_text(counts['n'])}{lost_note(comparisons, SNAPSHOTS, tasks, names)}"
        f"{no_variance_text(comparisons, tasks)}{heavy_text(comparisons, tasks)}"
        f"{focus_text(names)}{biased_text(names)}"
    )
    title = "Gradient variance at shared snapshots (equal parameters)"
    alt = f"{title}. Per reward evaluation, noise of the trajectory: {headline}."
    return Drawn("snapshot_variance", title, caption, alt, data, figure, _table(comparisons, tasks))


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
                    head = (task, VARIANCE, name, "")
                    rows.append((*head, *where, *_numbers(value), ""))
        for role in (PARTNER, EMA):
            for name in at.names:
                ratio = _ratio(comparisons, task, name, role)
                for part in ratio.parts if ratio else ():
                    if ratio and part.estimate.known:
                        head = (task, f"ratio_to_{role}", name, ratio.against)
                        where = (part.snapshot, part.step, part.informative)
                        rows.append((*head, *where, *_numbers(part.estimate), part.bound))
    return pd.DataFrame(rows, columns=COLUMNS)


def _ratio(comparisons: Comparisons, task: str, name: str, role: str) -> Ratio | None:
    return comparisons.ratio(task, COST, name, peer(name) if role == PARTNER else BASELINED)


def _numbers(estimate: Estimate) -> tuple[object, ...]:
    return estimate.value, estimate.low, estimate.high, estimate.n


def _panel(
    axes: Axes, comparisons: Comparisons, rows: pd.DataFrame, is_ratio: bool = False
) -> None:
    """Draw one panel; in a ratio panel un-baselined REINFORCE may be off the scale, and says so.

    Uninformative snapshots are grey, and do not stretch the axis of ratios.
    """
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
        arms = np.nan_to_num(np.vstack([middle - own["low"], own["high"] - middle]))
        firm = own["bound"].eq("").to_numpy()
        with belonging(axes, name):
            axes.plot(x, middle, color=style.colour, linestyle=style.dash, linewidth=0.8, alpha=0.6)
            if in_focus(name, names):
                for some, filling in ((firm, style.colour), (~firm, PAPER)):
                    if some.any():
                        axes.errorbar(
                            np.array(x)[some],
                            middle[some],
                            yerr=np.where(firm, arms, 0.0)[:, some],
                            color=style.colour,
                            markerfacecolor=filling,
                            fmt=style.marker,
                            markersize=4.0,
                            elinewidth=1.0,
                        )
        ends.append(End(name, float(middle[-1])))
    axes.set_xlim(-0.5, len(snapshots) - 0.5)
    steps = rows.drop_duplicates("snapshot").set_index("snapshot")["step"]
    axes.set_xticks(range(len(snapshots)), [f"{steps[s]:g}" for s in snapshots])
    axes.grid(visible=False, axis="x")
    out = rows.loc[~rows["informative"], "snapshot"].unique()
    for place in (at[snapshot] for snapshot in out):
        axes.axvspan(place - 0.5, place + 0.5, color=CONTEXT, alpha=0.18, linewidth=0, zorder=0)
    for place in range(len(snapshots) - 1):
        axes.axvline(place + 0.5, color=REFERENCE_LINE, linewidth=0.4, alpha=0.5)
    if is_ratio:
        axes.axhline(1.0, color=REFERENCE_LINE, linewidth=0.8, zorder=1)
    kept = rows[~rows["estimator"].isin(list(beyond))]
    if is_ratio and kept["informative"].any():
        kept = kept[kept["informative"]]
    axes.set_ylim(*log_view(kept["estimate"], kept["low"], kept["high"], margin=0.08))
    for place, (name, (low, high)) in enumerate(beyond.items()):
        text = f"▲ {name}: {ratio_text(low)} to {ratio_text(high)}, off scale"
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


def _headline(comparisons: Comparisons, tasks: list[str]) -> str:
    """Return the ratios of the whole trajectory in words, with their range by snapshot."""
    said = []
    for task in tasks:
        for ratio in comparisons.ratios(task, COST).values():
            if ratio.estimate.known:
                said.append(
                    f"{ratio.estimator} on {task} {bounded(ratio.estimate, ratio.bound)} of "
                    f"{ratio.against} (by snapshot {span_text(ratio)})"
                )
    return "; ".join(said) or "not measured"


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

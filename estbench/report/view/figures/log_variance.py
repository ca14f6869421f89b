"""Log variance of the gradient against the batch, each estimator on its own trajectory."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter

from estbench.report.data.comparisons import BASELINED, PLAIN, TRAINING, Comparisons
from estbench.report.data.formatting import number
from estbench.report.data.labels import batch_name
from estbench.report.data.statistics import interval_frame
from estbench.report.view.figures.base import Drawn, entries
from estbench.report.view.figures.captions import described, no_variance_text
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
from estbench.report.view.figures.scales import round_numbers, tick_text
from estbench.report.view.style import MUTED, REFERENCE_LINE

__all__ = ["draw_log_variance", "draw_paper_quantity"]


def draw_log_variance(comparisons: Comparisons) -> Drawn | None:
    """Draw the total variance per sequence along each estimator's own training."""
    return _draw(
        comparisons,
        name="log_variance",
        metric="log_variance",
        title="Log variance of the gradient on each estimator's own trajectory",
        quantity="log total variance per sequence (nats)",
        what="Natural log of the total variance (trace of the covariance) of the policy gradient, "
        "per sequence, at every {batch} of each estimator's own training.",
        remark="Each estimator is at its own parameters here, as in the paper: a lower line may "
        "come from a better estimator or merely from another policy. The figure of shared "
        "snapshots compares at equal parameters.",
        ratios=True,
    )


def draw_paper_quantity(comparisons: Comparisons) -> Drawn | None:
    """Draw the paper's own quantity: the variance of one element of the gradient."""
    return _draw(
        comparisons,
        name="log_variance_paper_quantity",
        metric="log_bias_element_variance",
        title="The paper's quantity: log variance of one gradient element",
        quantity="log variance of one gradient element (nats)",
        what="Natural log of the variance, over the sequences of a batch, of one element of the "
        "gradient: the output bias of the token x, which the paper plots.",
        remark="It is one element of thousands, and blind to noise that the sequences of a batch "
        "share: compare it with the published curves, but do not rank estimators by it.",
    )


def _draw(
    comparisons: Comparisons,
    *,
    name: str,
    metric: str,
    title: str,
    quantity: str,
    what: str,
    remark: str,
    ratios: bool = False,
) -> Drawn | None:
    """Draw a panel a task that recorded the metric; nothing if none did.

    Args:
      what: Opens the caption; {batch} in it is what the tasks' batches are called.
      remark: Ends it.
      ratios: Whether the ratios to the references are drawn beneath.
    """
    results = comparisons.results
    every = {task: curve_data(results.curves, task, metric) for task in results.tasks}
    panels = {task: drawable(data) for task, data in every.items() if not data.empty}
    if not panels:
        return None
    under = {task: _ratios(every[task]) if ratios else {} for task in panels}
    figure, axes = line_figure(panels, 1.95, {task: len(own) for task, own in under.items()})
    parts = []
    for task, rows in panels.items():
        curve_panel(axes[task][0], rows, title=task, quantity=quantity)
        curve_labels(axes[task][0], rows)
        parts.append(rows.assign(quantity=metric))
        for ax, (against, ratio) in zip(axes[task][1:], under[task].items(), strict=True):
            curve_panel(ax, ratio)
            _ratio_axis(ax, against)
            curve_labels(ax, ratio)
            parts.append(ratio.assign(quantity=f"log_ratio_to_{against}"))
        for ax in axes[task][:-1]:
            ax.set_xlabel("")
    data = pd.concat(parts, ignore_index=True)
    last = last_points(data[data["quantity"] == metric])
    references = " and ".join(dict.fromkeys(name for own in under.values() for name in own))
    below = f"Below: ratios to {references}, paired by seed." if references else ""
    still = no_variance_text(comparisons, list(panels))
    what = what.replace("{batch}", batch_name(*panels))
    caption = [what, curves_text(data), "Lower is better.", below, remark, still]
    return described(
        comparisons,
        name,
        title,
        " ".join(filter(None, caption)),
        (f"{r['estimator']} on {r['task']} {number(r['estimate'])}" for r in entries(last)),
        data,
        figure,
        last_table(last),
        lead="At the last batch, in nats: ",
        kind=TRAINING,
        counts=last,
    )


def _ratios(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the curves of log ratios to each reference that was trained."""
    seeds = rows[rows["seed"].notna()]
    found = {}
    for against in (BASELINED, PLAIN):
        base = seeds[seeds["estimator"] == against].set_index(["seed", "step"])["estimate"]
        others = seeds[seeds["estimator"] != against]
        if base.empty or others.empty:
            continue
        keys = pd.MultiIndex.from_frame(others[["seed", "step"]])
        gaps = others["estimate"].to_numpy() - base.reindex(keys).to_numpy()
        single = others.assign(estimate=gaps).dropna(subset=["estimate"])
        means = interval_frame(single, ["estimator", "step"], "estimate")
        same = {name: rows[name].iloc[0] for name in ("task", "block")}
        means = means.assign(**same, seed=pd.array([pd.NA] * len(means), dtype="Int64"))
        both = pd.concat([means, single], ignore_index=True)[list(rows.columns)]
        found[against] = drawable(both)
    return found


def _ratio_axis(axes: Axes, against: str) -> None:
    """Write a vertical axis of log ratios as ratios, and say what they are to."""
    low, high = axes.get_ylim()
    ticks = round_numbers(math.exp(low), math.exp(high), 6)
    axes.yaxis.set_major_locator(FixedLocator([math.log(tick) for tick in ticks]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{tick_text(math.exp(y))}×"))
    axes.axhline(0.0, color=REFERENCE_LINE, linewidth=0.8, zorder=1)
    axes.set_ylim(low, high)
    aside = ": most of it is what any baseline gives" if against == PLAIN else ""
    words = f"ratio to {against}{aside} (log axis)"
    axes.set_title(words, fontweight="normal", fontsize=8.0, color=MUTED)

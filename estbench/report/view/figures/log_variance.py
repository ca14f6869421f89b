"""Log variance of the gradient against the batch, each estimator on its own trajectory."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter

from estbench.report.data.comparisons import BASELINED, PLAIN, TRAINING, Comparisons
from estbench.report.data.formatting import number, with_interval
from estbench.report.data.labels import batch_name
from estbench.report.data.statistics import Estimate, interval_frame
from estbench.report.view.figures.base import (
    Drawn,
    biased_text,
    entries,
    few_text,
    label_room,
    n_text,
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
from estbench.report.view.figures.emphasis import focus_text
from estbench.report.view.figures.notes import lost_note, no_variance_text
from estbench.report.view.figures.scales import round_numbers, tick_text
from estbench.report.view.style import MUTED, REFERENCE_LINE

__all__ = ["draw_log_variance", "draw_paper_quantity", "last_points", "last_table"]


def draw_log_variance(comparisons: Comparisons) -> Drawn | None:
    """Draw the total variance per sequence along each estimator's own training."""
    return _draw(
        comparisons,
        name="log_variance",
        metric="log_variance",
        title="Log variance of the gradient on each estimator's own trajectory",
        quantity="log total variance per sequence (nats)",
        what="Natural log of the total variance (trace of the covariance) of the policy gradient, "
        "per sequence, at every {batch} of each estimator's own training",
        remark="Each estimator is at its own parameters here, as in the paper: a lower line may "
        "have a better estimator or merely another policy. The comparison at equal parameters is "
        "the figure of shared snapshots.",
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
        "gradient (the output bias of the token x), the quantity that the paper plots",
        remark="One element of thousands, and blind to noise that the sequences of a batch share; "
        "it is here to be set beside the published curves, not to rank estimators.",
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
    """
    results = comparisons.results
    every = {task: curve_data(results.curves, task, metric) for task in results.tasks}
    panels = {task: data for task, data in every.items() if not data.empty}
    if not panels:
        return None
    under = {task: _ratios(rows) if ratios else {} for task, rows in panels.items()}
    panels = {task: drawable(rows) for task, rows in panels.items()}
    heights, gaps = [], []
    for task, rows in panels.items():
        lines = rows["estimator"].nunique()
        heights += [label_tall(lines, 1.95)] + [label_tall(lines, 1.2)] * len(under[task])
        gaps += [0.42] * len(under[task]) + [0.72]
    names = [name for rows in panels.values() for name in rows["estimator"].unique()]
    figure, axes = stacked(len(heights), height=heights, gap=gaps[:-1], right=label_room(names))
    parts, place = [], iter(axes)
    for task, rows in panels.items():
        group = [next(place) for _ in range(1 + len(under[task]))]
        curve_panel(group[0], rows, title=task, quantity=quantity)
        parts.append(rows.assign(quantity=metric))
        for ax, (against, ratio) in zip(group[1:], under[task].items(), strict=True):
            curve_panel(ax, ratio, title="", quantity="", labels=False)
            _ratio_axis(ax, against)
            curve_labels(ax, ratio)
            parts.append(ratio.assign(quantity=f"log_ratio_to_{against}"))
        for ax in group[:-1]:
            ax.set_xlabel("")
            ax.tick_params(labelbottom=False)
    data = pd.concat(parts, ignore_index=True)
    last = last_points(data[data["quantity"] == metric])
    references = dict.fromkeys(name for ratio in under.values() for name in ratio)
    below = (
        f" Below: ratios to {' and '.join(references)}, paired by seed and averaged as logs."
        if references
        else ""
    )
    caption = (
        f"{what.format(batch=batch_name(*panels))}. Line: mean over seeds, {n_text(last)}; band: "
        f"95 % t interval over seeds, point by point; {seeds_text(data)}. {smoothing_text(data)} "
        f"Lower is better.{below} {remark}{few_text(last['n'])}"
        f"{lost_note(comparisons, TRAINING, panels, names)}{no_variance_text(comparisons, panels)}"
        f"{focus_text(last['estimator'])}{biased_text(last['estimator'])}"
    )
    ends = "; ".join(
        f"{row['estimator']} on {row['task']} {number(row['estimate'])}" for row in entries(last)
    )
    alt = f"{title}. At the last batch, in nats: {ends}."
    return Drawn(name, title, caption, alt, data, figure, last_table(last))


def _ratios(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the curves of log ratios to the estimators that all are held against, if trained."""
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


def last_table(last: pd.DataFrame) -> pd.DataFrame:
    """Return the last points as people read them."""
    rows = []
    for row in entries(last):
        value = Estimate(row["estimate"], row["low"], row["high"], row["n"])
        head = {"task": row["task"], "estimator": row["estimator"]}
        rows.append(head | {"at the last batch": with_interval(value, "number", 3), "n": row["n"]})
    return pd.DataFrame(rows)


def last_points(data: pd.DataFrame) -> pd.DataFrame:
    """Return each mean curve's last point."""
    means = data[data["seed"].isna()]
    last = means.groupby(["task", "estimator"], sort=False).tail(1)
    return last.drop(columns=["seed"]).reset_index(drop=True)

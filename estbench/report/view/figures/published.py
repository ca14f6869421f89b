"""The paper's published curves beside this project's own, in panels of their own."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, MaxNLocator

from estbench.report.data.comparisons import TRAINING, Comparisons
from estbench.report.data.formatting import number, with_interval
from estbench.report.data.paper import BLOCK, LABEL, block_centres, published
from estbench.report.data.statistics import Estimate
from estbench.report.view.figures.base import (
    Drawn,
    belonging,
    biased_text,
    entries,
    few_text,
    label_room,
    n_text,
    side_by_side,
)
from estbench.report.view.figures.curves import curve_data, curve_labels, curve_panel
from estbench.report.view.figures.direct import label_tall
from estbench.report.view.figures.emphasis import focus_text
from estbench.report.view.figures.notes import lost_note
from estbench.report.view.style import MUTED, look

__all__ = ["draw"]

# Published quantity -> our metric, and the vertical axis.
QUANTITIES = {
    "log_variance": ("log_bias_element_variance", "log variance of one element (nats)"),
    "goodness": ("goodness", "goodness (windows per sequence)"),
}


def draw(comparisons: Comparisons) -> Drawn | None:
    """Draw published and own curves for the paper's tasks that the result set holds."""
    results = comparisons.results
    panels = []
    for task in results.tasks:
        for quantity, (metric, _) in QUANTITIES.items():
            own = curve_data(results.curves, task, metric)
            theirs = _published(task, quantity)
            if not (own.empty or theirs.empty):
                panels.append((task, quantity, theirs, own))
    if not panels:
        return None
    ours = pd.concat([own.assign(quantity=quantity) for _, quantity, _, own in panels])
    rooms = [label_room(["reinforce"]), label_room(ours["estimator"])]
    tall = max(label_tall(own["estimator"].nunique(), 1.5) for *_, own in panels)
    figure, grid = side_by_side(len(panels), rooms, panel=(1.72, tall))
    for (left, right), (task, quantity, theirs, own) in zip(grid, panels, strict=True):
        axis = QUANTITIES[quantity][1]
        _published_panel(left, theirs)
        curve_panel(right, own[own["seed"].isna()], title="", quantity="", labels=False)
        n = int(own["n"].max())
        reward = _reward(comparisons, task)
        _titles(left, f"{task}: published", LABEL)
        _titles(right, f"{task}: here", f"mean of {n} seed{'s' * (n != 1)}{reward}")
        left.set_ylabel(axis, fontsize=8)
        low = min(left.get_ylim()[0], right.get_ylim()[0])
        high = max(left.get_ylim()[1], right.get_ylim()[1])
        for ax in (left, right):
            ax.set_ylim(low, high)
            ax.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
        right.tick_params(labelleft=False)
        curve_labels(left, theirs)
        curve_labels(right, own)
        # Only the left panel names the values: the right one's grid must be the same.
        right.yaxis.set_major_locator(FixedLocator(list(left.get_yticks())))
        right.set_ylim(low, high)
    # Through records: pandas warns where it would concatenate columns that are wholly unknown.
    data = pd.DataFrame(
        [
            row | {"source": source, "quantity": quantity}
            for _, quantity, theirs, own in panels
            for source, part in (("published", theirs), ("here", own[own["seed"].isna()]))
            for row in part.drop(columns=["seed"]).to_dict("records")
        ]
    )
    means = ours[ours["seed"].isna()]
    last = means.groupby(["task", "quantity", "estimator"], sort=False).tail(1)
    title = "The published curves, and the same quantities here"
    caption = (
        "Left: the series of Balagopalan, Gorti, Ravaut and Saqur (arXiv 1805.02788) as means over "
        f"blocks of {BLOCK} batches: {LABEL}. Their REBAR and RELAX had another expectation than "
        "the gradient, and an exp(p_D) reward without a baseline scales the variance, so left and "
        "right share units and an axis but not a method; the same colour means the same name, not "
        "the same estimator. Right: this result set, mean over seeds with a 95 % t interval, "
        f"{n_text(last)}. Log variance: lower is better; goodness: higher is better."
        f"{few_text(last['n'])}"
        f"{lost_note(comparisons, TRAINING, last['task'], last['estimator'])}"
        f"{focus_text(last['estimator'])}{biased_text(last['estimator'])}"
    )
    said = "; ".join(
        f"{name.upper()} on {task} ended at {values[-1]:.2f} ({quantity.replace('_', ' ')})"
        for (task, quantity, name), values in published().items()
        if task in set(last["task"])
    )
    alt = f"{title}. Published: {said}."
    return Drawn("published", title, caption, alt, data, figure, _table(last))


def _table(last: pd.DataFrame) -> pd.DataFrame:
    """Return the last published block beside the last point here, a row a quantity."""
    rows = []
    for row in entries(last):
        key = (row["task"], row["quantity"], row["estimator"])
        value = Estimate(row["estimate"], row["low"], row["high"], row["n"])
        rows.append(
            {
                "task": row["task"],
                "quantity": row["quantity"].replace("_", " "),
                "estimator": row["estimator"],
                "published, last block": number(published().get(key, (math.nan,))[-1]),
                "here, at the last batch": with_interval(value, "number"),
                "n": row["n"],
            }
        )
    return pd.DataFrame(rows)


def _published(task: str, quantity: str) -> pd.DataFrame:
    """Return the published means as curves without intervals."""
    rows = []
    for (where, what, estimator), values in published().items():
        if (where, what) == (task, quantity):
            for step, value in zip(block_centres(), values, strict=True):
                rows.append((task, quantity, estimator, step, value, 1, BLOCK))
    columns = ["task", "quantity", "estimator", "step", "estimate", "n", "block"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.assign(seed=math.nan, low=math.nan, high=math.nan)


def _published_panel(axes: Axes, data: pd.DataFrame) -> None:
    """Draw the block means."""
    for name in ("reinforce", "rebar", "relax"):
        rows, style = data[data["estimator"] == name], look(name)
        with belonging(axes, name):
            axes.plot(
                rows["step"],
                rows["estimate"],
                color=style.colour,
                linestyle=style.dash,
                marker=style.marker,
                markersize=3.6,
            )
    axes.set_xlim(0, 9 * BLOCK)
    axes.set_xlabel("adversarial batch")
    axes.margins(y=0.08)


def _titles(axes: Axes, title: str, under: str) -> None:
    """Write a bold title and a muted line under it."""
    axes.set_title(title, pad=16)
    axes.annotate(
        under, (0.0, 1.0), (0.0, 5.0), "axes fraction", "offset points", size=7, color=MUTED
    )


def _reward(comparisons: Comparisons, task: str) -> str:
    """Return the reward of this result set in words, if the manifest tells."""
    experiment = comparisons.results.manifest.get("experiment") or {}
    own = (experiment.get("per_task") or {}).get(task) or {}
    reward = ((experiment.get("training") or {}) | own).get("reward")
    names = {"p": "p_D", "log_p": "log p_D", "logit": "logit of p_D", "exp_p": "exp(p_D)"}
    return f", reward {names.get(reward, reward)}" if reward else ""

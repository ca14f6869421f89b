"""The paper's published curves beside this project's own, in panels of their own."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, MaxNLocator

from estbench.report.data.comparisons import TRAINING, Comparisons
from estbench.report.data.formatting import number, with_interval
from estbench.report.data.paper import BLOCK, LABEL, block_centres, published
from estbench.report.view.figures.base import (
    Drawn,
    entries,
    estimate_in,
    label_room,
    side_by_side,
)
from estbench.report.view.figures.captions import described
from estbench.report.view.figures.curves import curve_data, curve_labels, curve_panel
from estbench.report.view.figures.direct import label_tall
from estbench.report.view.style import MUTED

__all__ = ["draw"]

# Published quantity -> our metric, and the vertical axis.
QUANTITIES = {
    "log_variance": ("log_bias_element_variance", "log variance of one element (nats)"),
    "goodness": ("goodness", "goodness (windows per sequence)"),
}


def draw(comparisons: Comparisons) -> Drawn | None:
    """Draw published and own curves for the paper's tasks that the result set holds."""
    panels = []
    for task in comparisons.results.tasks:
        for quantity, (metric, _) in QUANTITIES.items():
            own = curve_data(comparisons.results.curves, task, metric)
            theirs = _published(task, quantity)
            if not (own.empty or theirs.empty):
                panels.append((task, quantity, theirs, own[own["seed"].isna()]))
    if not panels:
        return None
    # Through records: pandas warns where it would concatenate columns that are wholly unknown.
    data = pd.DataFrame(
        [
            row | {"source": source, "quantity": quantity}
            for _, quantity, theirs, own in panels
            for source, part in (("published", theirs), ("here", own))
            for row in part.drop(columns=["seed"]).to_dict("records")
        ]
    )
    last = data[data["source"] == "here"]
    last = last.groupby(["task", "quantity", "estimator"], sort=False).tail(1)
    rooms = [label_room(["reinforce"]), label_room(last["estimator"])]
    tall = max(label_tall(own["estimator"].nunique(), 1.5) for *_, own in panels)
    figure, grid = side_by_side(len(panels), rooms, panel=(1.72, tall))
    for (left, right), (_, quantity, theirs, own) in zip(grid, panels, strict=True):
        _pair(comparisons, left, right, theirs, own)
        left.set_ylabel(QUANTITIES[quantity][1], fontsize=8)
    return described(
        comparisons,
        "published",
        "The published curves, and the same quantities here",
        "Left: the curves of Balagopalan, Gorti, Ravaut and Saqur (arXiv 1805.02788), means over "
        f"blocks of {BLOCK} batches: {LABEL}. Right: this result set, mean over seeds with 95 % t "
        "interval, {n}. Left and right share units and an axis but not a method: their REBAR and "
        "RELAX are biased, and an exp(p_D) reward without a baseline scales the variance. The same "
        "colour means the same name, not the same estimator. Log variance: lower is better; "
        "goodness: higher is better.",
        (
            f"{name.upper()} on {task} ended at {values[-1]:.2f} ({quantity.replace('_', ' ')})"
            for (task, quantity, name), values in published().items()
            if task in set(last["task"])
        ),
        data,
        figure,
        _table(last),
        lead="Published: ",
        kind=TRAINING,
        counts=last,
    )


def _table(last: pd.DataFrame) -> pd.DataFrame:
    """Return the last published block beside the last point here, a row a quantity."""
    rows = []
    for row in entries(last):
        key = (row["task"], row["quantity"], row["estimator"])
        theirs = number(published().get(key, (math.nan,))[-1])
        ours = with_interval(estimate_in(row), "number")
        where = (row["task"], row["quantity"].replace("_", " "), row["estimator"])
        rows.append((*where, theirs, ours, row["n"]))
    heads = ["task", "quantity", "estimator", "published, last block", "here, at the last batch"]
    return pd.DataFrame(rows, columns=[*heads, "n"])


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


def _pair(
    comparisons: Comparisons, left: Axes, right: Axes, theirs: pd.DataFrame, own: pd.DataFrame
) -> None:
    """Draw published and own curves on axes with the same limits."""
    task, n = str(own["task"].iloc[0]), int(own["n"].max())
    under = f"mean of {n} seed{'s' * (n != 1)}{_reward(comparisons, task)}"
    for ax, rows, where, words in (
        (left, theirs, "published", LABEL),
        (right, own, "here", under),
    ):
        curve_panel(ax, rows)
        ax.set_title(f"{task}: {where}", pad=16)
        place = ((0.0, 1.0), (0.0, 5.0), "axes fraction", "offset points")
        ax.annotate(words, *place, size=7, color=MUTED)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    left.set_xlim(0, 9 * BLOCK)
    lows, highs = zip(left.get_ylim(), right.get_ylim(), strict=True)
    for ax, rows in ((left, theirs), (right, own)):
        ax.set_ylim(min(lows), max(highs))
        curve_labels(ax, rows)
    # Only the left panel names the values: the right one's grid must be the same.
    right.tick_params(labelleft=False)
    right.yaxis.set_major_locator(FixedLocator(list(left.get_yticks())))
    right.set_ylim(min(lows), max(highs))


def _reward(comparisons: Comparisons, task: str) -> str:
    """Return the reward of this result set in words, if the manifest tells."""
    experiment = comparisons.results.manifest.get("experiment") or {}
    own = (experiment.get("per_task") or {}).get(task) or {}
    reward = ((experiment.get("training") or {}) | own).get("reward")
    names = {"p": "p_D", "log_p": "log p_D", "logit": "logit of p_D", "exp_p": "exp(p_D)"}
    return f", reward {names.get(reward, reward)}" if reward else ""

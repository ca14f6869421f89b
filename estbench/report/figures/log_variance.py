"""Log variance of the gradient against the batch, each estimator on its own trajectory."""

from __future__ import annotations

import pandas as pd

from estbench.report.comparisons import Comparisons
from estbench.report.figures.base import (
    Drawn,
    biased_text,
    entries,
    few_text,
    label_room,
    n_text,
    stacked,
)
from estbench.report.figures.curves import curve_data, curve_panel, smoothing_text
from estbench.report.formatting import number, with_interval
from estbench.report.statistics import Estimate

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
        "per sequence, at every adversarial batch of each estimator's own training",
        remark="Each estimator is at its own parameters here, as in the paper: a lower line may "
        "have a better estimator or merely another policy. The comparison at equal parameters is "
        "the figure of shared snapshots.",
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
) -> Drawn | None:
    """Draw a panel a task that recorded the metric; nothing if none did."""
    results = comparisons.results
    every = {task: curve_data(results.curves, task, metric) for task in results.tasks}
    panels = {task: data for task, data in every.items() if not data.empty}
    if not panels:
        return None
    data = pd.concat(panels.values(), ignore_index=True)
    figure, axes = stacked(len(panels), right=label_room(data["estimator"]))
    for ax, (task, rows) in zip(axes, panels.items(), strict=True):
        curve_panel(ax, rows, title=task, quantity=quantity)
    last = last_points(data)
    caption = (
        f"{what}. Line: mean over seeds, {n_text(last)}; band: 95 % t interval over seeds, point "
        f"by point; thin lines: single seeds. {smoothing_text(data)} Lower is better. {remark}"
        f"{few_text(last['n'])}{biased_text(last['estimator'])}"
    )
    ends = "; ".join(
        f"{row['estimator']} on {row['task']} {number(row['estimate'])}" for row in entries(last)
    )
    alt = f"{title}. At the last batch, in nats: {ends}."
    return Drawn(name, title, caption, alt, data, figure, last_table(last))


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

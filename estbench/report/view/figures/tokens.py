"""What training generates: success and entropy against tokens, divergence and length by batch."""

from __future__ import annotations

import pandas as pd

from estbench.report.data.comparisons import TRAINING, Comparisons
from estbench.report.data.formatting import clean, number, with_interval
from estbench.report.data.labels import Metric, batch_name, estimator_facts, metric
from estbench.report.view.figures.base import Drawn, entries, label_room, stacked
from estbench.report.view.figures.captions import described
from estbench.report.view.figures.curves import (
    curve_data,
    curve_labels,
    curve_panel,
    curves_text,
    drawable,
    last_points,
)
from estbench.report.view.figures.direct import label_tall
from estbench.report.view.figures.scales import plain_log_ticks

__all__ = ["draw"]

BY_TOKENS = ("entropy",)  # beside the task's own metric
BY_BATCH = ("kl_reference", "mean_length", "equal_groups")


def draw(comparisons: Comparisons) -> Drawn | None:
    """Draw the tasks whose runs count the tokens that they generate; nothing without any."""
    panels = list(_panels(comparisons))
    if not panels:
        return None
    data = pd.concat([rows for *_, rows in panels], ignore_index=True)
    names = list(data["estimator"].unique())
    tall = [label_tall(rows["estimator"].nunique(), 1.95) for *_, rows in panels]
    figure, axes = stacked(len(panels), height=tall, right=label_room(names))
    for ax, (task, what, across, rows) in zip(axes, panels, strict=True):
        by = "tokens generated (log axis)" if across == "tokens" else ""
        curve_panel(ax, rows, title=task, quantity=what.axis, xlabel=by, across=across)
        if across == "tokens":
            ax.set_xscale("log")
            plain_log_ticks(ax.xaxis)
        curve_labels(ax, rows)
    tasks = list(dict.fromkeys(task for task, *_ in panels))
    table = _ends(comparisons, tasks)
    first = table.columns[2]
    return described(
        comparisons,
        "tokens",
        "What training generates: success against tokens, entropy, divergence, length",
        "Success and entropy against the tokens that the estimators generate in training: end "
        "tokens, rollouts and greedy answers are included, evaluation is not. Other panels go by "
        f"{batch_name(*tasks)}. {curves_text(data)}",
        (f"{row['estimator']} on {row['task']} {row[first]}" for row in entries(table)),
        data,
        figure,
        table,
        lead="At the end: ",
        kind=TRAINING,
        counts=last_points(data),
    )


def _panels(comparisons: Comparisons) -> list[tuple[str, Metric, str, pd.DataFrame]]:
    """Return the task, the metric, what goes across, and the curves of each panel."""
    curves, found = comparisons.results.curves, []
    for task in comparisons.results.tasks:
        own = comparisons.primary(task)
        spent = _tokens(curves, task)
        if own is None or spent.empty:
            continue
        wanted = [*((name, "tokens") for name in (own.name, *BY_TOKENS))]
        wanted += [(name, "step") for name in BY_BATCH]
        for name, across in wanted:
            rows = curve_data(curves, task, name)
            if across == "tokens":
                rows = rows.merge(spent, on=["estimator", "step"], how="inner")
            if not rows.empty:
                what = metric(task, name)
                found.append((task, what, across, drawable(rows).assign(metric=name)))
    return found


def _tokens(curves: pd.DataFrame, task: str) -> pd.DataFrame:
    """Return the tokens up to each batch, means over seeds: columns estimator, step, tokens."""
    columns = ["estimator", "step", "tokens"]
    if "tokens" not in curves.columns:
        return pd.DataFrame(columns=columns)
    rows = curves.loc[curves["task"] == task, ["seed", *columns]].dropna().sort_values("step")
    rows["tokens"] = rows.groupby(["estimator", "seed"])["tokens"].cumsum()
    return rows.groupby(["estimator", "step"])["tokens"].mean().reset_index()


def _ends(comparisons: Comparisons, tasks: list[str]) -> pd.DataFrame:
    """Return the metrics at the end of training, a row a task and estimator."""
    rows = []
    for task in tasks:
        spent = _tokens(comparisons.results.curves, task).groupby("estimator")["tokens"].max()
        own = comparisons.primary(task)
        assert own is not None
        for name in comparisons.trained(task):
            head = {"task": task, "estimator": clean(name, 60) + estimator_facts(name).mark}
            ends = {"success": own.name} | {n: n for n in (*BY_TOKENS, *BY_BATCH)}
            values = {
                metric(task, n).label if heading == n else heading: with_interval(
                    comparisons.final(task, name, n), "number", 3
                )
                for heading, n in ends.items()
            }
            rows.append({**head, **values, "tokens": number(float(spent.get(name, 0.0)), 3)})
    return pd.DataFrame(rows)

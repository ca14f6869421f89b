"""tables/summary.csv: one row a task, estimator and quantity, with interval and test."""

from __future__ import annotations

import math

import pandas as pd

from estbench.report.data.comparisons import BASELINED, COSTS, QUANTITIES, Comparisons, records_of
from estbench.report.data.marks import MARKS, SNAPSHOTS, TRAINING, with_marks
from estbench.report.data.statistics import Estimate
from estbench.report.records import RUN_COLUMNS

__all__ = ["SUMMARY_COLUMNS", "summary_frame"]

SUMMARY_COLUMNS = ["task", "estimator", "metric", "estimate", "low", "high", "n", "against"]
SUMMARY_COLUMNS += ["p_value", "p_holm", "kind", "least", "most", "survives", "bound", *MARKS]
NO_GUARD = (math.nan, math.nan, None, "")

# Which records stand behind a mean; where none is named, training runs do.
MEANS = {
    "variance_per_sequence": SNAPSHOTS,
    "relative_bias": SNAPSHOTS,
    "variance_over_no_control_variate": SNAPSHOTS,
    "seconds_per_step": "timing",
}


def summary_frame(comparisons: Comparisons) -> pd.DataFrame:
    """Return the summary: means, then ratios and differences to other estimators.

    Ratios of variance are those of the whole trajectory, to the partner with the same baseline and
    to `reinforce-ema`; tables/ratios.csv has them at every snapshot too. Times and scores are
    compared with `reinforce` as well.

    Returns:
      Columns SUMMARY_COLUMNS. `estimate`, `low` and `high` are a mean ("mean", "geometric mean"), a
      ratio or a difference of paired replicates (`kind`) with its 95 % t interval; `n` counts
      replicates; `against` is the estimator of the comparison, with the p-value of no difference,
      raw and Holm-adjusted: of variance over all comparisons with a partner or `reinforce-ema`, of
      times and scores over all pairs of estimators. `least`, `most`, `survives` and `bound` are
      those of tables/ratios.csv. The last three are those of `marks.MARKS`: what failed
      or is missing behind the number, and whether the estimator may be ranked.
    """
    rows = [row for task in comparisons.results.tasks for row in _task_rows(comparisons, task)]
    table = pd.DataFrame(rows, columns=[*SUMMARY_COLUMNS[: -len(MARKS)], "records"])
    parts = [with_marks(comparisons, part, str(kind)) for kind, part in table.groupby("records")]
    marked = pd.concat(parts).sort_index() if parts else table.reindex(columns=SUMMARY_COLUMNS)
    return marked[SUMMARY_COLUMNS]


def _task_rows(comparisons: Comparisons, task: str) -> list[tuple[object, ...]]:
    """Return the rows of one task, estimator by estimator."""
    results = comparisons.results
    names = {
        name: results.estimators(frame, task)
        for name, frame in (
            ("runs", results.runs),
            ("variance", results.variance),
            ("timing", results.timing),
        )
    }
    everyone = results.estimators(
        pd.DataFrame({"estimator": [name for group in names.values() for name in group]})
    )
    finals = [name for name in results.runs.columns if name not in RUN_COLUMNS]
    rows: list[tuple[object, ...]] = []
    for estimator in everyone:
        for label, estimate, kind in _means(comparisons, task, estimator, finals):
            if estimate.known:
                row = _row(task, estimator, label, estimate, "", kind, float("nan"))
                rows.append((*row, MEANS.get(label, TRAINING)))
        for cost in COSTS:
            for against in dict.fromkeys((comparisons.partner(task, estimator), BASELINED)):
                ratio = comparisons.ratio(task, cost, estimator, against)
                if ratio is not None:
                    guard = (ratio.least, ratio.most, ratio.survives, ratio.bound)
                    label = f"variance_per_{cost}_ratio"
                    row = _row(
                        task,
                        estimator,
                        label,
                        ratio.estimate,
                        against,
                        "ratio",
                        ratio.p_holm,
                        guard,
                    )
                    rows.append((*row, SNAPSHOTS))
        for quantity in ("seconds_per_step", "quality"):
            for against in comparisons.references(task, estimator):
                estimate = comparisons.compare(task, quantity, estimator, against)
                if estimate.known:
                    label = _comparison_label(comparisons, task, quantity)
                    adjusted = comparisons.p_holm(task, quantity, estimator, against)
                    kind = QUANTITIES[quantity]
                    row = _row(task, estimator, label, estimate, against, kind, adjusted)
                    rows.append((*row, records_of(quantity)))
    return rows


def _means(
    comparisons: Comparisons, task: str, estimator: str, finals: list[str]
) -> list[tuple[str, Estimate, str]]:
    """Return (metric, estimate, kind) of what is not a comparison."""
    table = [
        ("variance_per_sequence", comparisons.noise(task, estimator), "geometric mean"),
        ("relative_bias", comparisons.bias(task, estimator), "mean"),
        (
            "variance_over_no_control_variate",
            comparisons.control_variate_gain(task, estimator),
            "ratio",
        ),
        ("seconds_per_step", comparisons.seconds(task, estimator), "geometric mean"),
    ]
    table += [(name, comparisons.final(task, estimator, name), "mean") for name in finals]
    return table


def _comparison_label(comparisons: Comparisons, task: str, quantity: str) -> str:
    """Return the name of a comparison's row ("goodness_difference", "seconds_per_step_ratio")."""
    metric = comparisons.primary(task)
    base = metric.name if quantity == "quality" and metric else quantity
    return f"{base}_{QUANTITIES[quantity]}"


def _row(
    task: str,
    estimator: str,
    metric: str,
    estimate: Estimate,
    against: str,
    kind: str,
    adjusted: float,
    guard: tuple[object, ...] = NO_GUARD,
) -> tuple[object, ...]:
    values = (estimate.value, estimate.low, estimate.high, estimate.n)
    p_value = estimate.p_value if against else float("nan")
    return (task, estimator, metric, *values, against, p_value, adjusted, kind, *guard)

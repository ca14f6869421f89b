"""tables/summary.csv: one row a task, estimator and quantity, with interval and test."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import pandas as pd

from estbench.report.data.comparisons import BASELINED, COSTS, QUANTITIES, Comparisons
from estbench.report.data.marks import MARKS, SNAPSHOTS, TRAINING, with_marks
from estbench.report.data.statistics import Estimate
from estbench.report.records import matching

__all__ = ["SUMMARY_COLUMNS", "summary_frame"]

SUMMARY_COLUMNS = ["task", "estimator", "metric", "estimate", "low", "high", "n", "against"]
SUMMARY_COLUMNS += ["p_value", "p_holm", "kind", "least", "most", "survives", "bound", *MARKS]
Guard = tuple[float, float, bool | None, str]
NO_GUARD: Guard = (math.nan, math.nan, None, "")


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
    results = comparisons.results
    rows: list[tuple[object, ...]] = []
    for task in results.tasks:
        frames = (results.runs, results.variance, results.timing)
        everyone = pd.concat([matching(frame, task=task)[["estimator"]] for frame in frames])
        for estimator in results.estimators(everyone):
            for metric, found, kind, records, against, guard in _entries(
                comparisons, task, estimator
            ):
                tests = (found.p_value, found.p_holm) if against else (math.nan, math.nan)
                row = (task, estimator, metric, *found.numbers, against, *tests, kind, *guard)
                rows += [(*row, records)] if found.known else []
    table = pd.DataFrame(rows, columns=[*SUMMARY_COLUMNS[: -len(MARKS)], "records"])
    parts = [with_marks(comparisons, part, str(kind)) for kind, part in table.groupby("records")]
    marked = pd.concat(parts).sort_index() if parts else table.reindex(columns=SUMMARY_COLUMNS)
    return marked[SUMMARY_COLUMNS]


def _entries(
    comparisons: Comparisons, task: str, estimator: str
) -> Iterator[tuple[str, Estimate, str, str, str, Guard]]:
    """Yield metric, estimate, kind, the records behind it, against whom, and the guard."""
    noise = comparisons.noise(task, estimator)
    yield "variance_per_sequence", noise, "geometric mean", SNAPSHOTS, "", NO_GUARD
    yield "relative_bias", comparisons.bias(task, estimator), "mean", SNAPSHOTS, "", NO_GUARD
    gain = comparisons.control_variate_gain(task, estimator)
    yield "variance_over_no_control_variate", gain, "ratio", SNAPSHOTS, "", NO_GUARD
    seconds = comparisons.seconds(task, estimator)
    yield "seconds_per_step", seconds, "geometric mean", "timing", "", NO_GUARD
    for name in comparisons.results.final_metrics(task):
        yield name, comparisons.final(task, estimator, name), "mean", TRAINING, "", NO_GUARD
    for cost in COSTS:
        for against in dict.fromkeys((comparisons.partner(task, estimator), BASELINED)):
            ratio = comparisons.ratio(task, cost, estimator, against)
            if ratio is not None:
                guard = (ratio.least, ratio.most, ratio.survives, ratio.bound)
                name = f"variance_per_{cost}_ratio"
                yield name, ratio.estimate, "ratio", SNAPSHOTS, against, guard
    main = comparisons.primary(task)
    for quantity, records in (("seconds_per_step", "timing"), ("quality", TRAINING)):
        name = main.name if main and quantity == "quality" else quantity
        kind = QUANTITIES[quantity]
        for against in comparisons.references(task, estimator):
            found = comparisons.compare(task, quantity, estimator, against)
            found = replace(found, p_holm=comparisons.p_holm(task, quantity, estimator, against))
            yield f"{name}_{kind}", found, kind, records, against, NO_GUARD

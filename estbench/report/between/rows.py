"""The differences themselves: B against A, paired by seed where seeds are the replicates.

Variance is the noise of the trajectory, over the snapshots that both sets have and that are
informative in both. Ratios are B over A, analysed as logarithms; metrics are differences B - A in
their own unit. Seeds pair: the same seed has the same data, initialisation and noise in both sets.
Rounds of the timing pass and the memory of worker processes do not: those are compared by Welch's
test on logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd

from estbench.report.between.settings import (
    DESCRIPTION,
    FAMILIES,
    MEMORY,
    QUALITY,
    TIME,
    VARIANCE,
    not_comparable,
)
from estbench.report.between.sides import Side
from estbench.report.data.comparisons import ALPHA
from estbench.report.data.formatting import bounded
from estbench.report.data.labels import metric, task_info
from estbench.report.data.ratios import OPEN, PARTNER, Ratio, ratios
from estbench.report.data.statistics import Estimate, add_independent, holm, logs, mean_interval
from estbench.report.data.trajectory import Measured
from estbench.report.records import matching
from estbench.report.view.words import rests_text

__all__ = ["COLUMNS", "Row", "differences", "shared"]

VARIANCE_ROW = ("variance_per_sequence", VARIANCE, "ratio", "", "lower")


@dataclass(frozen=True)
class Row:
    """One quantity of one estimator on one task; see ``estbench.compare`` for the columns."""

    task: str
    estimator: str
    quantity: str
    family: str
    kind: str
    unit: str
    better: str
    a: float = math.nan
    b: float = math.nan
    estimate: float = math.nan
    low: float = math.nan
    high: float = math.nan
    n_a: int = 0
    n_b: int = 0
    pairs: int = 0
    p_value: float = math.nan
    p_holm: float = math.nan
    verdict: str = ""
    reason: str = ""
    least: float = math.nan
    most: float = math.nan
    bound: str = ""
    ratio: Ratio | None = None


COLUMNS = [name for name in Row.__dataclass_fields__ if name != "ratio"]


def differences(a: Side, b: Side, margin: float, judge_machine: bool) -> pd.DataFrame:
    """Return a row a task, estimator and quantity that both sets hold, in the order of the report.

    Args:
      a: What is compared to.
      b: What is compared.
      margin: Ratio up to which more time or memory is no worse.
      judge_machine: Whether time and memory are judged at all.
    """
    rows = [
        row
        for task in a.results.tasks
        if task in b.results.tasks
        for row in _task_rows(a, b, task, margin)
    ]
    judged = [row for family in FAMILIES for row in _judged(rows, family, margin, judge_machine)]
    return pd.DataFrame([asdict(row) for row in judged], columns=COLUMNS)


def _task_rows(a: Side, b: Side, task: str, margin: float) -> Iterator[Row]:
    reasons = {family: not_comparable(a, b, task, family) for family in FAMILIES}

    def told(row: Row) -> Row:
        return replace(row, reason=reasons[row.family])

    there = b.comparisons.measured(task)
    for estimator in (name for name in a.comparisons.measured(task) if name in there):
        noise = _noise_row(a, b, Row(task, estimator, *VARIANCE_ROW))
        if noise is not None:
            yield told(noise)
    for quantity, family, unit in (("seconds_per_step", TIME, "s"), ("peak_mb", MEMORY, "MiB")):
        for estimator, pair in _pairs(a, b, task, quantity):
            row = Row(task, estimator, quantity, family, "ratio", unit, "lower")
            yield told(_unpaired(row, *pair, margin))
    for name in _metrics(a, b, task):
        known = metric(task, name)
        family = DESCRIPTION if known.better == "neither" else QUALITY
        for estimator, (first, second) in _pairs(a, b, task, name):
            row = Row(task, estimator, name, family, "difference", known.unit, known.better)
            yield told(_paired(row, first, second, equal=_equal(first, second)))


def _pairs(
    a: Side, b: Side, task: str, quantity: str
) -> Iterator[tuple[str, tuple[pd.Series[float], pd.Series[float]]]]:
    """Yield the estimators that both sets have a quantity of, with the replicates of each."""
    here, there = (side.comparisons.replicates(task, quantity) for side in (a, b))
    for estimator in here.columns.intersection(there.columns, sort=False):
        yield estimator, (here[estimator].dropna(), there[estimator].dropna())


def _noise_row(a: Side, b: Side, row: Row) -> Row | None:
    """Return the row of a variance, or None where no seed of a set has a value.

    Sets without a snapshot in common cannot be compared; the numbers beside are then of their own.
    """
    sides = [side.comparisons.at(row.task) for side in (a, b)]
    both = shared(sides[0], sides[1], row.estimator)
    series = [_by_seed(both, name) for name in both.names]
    if not len(both.steps):
        series = [_by_seed(own, row.estimator) for own in sides]
    if not (len(series[0]) and len(series[1])):
        return None
    rows = (
        matching(side.results.measured, task=row.task, estimator=row.estimator) for side in (a, b)
    )
    raw = (own.set_index(["seed", "snapshot"])["total_variance"] for own in rows)
    ratio = ratios(both, "sequence", [("b", "a", PARTNER)], [True])["b", "a"]
    row = replace(row, ratio=ratio, least=ratio.least, most=ratio.most, bound=ratio.bound)
    return _paired(row, series[0], series[1], equal=_equal(*raw))


def _by_seed(measured: Measured, name: str) -> pd.Series[float]:
    """Return the log noise of one estimator, indexed by seed."""
    values = logs(measured.noise("sequence"))[measured.places[name]]
    return pd.Series(values, index=measured.seeds).dropna()


def shared(a: Measured, b: Measured, estimator: str) -> Measured:
    """Return one estimator's measurements in two sets as those of two estimators, "a" and "b".

    Snapshots pair by their batch, and are informative if they are so in both sets.
    """
    steps = [step for step in a.steps.tolist() if step in b.steps]
    seeds = sorted({*a.seeds, *b.seeds})
    shape = (2, len(seeds), len(steps))
    values, tails = np.full(shape, math.nan), np.zeros(shape, dtype=np.bool_)
    informative = np.ones(len(steps), dtype=np.bool_)
    for side, own in enumerate((a, b)):
        rows = [seeds.index(seed) for seed in own.seeds]
        columns = [own.steps.tolist().index(step) for step in steps]
        name = own.places[estimator]
        values[side, rows] = own.values["sequence"][name][:, columns]
        tails[side, rows] = own.heavy[name][:, columns]
        informative &= own.informative[columns]
    places = list(range(len(steps)))
    return Measured(
        ["a", "b"], seeds, places, np.array(steps), informative, {"sequence": values}, tails
    )


def _metrics(a: Side, b: Side, task: str) -> list[str]:
    """Return the final metrics that both sets have: quality first, the primary at its head."""
    there = b.results.final_metrics(task)
    final = [name for name in a.results.final_metrics(task) if name in there]
    if known := task_info(task):
        chosen = [name for name in known.metrics if name in final]
    else:  # a task of another installation: what the report knows a direction of
        other = ("log_variance",)  # on a trajectory of its own; it says nothing of samples
        chosen = [n for n in final if metric(task, n).better != "neither" and n not in other]
    primary = a.comparisons.primary(task)
    head = primary.name if primary else ""
    return sorted(chosen, key=lambda name: (name != head, metric(task, name).better == "neither"))


def _equal(here: pd.Series[float], there: pd.Series[float]) -> bool:
    """Return whether both have the same values, to the bit, wherever both have one."""
    both = here.index.intersection(there.index)
    return len(both) > 0 and bool((here.loc[both].to_numpy() == there.loc[both].to_numpy()).all())


def _paired(row: Row, here: pd.Series[float], there: pd.Series[float], *, equal: bool) -> Row:
    """Fill in the paired difference over the seeds that both have."""
    both = here.index.intersection(there.index)
    first, second = here.loc[both], there.loc[both]
    found = mean_interval(second - first)
    if found.n > 1 and found.standard_error == 0.0 and found.value != 0.0:
        # All differences are the same: a t test would divide by zero, and call two of them a
        # certainty. This is the test of their signs.
        found = replace(found, p_value=2.0 ** (1 - found.n))
    # The means beside the difference are those of the seeds behind it.
    shown = (first, second) if len(both) else (here, there)
    row = replace(row, n_a=len(here), n_b=len(there), pairs=len(both))
    return _filled(row, *shown, found, "equal" if equal else "")


def _unpaired(row: Row, here: pd.Series[float], there: pd.Series[float], margin: float) -> Row:
    """Fill in Welch's interval of the ratio; its test is that of a ratio within the tolerance."""
    equal = len(here) == len(there) and bool((here.to_numpy() == there.to_numpy()).all())
    found = add_independent(mean_interval(there), mean_interval(-here), math.log(margin))
    row = replace(row, n_a=len(here), n_b=len(there))
    return _filled(row, here, there, found, "equal" if equal else "")


def _filled(
    row: Row, here: pd.Series[float], there: pd.Series[float], found: Estimate, verdict: str
) -> Row:
    means = [mean_interval(values) for values in (here, there)]
    if row.kind == "ratio":
        means, found = [mean.exp() for mean in means], found.exp()
    estimate, low, high, _ = found.numbers
    row = replace(row, a=means[0].value, b=means[1].value, estimate=estimate, low=low, high=high)
    return replace(row, p_value=found.p_value, verdict=verdict)


def _judged(rows: list[Row], family: str, margin: float, judge_machine: bool) -> Iterator[Row]:
    """Yield a family's rows with Holm's p-values and verdicts.

    What is equal to the bit is known and takes no part in the correction, nor does what cannot be
    compared or is not judged.
    """
    own = [row for row in rows if row.family == family]
    machine = family in (TIME, MEMORY)
    tested = [not (row.reason or row.verdict) and (judge_machine or not machine) for row in own]
    p_values = [row.p_value if t else math.nan for row, t in zip(own, tested, strict=True)]
    for row, p_value in zip(own, holm(p_values), strict=True):
        row = replace(row, p_holm=float(p_value))
        if row.reason:
            # Numbers stand side by side all the same; a difference of them would mean nothing.
            nan = math.nan
            row = replace(row, estimate=nan, low=nan, high=nan, p_value=nan)
            yield replace(row, verdict="not comparable")
        elif row.verdict:
            yield row
        elif machine and not judge_machine:
            yield replace(row, verdict="not judged", reason="made on different machines")
        else:
            verdict, reason = _verdict(row, margin if machine else 0.0)
            yield replace(row, verdict=verdict, reason=reason)


def _verdict(row: Row, margin: float) -> tuple[str, str]:
    """Return what the test says, and why where it says nothing."""
    if row.p_holm < ALPHA and (doubt := _doubt(row)):
        return "cannot tell", doubt
    if row.p_holm < ALPHA:
        if row.better == "neither":
            return "differs", ""
        rises = row.estimate > (1.0 if row.kind == "ratio" else 0.0)
        return ("better" if rises == (row.better == "higher") else "worse"), ""
    if margin and 1.0 / margin <= row.low and row.high <= margin:
        return "within tolerance", ""
    if row.family in (TIME, MEMORY):
        few = min(row.n_a, row.n_b) < 2
        return "cannot tell", "fewer than two replicates" if few else ""
    reasons = {0: "no seed in common", 1: "one seed in common"}
    return "cannot tell", reasons.get(row.pairs, "")


def _doubt(row: Row) -> str:
    """Return why a significant ratio of variances is no verdict, or nothing.

    The tests without one snapshot are corrected by the factor that Holm's method gave the row.
    """
    if row.ratio is None:
        return ""
    factor = row.p_holm / row.p_value if row.p_value > 0.0 else 1.0

    def corrected(estimate: Estimate) -> Estimate:
        return replace(estimate, p_holm=min(1.0, estimate.p_holm * factor))

    parts = [
        replace(part, without=replace(part.without, estimate=corrected(part.without.estimate)))
        if part.without
        else part
        for part in row.ratio.parts
    ]
    estimate = replace(row.ratio.estimate, p_holm=row.p_holm)
    found = replace(row.ratio, estimate=estimate, parts=tuple(parts))
    if found.verdict == OPEN:
        return f"heavy tails: {bounded(found.estimate, found.bound)}"
    return "" if found.survives else rests_text(found)

"""Estimators against each other: noise at equal parameters, its cost, time and quality."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations

import numpy as np
import pandas as pd

from estbench.report.data.labels import Metric, estimator_facts, peer, primary_metric
from estbench.report.data.memory import once
from estbench.report.data.order import estimator_order
from estbench.report.data.ratios import ALPHA, EMA, PARTNER, Ratio, ratios
from estbench.report.data.statistics import (
    Estimate,
    add_independent,
    corrected,
    logs,
    mean_interval,
    root,
)
from estbench.report.data.trajectory import Measured, batch_size, measured_at, snapshot_table
from estbench.report.records import Results, matching

__all__ = [
    "ALPHA",
    "BASELINED",
    "COSTS",
    "PLAIN",
    "QUANTITIES",
    "SNAPSHOTS",
    "TRAINING",
    "Comparisons",
]

# The two estimators that every ratio is given to: without a baseline, and with the simplest one.
PLAIN = "reinforce"
BASELINED = "reinforce-ema"

# What a variance is multiplied with: a draw's sequences, its reward evaluations or the seconds of a
# step; "adam": sequences, with the variance in the metric of the trajectory's Adam; "step":
# sequences, with the noise of the data, where sequences have contexts; "token": tokens generated.
COSTS = ("sequence", "evaluation", "second", "adam", "step", "token")

# Quantity -> how a comparison reads: a ratio (analysed in logs) or a difference.
QUANTITIES = {
    **{f"variance_per_{cost}": "ratio" for cost in COSTS[:3]},
    "seconds_per_step": "ratio",
    "quality": "difference",
}

# The records that stand behind a number: training runs, or measurements at shared snapshots.
TRAINING, SNAPSHOTS = "training", "snapshots"

PAIR_COLUMNS = ["task", "quantity", "estimator", "against", "kind", "estimate", "low", "high", "n"]
PAIR_COLUMNS += ["p_value", "p_holm"]


@dataclass(frozen=True)
class Comparisons:
    """Everything that is computed from a result set, on demand and once.

    Attributes:
      results: The result set.
      memory: What was computed so far.
    """

    results: Results
    memory: dict[object, object] = field(default_factory=dict, repr=False, compare=False)

    @once
    def at(self, task: str) -> Measured:
        """Return the measurements of a task as arrays; see `estbench.report.data.trajectory`."""
        return measured_at(self.results, task)

    @cached_property
    def snapshots(self) -> pd.DataFrame:
        """tables/variance: the measurements, and what follows from each."""
        return snapshot_table(self.results)

    @once
    def measured(self, task: str) -> list[str]:
        """Return the estimators measured at the task's snapshots."""
        return self.results.estimators(self.results.measured, task)

    @once
    def trained(self, task: str) -> list[str]:
        """Return the estimators with at least one finished run on the task."""
        runs = self.results.runs
        return self.results.estimators(runs[runs["status"] == "ok"], task)

    @once
    def timed(self, task: str) -> list[str]:
        """Return the estimators that the timing pass covers on the task."""
        return self.results.estimators(self.results.timing, task)

    def lost(self, kind: str, status: str, task: str, estimator: str) -> int:
        """Return how many records of a kind failed, or are missing though the experiment asks.

        Args:
          kind: TRAINING or SNAPSHOTS.
          status: "failed" or "missing"; of measurements only failures are known.
        """
        return self._lost[kind, status, task, estimator]

    @cached_property
    def _lost(self) -> Counter[tuple[str, str, str, str]]:
        counts = Counter((f.kind, "failed", f.task, f.estimator) for f in self.results.failures)
        runs = self.results.runs
        missing = runs.loc[runs["status"] == "missing", ["task", "estimator"]]
        counts.update((TRAINING, "missing", t, e) for t, e in missing.itertuples(index=False))
        return counts

    @once
    def primary(self, task: str) -> Metric | None:
        """Return the metric that says how good the task's sequences are."""
        curves = matching(self.results.curves, task=task)
        recorded = [name for name in self.results.metrics if curves[name].notna().any()]
        return primary_metric(task, [*self.results.final_metrics(task), *recorded])

    # Single estimators ---------------------------------------------------------------------------

    @once
    def replicates(self, task: str, quantity: str) -> pd.DataFrame:
        """Return the replicates of a quantity, on the scale on which they are analysed.

        Args:
          quantity: "variance_per_" and a cost of `Measured.values`: logs of the trajectory's noise,
            by seed; "seconds_per_step": logs, by round of the timing pass; "peak_mb": logs, by
            seed; a metric, or "quality" for the main one: its value after the last batch, by seed.

        Returns:
          A row a replicate, a column an estimator that has one, in the order of the palette. What
          was not measured, or has no logarithm, is nan.
        """
        if quantity.startswith("variance_per_"):
            at, cost = self.at(task), quantity.removeprefix("variance_per_")
            wide = pd.DataFrame(at.noise(cost).T, at.seeds, at.names)
            each = zip(at.names, at.values[cost], strict=True)
            return _logs(wide[[name for name, own in each if np.isfinite(own).any()]])
        if quantity == "seconds_per_step":
            return _logs(_wide(self.results.timing, task, "round", quantity))
        runs = self.results.runs
        if quantity == "peak_mb":
            return _logs(_wide(runs[runs["status"] == "ok"], task, "seed", quantity))
        if quantity == "quality":
            main = self.primary(task)
            return self.replicates(task, main.name) if main else pd.DataFrame()
        # Where runs kept no final value, it is the last of their curves.
        frame = runs if quantity in runs.columns else self.results.curves
        return _wide(frame, task, "seed", quantity)

    def finals(self, task: str, estimator: str, name: str) -> pd.Series[float]:
        """Return a metric after the last batch, by seed."""
        return self._column(task, name, estimator).dropna()

    def _column(self, task: str, quantity: str, estimator: str) -> pd.Series[float]:
        table = self.replicates(task, quantity)
        return table[estimator] if estimator in table else pd.Series(dtype=np.float64)

    @once
    def noise(self, task: str, estimator: str) -> Estimate:
        """Return the mean variance per sequence over the batches of the reference trajectory.

        Over seeds it is a geometric mean with a t interval of logs.
        """
        return mean_interval(self._column(task, "variance_per_sequence", estimator)).exp()

    @once
    def control_variate_gain(self, task: str, estimator: str) -> Estimate:
        """Return the noise over that of the same draws with the untrained control variate."""
        own, untrained = (
            self._column(task, f"variance_per_{cost}", estimator)
            for cost in ("sequence", "untrained")
        )
        return mean_interval(own - untrained).exp()

    @once
    def useful_share(self, task: str, snapshot: int, estimator: str) -> Estimate:
        """Return the part of a training step that is no noise, at the batch size in use.

        1 / (1 + B / batch), where B = tr Cov / |grad J|^2 is the noise scale in sequences: a
        geometric mean over seeds with its t interval. Unknown of an estimator that is biased by
        design: its noise lies around another vector than the gradient.
        """
        if estimator_facts(estimator).unbiased is False:
            return Estimate(math.nan)
        rows = matching(self.snapshots, task=task, snapshot=snapshot, estimator=estimator)
        scale = mean_interval(logs(rows["noise_scale"])).exp()
        batch = batch_size(self.results, task)
        low, value, high = (1.0 / (1.0 + b / batch) for b in (scale.high, scale.value, scale.low))
        return Estimate(value, low, high, scale.n)

    @once
    def seconds(self, task: str, estimator: str) -> Estimate:
        """Return seconds per generator step: geometric mean over the rounds of the timing pass."""
        return mean_interval(self._column(task, "seconds_per_step", estimator)).exp()

    @once
    def final(self, task: str, estimator: str, name: str) -> Estimate:
        """Return a metric after the last batch: mean over seeds."""
        return mean_interval(self._column(task, name, estimator))

    @once
    def change(self, task: str, estimator: str, name: str) -> Estimate:
        """Return a metric's change from before the first batch to the end, paired by seed."""
        own = matching(self.results.starts, task=task, estimator=estimator, metric=name)
        return mean_interval(self.finals(task, estimator, name) - own.set_index("seed")["value"])

    @once
    def bias(self, task: str, estimator: str) -> Estimate:
        """Return the relative bias: root mean square over informative snapshots and seeds.

        The squared bias, noise subtracted and with its sign, is averaged over a seed's snapshots,
        then over seeds with a t interval; estimate and limits are the roots (zero if negative).
        """
        rows = matching(self.snapshots, task=task, estimator=estimator, informative=True)
        return root(mean_interval(rows.groupby("seed")["relative_bias_squared"].mean()))

    @once
    def partner(self, task: str, estimator: str) -> str:
        """Return the estimator with the same baseline, "" if there is none or it is not there."""
        name = peer(estimator)
        return name if name in self._there(task) else ""

    @once
    def references(self, task: str, estimator: str) -> list[str]:
        """Return what times and scores are compared with: PLAIN, BASELINED and the partner."""
        wanted = dict.fromkeys((PLAIN, BASELINED, peer(estimator)))
        return [name for name in wanted if name in self._there(task) and name != estimator]

    @once
    def _there(self, task: str) -> set[str]:
        return {*self.measured(task), *self.trained(task), *self.timed(task)}

    # Two estimators ------------------------------------------------------------------------------

    @once
    def ratios(self, task: str, cost: str) -> dict[tuple[str, str], Ratio]:
        """Return (estimator, against) -> ratio of noise, to each partner and to BASELINED.

        They are one family for Holm's correction, without what is never ranked.

        Args:
          cost: One of COSTS.
        """
        names = self._covered(task, f"variance_per_{cost}")
        wanted = [
            (name, against, role)
            for name in names
            for against, role in ((peer(name), PARTNER), (BASELINED, EMA))
            # Where the partner is BASELINED itself, one comparison is both.
            if against in names and name != against and (role == PARTNER or against != peer(name))
        ]
        ranked = [all(estimator_facts(name).ranked for name in pair[:2]) for pair in wanted]
        times = None
        if cost == "second":
            times = {
                pair[:2]: self._contrast(task, "seconds_per_step", *pair[:2]) for pair in wanted
            }
        column = "sequence" if cost == "second" else cost
        return ratios(self.at(task), column, wanted, ranked, times)

    def ratio(self, task: str, cost: str, estimator: str, against: str) -> Ratio | None:
        """Return one of `ratios`, or None where it is not there."""
        found = self.ratios(task, cost).get((estimator, against))
        return found if found is not None and found.estimate.known else None

    @once
    def compare(self, task: str, quantity: str, estimator: str, against: str) -> Estimate:
        """Return the paired ratio (or difference) of any two estimators, with its raw p-value.

        Args:
          quantity: One of QUANTITIES; variances are those of the whole trajectory.
        """
        found = self._contrast(task, quantity, estimator, against)
        return found.exp() if QUANTITIES[quantity] == "ratio" else found

    def variance_at(self, task: str, snapshot: int, estimator: str) -> Estimate:
        """Return the variance per sequence at one snapshot: geometric mean over seeds."""
        at = self.at(task)
        place = at.snapshots.index(snapshot)
        return mean_interval(logs(at.values["sequence"][at.places[estimator], :, place])).exp()

    def pairs(self, task: str, quantity: str) -> pd.DataFrame:
        """Return every pair of ranked estimators, Holm-adjusted over the pairs of this table."""
        ranked = [n for n in self._covered(task, quantity) if estimator_facts(n).ranked]
        pairs = list(combinations(ranked, 2))
        found = corrected([self.compare(task, quantity, second, first) for first, second in pairs])
        rows = [
            (task, quantity, second, first, QUANTITIES[quantity], *e.numbers, e.p_value, e.p_holm)
            for (first, second), e in zip(pairs, found, strict=True)
        ]
        return pd.DataFrame(rows, columns=PAIR_COLUMNS)

    @cached_property
    def all_pairs(self) -> pd.DataFrame:
        """The pairs of every task and quantity; each (task, quantity) is a family for Holm."""
        families = [self.pairs(task, name) for task in self.results.tasks for name in QUANTITIES]
        filled = [family for family in families if not family.empty]
        return (
            pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=PAIR_COLUMNS)
        )

    def p_holm(self, task: str, quantity: str, first: str, second: str) -> float:
        """Return the adjusted p-value of a pair, in either order; nan if it was not tested."""
        return self._pair_index.get((task, quantity, *sorted((first, second))), float("nan"))

    def differ(self, task: str, quantity: str, first: str, second: str) -> bool:
        """Whether the test finds a difference between two estimators, after Holm over all pairs."""
        return self.p_holm(task, quantity, first, second) < ALPHA

    @cached_property
    def _pair_index(self) -> dict[tuple[str, ...], float]:
        table = self.all_pairs
        columns = ["task", "quantity", "estimator", "against", "p_holm"]
        return {
            (task, quantity, *sorted((first, second))): float(p_value)
            for task, quantity, first, second, p_value in table[columns].to_numpy().tolist()
        }

    def _contrast(self, task: str, quantity: str, first: str, second: str) -> Estimate:
        """Return the difference on the scale of analysis: of logs, or of scores."""
        if quantity == "variance_per_second":
            # Seconds of the serial timing pass, not those of runs that shared the machine.
            variance = self._contrast(task, "variance_per_sequence", first, second)
            return add_independent(
                variance, self._contrast(task, "seconds_per_step", first, second)
            )
        table = self.replicates(task, quantity)
        if first not in table or second not in table:
            return Estimate(float("nan"))
        return mean_interval(table[first].to_numpy() - table[second].to_numpy())

    def _covered(self, task: str, quantity: str) -> list[str]:
        """Return the estimators that have the quantity on the task."""
        if quantity == "variance_per_second":
            timed = self._covered(task, "seconds_per_step")
            return [name for name in self._covered(task, "variance_per_sequence") if name in timed]
        return list(self.replicates(task, quantity).columns)


def _wide(frame: pd.DataFrame, task: str, index: str, column: str) -> pd.DataFrame:
    """Return a task's column with a row a replicate and a column an estimator that has values."""
    rows = matching(frame, task=task)
    if column not in rows or not rows[column].notna().any():
        return pd.DataFrame(dtype=np.float64)
    wide = rows.pivot_table(index=index, columns="estimator", values=column, aggfunc="last")
    names = sorted(map(str, wide.columns), key=estimator_order)
    return wide[names].astype(np.float64)


def _logs(wide: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(logs(wide.to_numpy()), wide.index, wide.columns)

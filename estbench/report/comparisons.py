"""Estimators against each other: variance at equal parameters, its cost, time and quality."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations

import numpy as np
import pandas as pd

from estbench.report.labels import Metric, peer, primary_metric
from estbench.report.memory import once
from estbench.report.records import CURVE_COLUMNS, RUN_COLUMNS, Results
from estbench.report.replicates import (
    COSTS,
    NOTHING,
    Replicates,
    log,
    seed_logs,
    snapshot_logs,
    split,
)
from estbench.report.statistics import (
    Estimate,
    add_independent,
    holm,
    mean_interval,
    paired_difference,
    root,
)

__all__ = [
    "ALPHA",
    "BASELINED",
    "PLAIN",
    "QUANTITIES",
    "SNAPSHOTS",
    "TRAINING",
    "Comparisons",
    "records_of",
]

# The two estimators that every ratio is given to: without a baseline, and with the simplest one.
PLAIN = "reinforce"
BASELINED = "reinforce-ema"

ALPHA = 0.05

# Quantity -> how a comparison reads: a ratio (analysed in logs) or a difference.
QUANTITIES = {
    "variance_per_sequence": "ratio",
    "variance_per_evaluation": "ratio",
    "variance_per_second": "ratio",
    "seconds_per_step": "ratio",
    "quality": "difference",
}

# The records that stand behind a number: training runs, or measurements at shared snapshots.
TRAINING, SNAPSHOTS = "training", "snapshots"

PAIR_COLUMNS = ["task", "quantity", "estimator", "against", "kind", "estimate", "low", "high", "n"]
PAIR_COLUMNS += ["p_value", "p_holm"]


def records_of(quantity: str) -> str:
    """Return which records a quantity is made from."""
    if quantity == "seconds_per_step":
        return "timing"
    return SNAPSHOTS if quantity.startswith("variance") else TRAINING


@dataclass(frozen=True)
class Comparisons:
    """Everything that is computed from a result set, on demand and once.

    Attributes:
      results: The result set.
      memory: What was computed so far.
    """

    results: Results
    memory: dict[object, object] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def snapshot_logs(self) -> pd.DataFrame:
        """See `estbench.report.replicates`."""
        return snapshot_logs(self.results)

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
        runs, curves = self.results.runs, self.results.curves
        names: list[str] = []
        for frame, fixed in ((runs, RUN_COLUMNS), (curves, CURVE_COLUMNS)):
            own = frame[frame["task"] == task]
            names += [n for n in frame.columns if n not in fixed and own[n].notna().any()]
        return primary_metric(task, tuple(names))

    # Single estimators ---------------------------------------------------------------------------

    @once
    def log_variance(self, task: str, estimator: str) -> Estimate:
        """Return the mean log variance per sequence over the shared snapshots, in nats."""
        return mean_interval(self._variance_logs(task, estimator, "per_sequence"))

    @once
    def own_log_variance(self, task: str, estimator: str) -> Estimate:
        """Return the mean log variance over all batches of the estimator's own trajectory."""
        return mean_interval(self._own_logs(task, estimator))

    @once
    def control_variate_gain(self, task: str, estimator: str) -> Estimate:
        """Return variance over that of the same draws with the untrained control variate."""
        return mean_interval(self._variance_logs(task, estimator, "control_variate")).exp()

    @once
    def seconds(self, task: str, estimator: str) -> Estimate:
        """Return seconds per generator step: geometric mean over the rounds of the timing pass."""
        return mean_interval(self._time_logs(task, estimator)).exp()

    @once
    def final(self, task: str, estimator: str, name: str) -> Estimate:
        """Return a metric after the last batch: mean over seeds."""
        return mean_interval(self.finals(task, estimator, name))

    @once
    def change(self, task: str, estimator: str, name: str) -> Estimate:
        """Return a metric's change from before the first batch to the end, paired by seed."""
        starts = self.results.starts
        own = starts[
            (starts["task"] == task)
            & (starts["estimator"] == estimator)
            & (starts["metric"] == name)
        ]
        before = own.set_index("seed")["value"]
        return paired_difference(self.finals(task, estimator, name), before)

    @once
    def bias(self, task: str, estimator: str) -> Estimate:
        """Return the relative bias: root mean square over snapshots and seeds.

        The squared bias, noise subtracted and with its sign, is averaged over a seed's snapshots,
        then over seeds with a t interval; estimate and limits are the roots (zero if negative).
        """
        rows = self.results.measured
        rows = rows[(rows["task"] == task) & (rows["estimator"] == estimator)]
        return root(mean_interval(rows.groupby("seed")["relative_bias_squared"].mean()))

    @once
    def references(self, task: str, estimator: str) -> list[str]:
        """Return what an estimator is held against: PLAIN, BASELINED and its equal in baseline."""
        wanted = dict.fromkeys((PLAIN, BASELINED, peer(estimator)))
        there = {*self.measured(task), *self.trained(task), *self.timed(task)}
        return [name for name in wanted if name in there and name != estimator]

    # Two estimators ------------------------------------------------------------------------------

    @once
    def compare(self, task: str, quantity: str, estimator: str, against: str) -> Estimate:
        """Return the paired ratio (or difference) of two estimators; p-value of no difference.

        Args:
          quantity: One of QUANTITIES.
        """
        return self._read(quantity, self._contrast(task, quantity, estimator, against))

    @once
    def compare_at(self, task: str, snapshot: int, estimator: str, against: str) -> Estimate:
        """Return the paired ratio of variance per sequence at one snapshot."""
        logs = self._at_snapshot(snapshot)
        pair = [logs.get((task, name), NOTHING) for name in (estimator, against)]
        return paired_difference(pair[0], pair[1]).exp()

    def variance_at(self, task: str, snapshot: int, estimator: str) -> Estimate:
        """Return the variance per sequence at one snapshot: geometric mean over seeds."""
        return mean_interval(self._at_snapshot(snapshot).get((task, estimator), NOTHING)).exp()

    def pairs(self, task: str, quantity: str) -> pd.DataFrame:
        """Return every pair of estimators, Holm-adjusted over the pairs of this table."""
        rows = []
        for against, estimator in combinations(self._covered(task, quantity), 2):
            estimate = self.compare(task, quantity, estimator, against)
            kind = QUANTITIES[quantity]
            values = (estimate.value, estimate.low, estimate.high, estimate.n, estimate.p_value)
            rows.append((task, quantity, estimator, against, kind, *values))
        frame = pd.DataFrame(rows, columns=PAIR_COLUMNS[:-1])
        return frame.assign(p_holm=holm(frame["p_value"].to_numpy(np.float64)))

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
        rows = self._pair_index.get((task, quantity, *sorted((first, second))))
        return float("nan") if rows is None else rows

    def told_apart(self, task: str, quantity: str, first: str, second: str) -> bool:
        """Whether the test tells two estimators apart, after Holm over all pairs."""
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
        if quantity == "seconds_per_step":
            return paired_difference(self._time_logs(task, first), self._time_logs(task, second))
        if quantity == "quality":
            metric = self.primary(task)
            if metric is None:
                return Estimate(float("nan"))
            scores = [self.finals(task, name, metric.name) for name in (first, second)]
            return paired_difference(scores[0], scores[1])
        if quantity == "variance_per_second":
            # Seconds of the serial timing pass, not those of runs that shared the machine.
            variance = self._contrast(task, "variance_per_sequence", first, second)
            return add_independent(
                variance, self._contrast(task, "seconds_per_step", first, second)
            )
        column = quantity.removeprefix("variance_")
        logs = [self._variance_logs(task, name, column) for name in (first, second)]
        return paired_difference(logs[0], logs[1])

    def _covered(self, task: str, quantity: str) -> Iterable[str]:
        """Return the estimators that have the quantity on the task."""
        if quantity == "quality":
            return self.trained(task)
        if quantity == "seconds_per_step":
            return self.timed(task)
        if quantity == "variance_per_second":
            timed = set(self.timed(task))
            return [name for name in self.measured(task) if name in timed]
        return self.measured(task)

    @staticmethod
    def _read(quantity: str, estimate: Estimate) -> Estimate:
        return estimate.exp() if QUANTITIES[quantity] == "ratio" else estimate

    # Replicates, as series indexed by seed or round ----------------------------------------------

    def _variance_logs(self, task: str, estimator: str, column: str) -> pd.Series[float]:
        return self._by_seed[column].get((task, estimator), NOTHING)

    def _time_logs(self, task: str, estimator: str) -> pd.Series[float]:
        return self._by_round.get((task, estimator), NOTHING)

    def finals(self, task: str, estimator: str, name: str) -> pd.Series[float]:
        """Return the final value; where a run kept none, the last of its curve."""
        return self._final_series(name).get((task, estimator), NOTHING)

    @once
    def _final_series(self, name: str) -> Replicates:
        frame, curves = self.results.runs, self.results.curves
        if name not in frame.columns and name in curves.columns:
            rows = curves.dropna(subset=[name])
            frame = rows.groupby(["task", "estimator", "seed"]).last().reset_index()
        return split(frame, "seed", name) if name in frame.columns else {}

    def _own_logs(self, task: str, estimator: str) -> pd.Series[float]:
        return self._own_series().get((task, estimator), NOTHING)

    @once
    def _own_series(self) -> Replicates:
        curves = self.results.curves
        if "log_variance" not in curves.columns:
            return {}
        means = curves.groupby(["task", "estimator", "seed"])["log_variance"].mean().reset_index()
        return split(means, "seed", "log_variance")

    @once
    def _at_snapshot(self, snapshot: int) -> Replicates:
        logs = self.snapshot_logs
        return split(logs[logs["snapshot"] == snapshot], "seed", "per_sequence")

    @cached_property
    def _by_seed(self) -> dict[str, Replicates]:
        means = seed_logs(self.snapshot_logs)
        return {column: split(means, "seed", column) for column in COSTS}

    @cached_property
    def _by_round(self) -> Replicates:
        times = self.results.timing
        return split(times.assign(log=log(times["seconds_per_step"])), "round", "log")

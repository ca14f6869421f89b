"""Estimators against each other: noise at equal parameters, its cost, time and quality."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from estbench.report.data.labels import Metric, estimator_facts, peer, primary_metric
from estbench.report.data.memory import once
from estbench.report.data.ratios import ALPHA, EMA, PARTNER, Ratio, ratios
from estbench.report.data.replicates import NOTHING, Replicates, log, split
from estbench.report.data.statistics import (
    Estimate,
    add_independent,
    holm,
    mean_interval,
    paired_difference,
    root,
)
from estbench.report.data.trajectory import Measured, batch_size, logs, measured_at, snapshot_table
from estbench.report.records import CURVE_COLUMNS, RUN_COLUMNS, Results

__all__ = [
    "ALPHA",
    "BASELINED",
    "COSTS",
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
        runs, curves = self.results.runs, self.results.curves
        names: list[str] = []
        for frame, fixed in ((runs, RUN_COLUMNS), (curves, CURVE_COLUMNS)):
            own = frame[frame["task"] == task]
            names += [n for n in frame.columns if n not in fixed and own[n].notna().any()]
        return primary_metric(task, tuple(names))

    # Single estimators ---------------------------------------------------------------------------

    @once
    def noise(self, task: str, estimator: str) -> Estimate:
        """Return the mean variance per sequence over the batches of the reference trajectory.

        Over seeds it is a geometric mean with a t interval of logs.
        """
        return mean_interval(self._noise_logs(task, "sequence", estimator)).exp()

    @once
    def control_variate_gain(self, task: str, estimator: str) -> Estimate:
        """Return the noise over that of the same draws with the untrained control variate."""
        own = self._noise_logs(task, "sequence", estimator)
        return mean_interval(own - self._noise_logs(task, "untrained", estimator)).exp()

    @once
    def useful_share(self, task: str, snapshot: int, estimator: str) -> Estimate:
        """Return the part of a training step that is no noise, at the batch size in use.

        1 / (1 + B / batch), where B = tr Cov / |grad J|^2 is the noise scale in sequences: a
        geometric mean over seeds with its t interval.
        """
        rows = self.snapshots
        rows = rows[
            (rows["task"] == task)
            & (rows["snapshot"] == snapshot)
            & (rows["estimator"] == estimator)
        ]
        scale, batch = mean_interval(log(rows["noise_scale"])).exp(), batch_size(self.results, task)
        low, value, high = (1.0 / (1.0 + b / batch) for b in (scale.high, scale.value, scale.low))
        return Estimate(value, low, high, scale.n)

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
        """Return the relative bias: root mean square over informative snapshots and seeds.

        The squared bias, noise subtracted and with its sign, is averaged over a seed's snapshots,
        then over seeds with a t interval; estimate and limits are the roots (zero if negative).
        """
        rows = self.snapshots
        rows = rows[(rows["task"] == task) & (rows["estimator"] == estimator)]
        rows = rows[rows["informative"].fillna(False)]
        return root(mean_interval(rows.groupby("seed")["relative_bias_squared"].mean()))

    @once
    def partner(self, task: str, estimator: str) -> str:
        """Return the estimator with the same baseline, "" if there is none or it is not there."""
        name = peer(estimator)
        there = {*self.measured(task), *self.trained(task), *self.timed(task)}
        return name if name in there else ""

    @once
    def references(self, task: str, estimator: str) -> list[str]:
        """Return what times and scores are compared with: PLAIN, BASELINED and the partner."""
        there = {*self.measured(task), *self.trained(task), *self.timed(task)}
        wanted = dict.fromkeys((PLAIN, BASELINED, peer(estimator)))
        return [name for name in wanted if name in there and name != estimator]

    # Two estimators ------------------------------------------------------------------------------

    @once
    def ratios(self, task: str, cost: str) -> dict[tuple[str, str], Ratio]:
        """Return (estimator, against) -> ratio of noise, to each partner and to BASELINED.

        They are one family for Holm's correction, without what is never ranked.

        Args:
          cost: One of COSTS.
        """
        names = list(self._covered(task, f"variance_per_{cost}"))
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
        return self._read(quantity, self._contrast(task, quantity, estimator, against))

    def variance_at(self, task: str, snapshot: int, estimator: str) -> Estimate:
        """Return the variance per sequence at one snapshot: geometric mean over seeds."""
        at = self.at(task)
        place = at.snapshots.index(snapshot)
        return mean_interval(logs(at.values["sequence"][at.places[estimator], :, place])).exp()

    def pairs(self, task: str, quantity: str) -> pd.DataFrame:
        """Return every pair of ranked estimators, Holm-adjusted over the pairs of this table."""
        rows = []
        ranked = [n for n in self._covered(task, quantity) if estimator_facts(n).ranked]
        for against, estimator in combinations(ranked, 2):
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
        cost = quantity.removeprefix("variance_per_")
        noise = [self._noise_logs(task, cost, name) for name in (first, second)]
        return mean_interval(noise[0] - noise[1])

    def _covered(self, task: str, quantity: str) -> Iterable[str]:
        """Return the estimators that have the quantity on the task."""
        if quantity == "quality":
            return self.trained(task)
        if quantity == "seconds_per_step":
            return self.timed(task)
        if quantity == "variance_per_second":
            timed = set(self.timed(task))
            return [name for name in self.measured(task) if name in timed]
        cost = quantity.removeprefix("variance_per_")
        if cost in ("adam", "step", "token"):
            at = self.at(task)
            each = zip(at.names, at.values[cost], strict=True)
            return [name for name, values in each if np.isfinite(values).any()]
        return self.measured(task)

    @staticmethod
    def _read(quantity: str, estimate: Estimate) -> Estimate:
        return estimate.exp() if QUANTITIES[quantity] == "ratio" else estimate

    # Replicates, as series indexed by seed or round ----------------------------------------------

    @once
    def _all_noise_logs(self, task: str, cost: str) -> NDArray[np.float64]:
        return logs(self.at(task).noise(cost))

    def _noise_logs(self, task: str, cost: str, estimator: str) -> NDArray[np.float64]:
        """Return the log noise of the trajectory by seed; unknown where it was not measured."""
        at = self.at(task)
        if estimator not in at.places:
            return np.full(len(at.seeds), np.nan)
        own: NDArray[np.float64] = self._all_noise_logs(task, cost)[at.places[estimator]]
        return own

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

    @cached_property
    def _by_round(self) -> Replicates:
        times = self.results.timing
        return split(times.assign(log=log(times["seconds_per_step"])), "round", "log")

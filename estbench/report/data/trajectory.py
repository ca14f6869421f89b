"""The noise of the trajectory: what every ratio of variances is made from.

All estimators of a task are measured at the same snapshots of a reference trajectory. The noise of
an estimator is the integral of its variance over the batches of that trajectory (trapezoids between
snapshots), so a snapshot counts as much as the batches that it stands for and the variance that it
has there. A mean of log ratios would let one snapshot with a reward that is all but constant, and
a ratio of 1e7, carry the result.

Snapshots at which the reward does not tell sequences apart are shown and marked, and enter no
ratio: see `informative_snapshots`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from estbench.report.data.tails import heavy
from estbench.report.records import Results

__all__ = [
    "LEAST_GRADIENT",
    "LEAST_SPREAD",
    "Measured",
    "batch_size",
    "evaluations",
    "informative_snapshots",
    "measured_at",
    "snapshot_table",
    "trapezoids",
]

# A snapshot is informative where the reward's standard deviation under the policy is at least this
# part of the trajectory's largest standard deviation over data and samples together, and where the
# gradient's norm is at least that part of the trajectory's largest. docs/statistics.md says how
# they were chosen, and a test that no verdict of the reference sets hangs on them.
LEAST_SPREAD = 0.01
LEAST_GRADIENT = 0.01


@dataclass(frozen=True)
class Measured:
    """The measurements of one task, as arrays over [estimators, seeds, snapshots].

    Attributes:
      names: Estimators, in the order of the palette.
      seeds: Of the reference trajectories.
      snapshots: Indices, in the order of the trajectory.
      steps: Batches of the trajectory before each snapshot.
      informative: Which snapshots may enter a ratio.
      values: Cost -> variance times what one draw costs. "token": tokens that it generates, known
        where prompts are answered; "sequence": sequences; "evaluation":
        reward evaluations, see `evaluations`; "adam": sequences, with the variance in the metric of
        the trajectory's Adam; "step": sequences, with the variance from one context to another
        added, which a step of training has too; "untrained": sequences, with the control variate
        left out. nan where nothing was measured.
      heavy: Where a measurement has heavy tails.
    """

    names: list[str]
    seeds: list[int]
    snapshots: list[int]
    steps: NDArray[np.float64]
    informative: NDArray[np.bool_]
    values: dict[str, NDArray[np.float64]]
    heavy: NDArray[np.bool_]

    @cached_property
    def places(self) -> dict[str, int]:
        """Estimator -> its place in `names`."""
        return {name: place for place, name in enumerate(self.names)}

    def kept(self, cost: str, without: int | None = None) -> NDArray[np.intp]:
        """Return the places of the informative snapshots at which a cost was measured.

        Args:
          without: Place of a snapshot to leave out.
        """
        known = self.informative & np.isfinite(self.values[cost]).any(axis=(0, 1))
        if without is not None:
            known[without] = False
        return np.flatnonzero(known)

    def noise(self, cost: str, without: int | None = None) -> NDArray[np.float64]:
        """Return the mean of a cost's values over the batches, [estimators, seeds].

        A seed that lacks a snapshot is nan, rather than a mean over others, which would be another
        quantity.
        """
        kept = self.kept(cost, without)
        if not len(kept):
            return np.full((len(self.names), len(self.seeds)), np.nan)
        result: NDArray[np.float64] = self.values[cost][:, :, kept] @ trapezoids(self.steps[kept])
        return result

    def heavy_part(self, cost: str) -> NDArray[np.float64]:
        """Return which part of each estimator's noise comes from heavy-tailed measurements."""
        kept = self.kept(cost)
        if not len(kept):
            return np.zeros(len(self.names))
        each = self.values[cost][:, :, kept] * trapezoids(self.steps[kept])
        whole = each.sum(axis=2)
        with np.errstate(invalid="ignore", divide="ignore"):
            part = np.where(self.heavy[:, :, kept], each, 0.0).sum(axis=2) / whole
        return _mean_known(part)

    def heavy_share(self, place: int) -> NDArray[np.float64]:
        """Return in which part of the seeds each estimator is heavy-tailed at one snapshot."""
        there = np.isfinite(self.values["sequence"][:, :, place])
        return _mean_known(np.where(there, self.heavy[:, :, place], np.nan))


def trapezoids(steps: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weights of a mean over batches by the trapezoid rule; they sum to one.

    One snapshot alone has the weight one.
    """
    at = np.asarray(steps, dtype=np.float64)
    if len(at) == 1:
        return np.ones(1)
    gaps = np.diff(at)
    halves = np.concatenate([gaps, [0.0]]) + np.concatenate([[0.0], gaps])
    result: NDArray[np.float64] = halves / (2.0 * gaps.sum())
    return result


def informative_snapshots(
    rows: pd.DataFrame, spread: float = LEAST_SPREAD, gradient: float = LEAST_GRADIENT
) -> pd.Series[bool]:
    """Return which of a task's snapshots are informative, by index of the snapshot.

    Each condition compares a seed's snapshot with the largest value of that seed's trajectory, and
    is met if it is so in the median seed: all estimators and seeds share one set of snapshots. A
    quantity that was never recorded decides nothing.

    Args:
      rows: Measurements of one task.
      spread: See LEAST_SPREAD.
      gradient: See LEAST_GRADIENT.
    """
    # The reward and its gradient are the snapshot's, not the estimator's.
    means = rows.groupby(["snapshot", "seed"])[["reward_std", "reward_scale", "gradient_norm"]]
    table = means.median()
    conditions = (
        ("reward_std", "reward_scale", spread),
        ("gradient_norm", "gradient_norm", gradient),
    )
    found = pd.Series(True, index=pd.Index(sorted(set(rows["snapshot"])), name="snapshot"))
    for column, scale, least in conditions:
        value, largest = table[column].unstack("seed"), table[scale].unstack("seed").max()
        value = value.loc[:, largest > 0.0]
        if value.notna().to_numpy().any():
            # A norm that could not be told from zero is not recorded.
            part = value.fillna(0.0) / largest[largest > 0.0]
            found &= part.median(axis=1) >= least
    return found


def measured_at(results: Results, task: str) -> Measured:
    """Return the measurements of a task."""
    rows = results.measured
    rows = rows[rows["task"] == task]
    names = results.estimators(rows)
    seeds = sorted({int(seed) for seed in rows["seed"]})
    steps = rows.groupby("snapshot")["step"].median().astype("float64").sort_values(kind="stable")
    snapshots = [int(snapshot) for snapshot in steps.index]
    shape = (len(names), len(seeds), len(snapshots))
    at = tuple(
        rows[column].map({label: place for place, label in enumerate(labels)}).to_numpy(np.intp)
        for column, labels in (("estimator", names), ("seed", seeds), ("snapshot", snapshots))
    )
    values = {}
    for cost, numbers in _numbers(rows).items():
        values[cost] = np.full(shape, np.nan)
        values[cost][at] = numbers.to_numpy(np.float64)
    tails = np.zeros(shape, dtype=np.bool_)
    tails[at] = heavy(rows)
    known = informative_snapshots(rows)[snapshots].to_numpy(np.bool_)
    at_steps = np.array(steps, dtype=np.float64)
    return Measured(names, seeds, snapshots, at_steps, known, values, tails)


def snapshot_table(results: Results) -> pd.DataFrame:
    """Return tables/variance: `Results.variance` and what follows from it.

    The further columns: `informative`; `noise_scale`, tr Cov / |grad J|^2 in sequences, the noise
    of the data included, with `noise_scale_low` and `noise_scale_high` from the interval of the
    variance; `useful_share`, 1 / (1 + noise_scale / batch size), the part of a step at that batch
    that is no noise.
    """
    frame = results.variance
    informative = pd.Series(pd.NA, index=frame.index, dtype="boolean")
    batch = pd.Series(np.nan, index=frame.index)
    for task, rows in results.measured.groupby("task"):
        informative[rows.index] = rows["snapshot"].map(informative_snapshots(rows)).to_numpy()
        batch[rows.index] = batch_size(results, str(task))
    per = frame["sequences_per_draw"].astype("float64") / frame["gradient_norm"] ** 2
    of_data = frame["between_variance"].astype("float64").fillna(0.0)
    scales = {
        name: (frame[column] + of_data) * per
        for name, column in (
            ("noise_scale", "total_variance"),
            ("noise_scale_low", "variance_low"),
            ("noise_scale_high", "variance_high"),
        )
    }
    share = 1.0 / (1.0 + scales["noise_scale"] / batch)
    return frame.assign(informative=informative, **scales, useful_share=share)


def batch_size(results: Results, task: str) -> float:
    """Return the sequences of a training batch on a task; nan if the manifest does not say."""
    experiment = results.manifest.get("experiment") or {}
    own = (experiment.get("per_task") or {}).get(task) or {}
    size = own.get("batch_size") or (experiment.get("training") or {}).get("batch_size")
    return float(size) if size else float("nan")


def evaluations(rows: pd.DataFrame) -> pd.Series[float]:
    """Return the reward evaluations that a sequence costs in training, hard and relaxed.

    What a batch shares, such as the relaxed evaluation of `muprop`, is shared by the batch in use;
    what tunes an estimator is included. Sets that do not record it, and estimators that do not
    declare it, have what was counted while they were measured: there the share is that of a larger
    batch, and nothing is tuned.
    """
    counted = rows["hard_evals_per_draw"].fillna(0.0) + rows["relaxed_evals_per_draw"]
    each = counted / rows["sequences_per_draw"].astype("float64")
    return rows["evaluations_at_batch"].astype("float64").fillna(each)


def _numbers(rows: pd.DataFrame) -> dict[str, pd.Series[float]]:
    sequences = rows["sequences_per_draw"].astype("float64")
    return {
        "sequence": rows["total_variance"] * sequences,
        "evaluation": rows["total_variance"] * sequences * evaluations(rows),
        "adam": rows["adam_variance"] * sequences,
        "step": (rows["total_variance"] + _of_data(rows)) * sequences,
        "untrained": rows["untrained_variance"] * sequences,
        "token": rows["total_variance"] * rows["tokens_per_draw"],
    }


def _of_data(rows: pd.DataFrame) -> pd.Series[float]:
    """Return the variance from one context to another; unknown where a task has no contexts."""
    between = rows["between_variance"].astype("float64")
    return between if (between > 0.0).any() else between * np.nan


def _mean_known(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return means over the last axis of what is known; 0 where nothing is."""
    known = np.isfinite(values)
    count = np.maximum(known.sum(axis=-1), 1)
    result: NDArray[np.float64] = np.where(known, values, 0.0).sum(axis=-1) / count
    return result

"""The replicates behind every estimate: one number a seed, or one a timing round.

The headline quantity is the total variance of the gradient **per sequence** (variance of one draw
times the sequences of a draw) at the shared snapshots. Within a seed its log is averaged over all
of a task's snapshots, each weighing the same, so a ratio of two estimators is a geometric mean over
snapshots; the interval is then over seeds, paired. A seed that lacks a snapshot is left out of the
headline (n says so) rather than averaged over others, which would be another quantity.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from estbench.report.records import Results

__all__ = ["COSTS", "NOTHING", "Replicates", "log", "seed_logs", "snapshot_logs", "split"]

# (task, estimator) -> values, indexed by seed or round.
Replicates = dict[tuple[str, str], "pd.Series[float]"]

NOTHING: pd.Series[float] = pd.Series(dtype="float64")

COSTS = ["per_sequence", "per_evaluation", "control_variate"]


def snapshot_logs(results: Results) -> pd.DataFrame:
    """Return log variances at every snapshot: task, estimator, seed, snapshot, a column a cost.

    `per_sequence` is the log of variance x sequences and `per_evaluation` that of variance x hard
    and relaxed reward evaluations, both of one draw and without adaptation; `control_variate` is
    the log of variance over that of the same draws with the control variate left out.
    """
    rows = results.measured
    evaluations = rows["hard_evals_per_draw"].fillna(0.0) + rows["relaxed_evals_per_draw"]
    sequences = rows["sequences_per_draw"].astype("float64")
    frame = rows[["task", "estimator", "seed", "snapshot", "step", "fraction"]].copy()
    frame["per_sequence"] = log(rows["total_variance"] * sequences)
    frame["per_evaluation"] = log(rows["total_variance"] * evaluations)
    frame["control_variate"] = log(rows["total_variance"] / rows["untrained_variance"])
    return frame


def seed_logs(logs: pd.DataFrame) -> pd.DataFrame:
    """Return `snapshot_logs` averaged over a task's snapshots, for the seeds that have them all."""
    keys = ["task", "estimator", "seed"]
    if logs.empty:
        return pd.DataFrame(columns=[*keys, *COSTS])
    wanted = logs["task"].map(logs.groupby("task")["snapshot"].nunique())
    grouped = logs[logs.groupby(keys)["snapshot"].transform("nunique") == wanted].groupby(keys)
    # A snapshot whose variance is unknown makes the seed's mean unknown.
    whole = grouped[COSTS].count().eq(grouped.size(), axis=0)
    return grouped[COSTS].mean().where(whole).reset_index()


def split(frame: pd.DataFrame, index: str, column: str) -> Replicates:
    """Return each (task, estimator)'s replicates, without those that have no value."""
    rows = frame[["task", "estimator", index, column]].dropna(subset=[column])
    if rows.empty:
        return {}
    # Sorted and cut once: a group by itself costs as much as a thousand rows.
    groups = rows.groupby(["task", "estimator"], sort=False)
    place, labels = groups.ngroup().to_numpy(), rows[index].to_numpy()
    order = np.lexsort((labels, place))
    values = rows[column].to_numpy(np.float64)[order]
    starts = np.flatnonzero(np.diff(place[order], prepend=-1))
    names = rows[["task", "estimator"]].iloc[order[starts]].itertuples(index=False)
    ends = [*starts[1:].tolist(), len(order)]
    return {
        (str(task), str(estimator)): pd.Series(
            values[start:end], index=pd.Index(labels[order[start:end]], name=index), name=column
        )
        for (task, estimator), start, end in zip(names, starts.tolist(), ends, strict=True)
    }


def log(values: pd.Series[float]) -> pd.Series[float]:
    """Return natural logs; what is not positive has none (nan, not minus infinity)."""
    numbers = values.astype("float64")
    return pd.Series(np.log(numbers.where(numbers > 0.0)), index=values.index)

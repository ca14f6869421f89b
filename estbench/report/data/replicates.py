"""Replicates as series: one number a seed, or one a timing round."""

from __future__ import annotations

import numpy as np
import pandas as pd

__all__ = ["NOTHING", "Replicates", "log", "split"]

# (task, estimator) -> values, indexed by seed or round.
Replicates = dict[tuple[str, str], "pd.Series[float]"]

NOTHING: pd.Series[float] = pd.Series(dtype="float64")


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

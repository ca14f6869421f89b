"""Several tasks at once: an estimator's noise over that of `reinforce-ema`, averaged over tasks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from estbench.report.data.comparisons import BASELINED, Comparisons
from estbench.report.data.statistics import Estimate, mean_interval

__all__ = ["Across", "across_tasks", "profile"]

COST = "evaluation"


@dataclass(frozen=True)
class Across:
    """Ratios of noise per reward evaluation, over the tasks that an estimator was measured on.

    Attributes:
      logs: A column a task, a row a seed: the log ratio of the trajectory's noise.
      estimate: The geometric mean over tasks, with its t interval over seeds: tasks are averaged
        within a seed, and are not replicates. Unknown where a task is missing.
      bound: What heavy tails leave of it, as of any ratio.
    """

    logs: pd.DataFrame
    estimate: Estimate
    bound: str


def across_tasks(comparisons: Comparisons) -> dict[str, Across]:
    """Return every estimator's ratios to BASELINED, where two tasks or more have that."""
    tables = {
        task: comparisons.replicates(task, f"variance_per_{COST}")
        for task in comparisons.results.tasks
    }
    tables = {task: table for task, table in tables.items() if BASELINED in table}
    if len(tables) < 2:
        return {}
    names = dict.fromkeys(str(name) for table in tables.values() for name in table)
    return {n: _across(comparisons, n, tables) for n in names if n != BASELINED}


def _across(comparisons: Comparisons, name: str, tables: dict[str, pd.DataFrame]) -> Across:
    logs = pd.DataFrame(
        {t: table[name] - table[BASELINED] for t, table in tables.items() if name in table}
    )
    whole = logs.dropna() if set(logs) == set(tables) else logs.iloc[:0]
    ratios = [comparisons.ratio(str(task), COST, name, BASELINED) for task in logs]
    bounds = {ratio.bound for ratio in ratios if ratio is not None} - {""}
    bound = bounds.pop() if len(bounds) == 1 else "none" if bounds else ""
    return Across(logs, mean_interval(whole.mean(axis=1)).exp(), bound)


def profile(one: Across, tasks: int, at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of tasks and seeds with a ratio of at most each value (Dolan and Moré 2002).

    A task that the estimator was not measured on counts as one where it is never that good. All
    tasks weigh the same, however many seeds they have.
    """
    shares = np.zeros(len(at))
    for task in one.logs:
        ratios = np.exp(one.logs[task].dropna().to_numpy())
        shares += (ratios[:, None] <= at).mean(axis=0) if len(ratios) else 0.0
    return shares / tasks

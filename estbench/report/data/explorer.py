"""The numbers that a reader of the page may explore: noise by task, cost, snapshot and seed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from estbench.report.data.comparisons import BASELINED, Comparisons
from estbench.report.data.labels import estimator_facts
from estbench.report.data.ratios import HEAVY_PART
from estbench.report.data.statistics import CONFIDENCE, logs

__all__ = ["explorer_data"]

MOST_NUMBERS = 60_000  # they are written into the page
COSTS = {"sequence": "sequence", "evaluation": "reward evaluation", "second": "second"}
TOKEN = {"token": "generated token"}  # where a task counts them


def explorer_data(comparisons: Comparisons) -> dict[str, Any] | None:
    """Return log noise by task, cost, snapshot, estimator and seed; None where there is none.

    Returns:
      ``tasks``: name, ``estimators`` (name and mark), ``snapshots`` ("trajectory" first), ``logs``
      of each cost as [snapshot][estimator][seed], three decimals, null where unknown; ``heavy``,
      whether heavy tails leave only a bound, as [snapshot][estimator]; and ``seconds``, the log
      seconds of a step by estimator.
      ``quantiles``: of the t distribution, by degrees of freedom.
    """
    every = comparisons.results.tasks
    counted = any(np.isfinite(comparisons.at(task).values["token"]).any() for task in every)
    costs = COSTS | (TOKEN if counted else {})
    tasks = [_task(comparisons, task, [*costs]) for task in every]
    found = [task for task in tasks if task is not None]
    size = sum(
        len(values) * len(values[0]) * len(values[0][0])
        for task in found
        for values in task["logs"].values()
    )
    if not found or size > MOST_NUMBERS:
        return None
    most = max(len(task["logs"]["sequence"][0][0]) for task in found)
    df = np.arange(1, max(most, 2))
    quantiles = special.stdtrit(df, 0.5 + CONFIDENCE / 2.0)
    return {
        "tasks": found,
        "costs": costs,
        "reference": BASELINED,
        "quantiles": [round(float(q), 4) for q in quantiles],
    }


def _task(comparisons: Comparisons, task: str, costs: list[str]) -> dict[str, Any] | None:
    at = comparisons.at(task)
    if len(at.names) < 2:
        return None
    snapshots = ["whole trajectory"]
    snapshots += [
        f"batch {step:g}{'' if told else ' (uninformative)'}"
        for step, told in zip(at.steps, at.informative, strict=True)
    ]
    noise = {}
    for cost in costs:
        if cost == "second":  # the page multiplies by seconds itself
            continue
        values = at.values[cost]
        whole = [at.noise(cost), *(values[:, :, place] for place in range(len(at.snapshots)))]
        noise[cost] = [_rounded(part) for part in whole]
    heavy = [at.heavy_part("sequence"), *map(at.heavy_share, range(len(at.snapshots)))]
    seconds = [comparisons.seconds(task, name).value for name in at.names]
    return {
        "task": task,
        "estimators": [[name, estimator_facts(name).mark] for name in at.names],
        "snapshots": snapshots,
        "logs": noise,
        "heavy": [[int(part >= HEAVY_PART) for part in parts.tolist()] for parts in heavy],
        "seconds": [round(math.log(s), 4) if math.isfinite(s) else None for s in seconds],
    }


def _rounded(values: NDArray[np.float64]) -> list[list[float | None]]:
    found = logs(values).tolist()
    return [[round(x, 3) if math.isfinite(x) else None for x in row] for row in found]

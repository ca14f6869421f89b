"""What steps gained of what the exact gradient's gain: a ratio a seed, then intervals over seeds.

Inside a seed, gains are added up over snapshots before they are divided: a snapshot at which even
the exact gradient gains next to nothing would otherwise carry the mean. Snapshots at which the
exact gradient's gain is not certain to be positive are left out.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from estbench.report.data.formatting import with_interval
from estbench.report.data.labels import estimator_facts
from estbench.report.data.order import estimator_order
from estbench.report.data.statistics import Estimate, interval_frame, mean_interval

__all__ = ["CELL", "MEASURES", "gained", "gained_sentence", "own_batch"]

CELL = ["task", "estimator", "optimiser", "steps", "batch"]
MEASURES = {
    "preset": "at the preset's rate",
    "best": "at the best of the rates tried",
    "added": "beyond what Adam's moments alone gain",
}
"""Ratios of a cell; for ``best``, estimator and exact gradient have the best rate of each."""


def gained(progress: pd.DataFrame) -> pd.DataFrame:
    """Return ratios with 95 % t intervals over seeds.

    Args:
      progress: The rows of tables/progress.

    Returns:
      ``CELL``, ``measure`` (of ``MEASURES``), estimate, low, high, n, and ``useful_share``.
    """
    one = progress[progress["rate_factor"] == 1.0]
    known, added = one[one["ratio"].notna()], one[one["added"].notna()]
    base = added["gain_momentum"]
    sums = {
        "preset": known,
        "best": _at_best_rates(progress[progress["steps"] == 1]),
        "added": added.assign(gain=added["gain"] - base, gain_exact=added["gain_exact"] - base),
    }
    parts = []
    for measure, rows in sums.items():
        by_seed = rows.groupby([*CELL, "seed"], sort=False)
        found = by_seed.agg(
            gain=("gain", "sum"), exact=("gain_exact", "sum"), useful_share=("useful_share", "mean")
        )
        found = found.assign(ratio=found["gain"] / found["exact"]).reset_index()
        shares = found.groupby(CELL)["useful_share"].mean().reset_index()
        table = interval_frame(found, CELL, "ratio").merge(shares, on=CELL)
        parts.append(table.assign(measure=measure))
    return pd.concat(parts, ignore_index=True)


def _at_best_rates(rows: pd.DataFrame) -> pd.DataFrame:
    """Return single steps with the gain at the estimator's best rate and at the exact one's.

    A rate is one for all seeds and snapshots of a cell, as a run has one: chosen at each snapshot
    alone, the largest of several noisy gains would lean upwards.
    """
    parts = []
    for _, cell in rows.groupby(CELL, sort=False):
        by_rate = cell.groupby("rate_factor")[["gain", "gain_exact"]].sum()
        own = cell[cell["rate_factor"] == by_rate["gain"].idxmax()]
        exact = cell[cell["rate_factor"] == by_rate["gain_exact"].idxmax()]
        keys = [*CELL, "seed", "snapshot"]
        parts.append(own.drop(columns="gain_exact").merge(exact[[*keys, "gain_exact"]], on=keys))
    return pd.concat(parts, ignore_index=True) if parts else rows


def own_batch(progress: pd.DataFrame, task: str) -> int | None:
    """Return the batch that a task's runs have: the one at which several steps were taken."""
    longer = progress[(progress["task"] == task) & (progress["steps"] > 1)]
    return None if longer.empty else int(longer["batch"].iloc[0])


def gained_sentence(progress: pd.DataFrame, task: str) -> Iterator[str]:
    """Say what one step and several gain with Adam, at the batch and rate of the runs."""
    batch = own_batch(progress, task)
    if batch is None:
        return
    rows = progress[(progress["task"] == task) & (progress["batch"] == batch)]
    table = gained(rows)
    adam = table[(table["optimiser"] == "adam") & (table["measure"] == "preset")]
    parts = []
    for steps in sorted(set(adam["steps"])):
        own = adam[adam["steps"] == steps]
        listed = [
            f"{name} {with_interval(estimate, 'number', 2)}"
            for name, estimate in _estimates(own).items()
        ]
        parts.append(f"{_count(int(steps))} of {', '.join(listed)}")
    if not parts:
        return
    text = (
        f"At a batch of {batch} reward evaluations, with Adam at the preset's rate, the gain of "
        f"{'; of '.join(parts)}, as a part of the exact gradient's (95 % intervals over seeds)."
    )
    once = rows[(rows["optimiser"] == "adam") & (rows["steps"] == 1) & (rows["rate_factor"] == 1)]
    exact = once.drop_duplicates(["seed", "snapshot"])
    by_seed = exact.groupby("seed")[["gain_momentum", "gain_exact"]].sum()
    coasting = mean_interval(by_seed["gain_momentum"] / by_seed["gain_exact"])
    if coasting.known:
        text += (
            " Of one step the moments alone, with a gradient of zero, make "
            f"{with_interval(coasting, 'number', 2)}."
        )
    yield text


def _estimates(rows: pd.DataFrame) -> dict[str, Estimate]:
    """Return the estimates of a task's cells by estimator's name, marked where it is not ranked."""
    found = {}
    for name in sorted(rows["estimator"], key=estimator_order):
        row = rows[rows["estimator"] == name].iloc[0]
        estimate = Estimate(row["estimate"], row["low"], row["high"], int(row["n"]))
        found[f"{name}{estimator_facts(name).mark}"] = estimate
    return found


def _count(steps: int) -> str:
    return "one step" if steps == 1 else f"{steps} steps"

"""What steps gained of what the exact gradient's gain: a ratio a seed, then intervals over seeds.

Inside a seed, gains are added up over snapshots before they are divided: a snapshot at which even
the exact gradient gains next to nothing would otherwise carry the mean. Snapshots at which the
exact gradient's gain is not certain to be positive are left out.
"""

from __future__ import annotations

import pandas as pd

from estbench.report.data.statistics import interval_frame

__all__ = ["CELL", "MEASURES", "gained", "own_batch"]

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

"""What stands beside a number besides its interval: failed and missing records, ranked or not."""

from __future__ import annotations

import pandas as pd

from estbench.report.data.comparisons import SNAPSHOTS, TRAINING, Comparisons
from estbench.report.data.labels import estimator_facts

__all__ = ["MARKS", "SNAPSHOTS", "TRAINING", "lost_text", "with_marks"]

# Columns of tables. `failed` and `missing` count records (of both estimators, in a comparison) that
# should be behind a number and are not; `ranked` is whether the estimator may be ranked at all.
MARKS = ["failed", "missing", "ranked"]


def with_marks(comparisons: Comparisons, table: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Return `table` with the columns MARKS.

    Args:
      table: With columns task and estimator, and perhaps against ("" where nothing is compared).
      kind: Of which records: TRAINING or SNAPSHOTS.
    """
    against = table["against"] if "against" in table else pd.Series("", index=table.index)
    groups = list(zip(table["task"], table["estimator"], against, strict=True))
    lost = {
        status: [
            sum(comparisons.lost(kind, status, task, name) for name in {*names} - {""})
            for task, *names in groups
        ]
        for status in ("failed", "missing")
    }
    ranked = {"": True}
    ranked |= {
        name: estimator_facts(name).ranked for name in {*table["estimator"], *against} - {""}
    }
    both = [ranked[first] and ranked[second] for _, first, second in groups]
    marks = pd.DataFrame(lost | {"ranked": both}, index=table.index)
    return table.join(marks.astype({"failed": "int64", "missing": "int64", "ranked": "bool"}))


def lost_text(comparisons: Comparisons, kind: str, task: str, *names: str) -> str:
    """Return "1 failed, 2 missing" of the records that a number should have, or nothing."""
    parts = []
    for status in ("failed", "missing"):
        count = sum(comparisons.lost(kind, status, task, name) for name in dict.fromkeys(names))
        parts += [f"{count} {status}"] if count else []
    return ", ".join(parts)

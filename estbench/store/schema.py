"""What stands in a record, and which of it must be the same on every machine.

A record is one JSON file: the envelope below, and beside its keys those of the payload that a job
returned. A number that is not finite is stored as null.

    kind        "run", "reference", "snapshots" or "timing"
    schema      version of this layout
    key         hash of all that determines the numbers (``estbench.store.keys``)
    task, estimator, seed   null in a timing record
    status      "ok" or "failed"
    error       null, or {"type", "message", "traceback"}; a traceback may be null
    timing      {"wall_s", "cpu_s", "peak_mb"}: seconds of the job; peak_mb is the resident peak of
                its worker process in MiB since that *worker* began, so it also holds what the
                worker did before
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["SCHEMA", "VOLATILE", "Record", "envelope", "finite", "is_record", "numbers"]

SCHEMA = 1

Record = dict[str, Any]

VOLATILE = frozenset(
    {
        "cpu_s",
        "peak_mb",
        "seconds",
        "seconds_per_draw",
        "seconds_per_step",
        "timing",
        "traceback",
        "wall_s",
    }
)
"""Keys and columns of time and memory: they change from run to run and are left out of hashes."""


def envelope(
    kind: str,
    key: str,
    task: str | None = None,
    estimator: str | None = None,
    seed: int | None = None,
    *,
    error: Mapping[str, str | None] | None = None,
    timing: Mapping[str, float] | None = None,
) -> Record:
    """Return a record without a payload; with an error it is a failed one."""
    return {
        "kind": kind,
        "schema": SCHEMA,
        "key": key,
        "task": task,
        "estimator": estimator,
        "seed": seed,
        "status": "ok" if error is None else "failed",
        "error": None if error is None else dict(error),
        "timing": dict(timing or {"wall_s": 0.0, "cpu_s": 0.0, "peak_mb": 0.0}),
    }


def is_record(document: Any) -> bool:
    """Return whether a JSON document has the envelope of a record."""
    return (
        isinstance(document, dict)
        and document.get("status") in ("ok", "failed")
        and all(name in document for name in ("kind", "schema", "key", "timing"))
    )


def finite(value: Any) -> Any:
    """Return a payload with every number that is not finite replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    return value


def numbers(value: Any) -> Any:
    """Return what of a record is determined by its key: all but time and memory."""
    if isinstance(value, Mapping):
        return {key: numbers(entry) for key, entry in value.items() if key not in VOLATILE}
    if isinstance(value, (list, tuple)):
        return [numbers(entry) for entry in value]
    return value

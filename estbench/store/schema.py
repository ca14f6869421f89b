"""The fields of a record, and which of them must be the same on every machine.

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

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from estbench.config.validation import shown
from estbench.core.errors import UserError
from estbench.store.layout import (
    LARGEST,
    RECORD,
    AnyRecord,
    ManifestFields,
    ProofFields,
    distinct,
    typed,
)

__all__ = [
    "SCHEMA",
    "VOLATILE",
    "Record",
    "check_manifest",
    "check_payload",
    "check_proofs",
    "check_record",
    "check_schema",
    "envelope",
    "finite",
    "numbers",
]

SCHEMA = 1

OLDEST = 1
"""The oldest schema whose records mean what today's mean; settings added since have defaults."""

Record = dict[str, Any]
CONTAINERS = (Mapping, list, tuple)

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


def check_schema(document: Any, path: Path) -> None:
    """Check that a record or a manifest is of a version that can be read, before all else of it.

    Raises:
      UserError: It is of another version; says what to do.
    """
    table = document if isinstance(document, dict) else {}
    schema, environment = table.get("schema"), table.get("environment")
    if type(schema) is not int or OLDEST <= schema <= SCHEMA:
        return  # a schema that is not a number is reported as damage, like any other field
    version = environment.get("estbench") if isinstance(environment, dict) else None
    maker = (f"estbench {str(version)[:40]}, " if version else "") + f"schema {shown(schema)}"
    if schema > SCHEMA:
        raise UserError(
            f"{path} was made by a newer version ({maker}; this one reads up to "
            f"{SCHEMA}): update estbench"
        )
    raise UserError(
        f"{path} was made by an older version ({maker}; this one reads from "
        f"{OLDEST}): its numbers mean something else; make it again with estbench run --out, or "
        "use the version that made it"
    )


def check_record(document: Any) -> AnyRecord:
    """Return a JSON document as a record.

    Raises:
      ValueError: It does not fit; the text names the place.
    """
    return typed(document, RECORD)  # type: ignore[no-any-return]


def check_payload(kind: str, payload: Any) -> None:
    """Check what a job of a kind returned, as far as it is read.

    Raises:
      ValueError: It could not be read; the text names the place.
    """
    check_record(envelope(kind, "", "task", "estimator", 0) | {"round": 0} | payload)


def check_manifest(document: Any) -> None:
    """Check the fields of a manifest that are read.

    Raises:
      ValueError: It does not fit; the text names the place.
    """
    typed(document, ManifestFields)


def check_proofs(document: Any) -> None:
    """Check a list of verdicts on estimators, as ``estbench.proof.gate`` writes them.

    Raises:
      ValueError: It does not fit; the text names the place.
    """
    typed(document, list[ProofFields])
    distinct("it", (json.dumps(p["configuration"], sort_keys=True) for p in document))


def finite(value: Any) -> Any:
    """Return a payload with None for every number that is not finite or far too large."""
    if isinstance(value, float):
        return value if -LARGEST <= value <= LARGEST else None
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    return value


def numbers(value: Any) -> Any:
    """Return what of a record is determined by its key: all but time and memory."""
    if isinstance(value, Mapping):
        return {key: numbers(entry) for key, entry in value.items() if key not in VOLATILE}
    if isinstance(value, (list, tuple)) and any(isinstance(e, CONTAINERS) for e in value):
        return [numbers(entry) for entry in value]
    return value  # a column is long, and stays as it is

"""One hash of all numbers of a result set, to tell whether two sets hold the same.

It covers training runs, references and measurements at snapshots, in the order of kind, task,
estimator and seed, whatever the order they were made in. Left out is what may differ though the
numbers agree: time and memory (``VOLATILE``) and the timing rounds; keys, which are hashes of
settings; messages and tracebacks of failures, which may name paths and processes, so that a failed
record counts by its type of error alone; how JSON is laid out. States (``.pt``) are left out too:
their bytes depend on the version of torch, and the numbers measured at them follow from them.
Tables follow from the records, and hold times.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from estbench.core.errors import UserError
from estbench.store.results import ResultSet
from estbench.store.schema import Record, numbers

__all__ = ["Digest", "digest"]

FOLDERS = {"run": "runs", "reference": "reference", "snapshots": "snapshots"}
LEFT_OUT = frozenset({"key", "schema", "state_sha256"})
"""Keys of a record that are no numbers of it: hashes of settings and of files, the layout."""


@dataclass(frozen=True)
class Digest:
    """The hash of a result set, and of its parts.

    Attributes:
      sha256: Hexadecimal, of all parts together; None where runs are known of whose records are not
        there.
      records: How many there are of each kind.
      failed: How many of these failed.
      parts: Kind -> task -> estimator -> the hash of its records.
      absent: Why the whole has no hash, in a line; "" if it has one.
    """

    sha256: str | None
    records: dict[str, int]
    failed: int
    parts: dict[str, dict[str, dict[str, str]]]
    absent: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON shows: a hash of the whole, of each kind, task and estimator."""
        kinds: dict[str, Any] = {}
        for kind, tasks in self.parts.items():
            inner: dict[str, dict[str, Any]] = {
                task: {"sha256": _joined(estimators), "estimators": estimators}
                for task, estimators in tasks.items()
            }
            whole = _joined({task: entry["sha256"] for task, entry in inner.items()})
            kinds[kind] = {"sha256": whole, "records": self.records[kind], "tasks": inner}
        return {
            "sha256": self.sha256,
            "records": sum(self.records.values()),
            "failed": self.failed,
            **({"absent": self.absent} if self.absent else {}),
            "kinds": kinds,
        }


def digest(directory: Path | str) -> Digest:
    """Return the hash of a result set's numbers; holds one record at a time in memory.

    Raises:
      UserError: The folder is not a result set, holds no records, or holds a damaged one.
    """
    results = ResultSet(directory)
    results.require()
    results.manifest()  # of another version, it is refused as everywhere
    hashes: dict[tuple[str, str, str], Any] = {}
    counts: Counter[str] = Counter()
    failed = 0
    for kind, path in _paths(results):
        record = _read(results, path)
        failed += record["status"] == "failed"
        counts[kind] += 1
        group = (kind, str(record.get("task")), str(record.get("estimator")))
        hashes.setdefault(group, hashlib.sha256()).update(_canonical(record))
    absent = _absent(results, counts)
    if not counts:
        raise UserError(
            absent or f"nothing to hash in {directory}: it holds no runs, references or snapshots"
        )
    parts: dict[str, dict[str, dict[str, str]]] = {}
    for (kind, task, estimator), hashed in sorted(hashes.items(), key=lambda item: item[0]):
        parts.setdefault(kind, {}).setdefault(task, {})[estimator] = hashed.hexdigest()
    known = Digest(None, dict(counts), failed, parts, absent)
    if absent:
        return known
    kinds = {kind: entry["sha256"] for kind, entry in known.as_dict()["kinds"].items()}
    return Digest(_joined(kinds), known.records, failed, parts)


def _paths(results: ResultSet) -> Iterator[tuple[str, Path]]:
    """Yield each record's kind and path, by kind, task, estimator and seed."""
    for kind, folder in sorted(FOLDERS.items()):
        root = results.path / folder
        paths = root.rglob("*.json")
        for path in sorted(
            paths, key=lambda path: (path.relative_to(root).parts[:-1], _seed(path))
        ):
            yield kind, path


def _seed(path: Path) -> tuple[int, str]:
    """Return what files of one estimator are sorted by: from seed 1000 on names do not sort."""
    number = path.stem.rpartition("-")[2]
    return (int(number) if number.isdecimal() else -1, path.name)


def _read(results: ResultSet, path: Path) -> Record:
    """Return a record without times and memory."""
    record = results.read(path)
    if record is None:
        raise UserError(f"{path} is gone: is a run writing to {results.path}? wait for it")
    return numbers(record)  # type: ignore[no-any-return]


def _canonical(record: Record) -> bytes:
    """Return what of a record is hashed, as a line of JSON with sorted keys."""
    if record["status"] == "failed":
        kept = {name: record.get(name) for name in ("kind", "task", "estimator", "seed", "status")}
        kept["error"] = (record.get("error") or {}).get("type")
    else:
        kept = {name: value for name, value in record.items() if name not in LEFT_OUT}
    return json.dumps(kept, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _joined(hashes: dict[str, str]) -> str:
    """Return the hash of named hashes, by name: of the lines "HASH  NAME"."""
    lines = [f"{value}  {name}\n" for name, value in sorted(hashes.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _absent(results: ResultSet, counts: Counter[str]) -> str:
    """Return why the set has no hash, or "": records that its others were made from are gone.

    Tables hold the curves of such runs, but not all that their records hold.
    """
    why = ""
    if not counts["run"] and _tabled(results.path / "tables" / "runs.csv"):
        why = "no run files, only tables made from them, which hold less"
    elif counts["snapshots"] and not counts["reference"]:
        why = "no files in reference/, from whose trajectories its snapshots are"
    return f"{results.path} has {why}: its numbers as a whole cannot be hashed" if why else ""


def _tabled(table: Path) -> bool:
    """Whether a table of runs names one that was made."""
    import csv

    if not table.is_file():
        return False
    with table.open(newline="", encoding="utf-8", errors="replace") as file:
        return any(row.get("status") in ("ok", "failed") for row in csv.DictReader(file))

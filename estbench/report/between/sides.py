"""One of the two result sets: what it holds, and whether it can be read at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from estbench.config.experiment import Experiment
from estbench.core.errors import UserError
from estbench.report.data.comparisons import Comparisons
from estbench.report.data.labels import verdicts
from estbench.report.records import Origin, Results, load
from estbench.store import Record, ResultSet, numbers

__all__ = ["Side", "read_side", "same_numbers"]


@dataclass(frozen=True)
class Side:
    """A result set that is compared.

    Attributes:
      name: "A" or "B".
      path: As it was typed.
      results: Its frames.
      experiment: Its settings, those added since it was made at their defaults.
      proofs: What was proven of its estimators: see `labels.verdicts`.
    """

    name: str
    path: Path
    results: Results
    experiment: Experiment
    proofs: Mapping[str, tuple[str, str, str]]

    @property
    def environment(self) -> Record:
        """Machine and versions, as the manifest has them."""
        return dict(self.results.manifest.get("environment") or {})

    @cached_property
    def comparisons(self) -> Comparisons:
        """The statistics of this set alone."""
        return Comparisons(self.results)

    @property
    def records(self) -> Mapping[tuple[str, str, str, int], Origin]:
        """Its training runs, references and measurements; see `Results.origins`."""
        return self.results.origins


def read_side(name: str, path: Path) -> Side:
    """Read a result set.

    Raises:
      UserError: There is none, it is damaged, says nothing of its settings, or was written by a
        version of estbench whose records mean something else.
    """
    store = ResultSet(path)
    store.require()
    manifest = store.manifest()
    if manifest is None:
        raise UserError(
            f"{path} has no manifest.json, which says with what settings it was made: give the "
            "folder of a result set (estbench run --out makes one)"
        )
    try:
        experiment = Experiment.from_dict(manifest["experiment"])
    except UserError as error:
        raise UserError(
            f"{path}: {error}; it was made by another version of estbench, compare with that one"
        ) from None
    return Side(name, path, load(path), experiment, verdicts(store.proofs()))


def same_numbers(first: Path, second: Path) -> bool:
    """Return whether two records have the same numbers to the bit, times and memory aside.

    What only a newer version of estbench writes is not compared.
    """
    try:
        documents = [json.loads(path.read_bytes()) for path in (first, second)]
    except (OSError, ValueError):  # such as a record in a folder of another name
        return False
    left, right = (
        {k: v for k, v in numbers(d).items() if k not in _NOT_NUMBERS} for d in documents
    )
    return _same(left, right)


# The snapshots' hash depends on how torch writes files, not on numbers alone.
_NOT_NUMBERS = ("key", "schema", "state_sha256")


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, dict) and isinstance(right, dict):
        return all(_same(left[name], right[name]) for name in left.keys() & right.keys())
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(left == right)

"""Keys: a hash of all that determines a record's numbers, and of nothing else.

Lists of tasks, estimators and seeds are not part of it, nor the number of jobs or the folder: a
result set may grow, and a run made in another company is the same run.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

from estbench.experiment import Experiment
from estbench.store.schema import SCHEMA

__all__ = ["REFERENCE_ESTIMATOR", "key", "timing_key"]

REFERENCE_ESTIMATOR = "rloo"
"""Whose trajectory the snapshots come from."""


def key(kind: str, experiment: Experiment, task: str, estimator: str, seed: int) -> str:
    """Return the key of a "run", "reference" or "snapshots" record, as hexadecimal SHA-256."""
    from estbench import estimators, plugins

    settings: dict[str, Any] = {
        "kind": kind,
        "schema": SCHEMA,
        "task": task,
        "estimator": estimator,
        "version": estimators.info(estimator).version,
        "seed": seed,
        "device": experiment.device.partition(":")[0],  # which card makes no difference
        "training": asdict(experiment.training_for(task)),
    }
    source = plugins.source_hash(estimator)
    if source:  # an estimator of the user's own is another one when its file changes
        settings["source"] = source
    if kind == "snapshots":
        settings["snapshots"] = asdict(experiment.snapshots)
        settings["reference"] = key("reference", experiment, task, REFERENCE_ESTIMATOR, seed)
    return _digest(settings)


def timing_key(experiment: Experiment) -> str:
    """Return the key of the timing rounds; which estimators a round holds stands in the record."""
    return _digest(
        {
            "kind": "timing",
            "schema": SCHEMA,
            "device": experiment.device.partition(":")[0],
            "training": asdict(experiment.training),
            "per_task": {task: dict(own) for task, own in experiment.per_task.items()},
            "timing": asdict(experiment.timing),
        }
    )


def _digest(settings: dict[str, Any]) -> str:
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()

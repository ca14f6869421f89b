"""Keys: a hash of all that determines a record's numbers, and of nothing else.

Lists of tasks, estimators and seeds are not part of it, nor the number of jobs or the folder: a
result set may grow, and a run made in another company is the same run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from estbench.config.experiment import FRACTIONS, Experiment, SnapshotSettings, TrainingSettings
from estbench.store.schema import SCHEMA

__all__ = ["REFERENCE_ESTIMATOR", "Keys", "key", "timing_key"]

REFERENCE_ESTIMATOR = "rloo"
"""Whose trajectory the snapshots come from."""


class Keys:
    """The keys of an experiment's records; what seeds share is looked up once.

    A file that a task reads counts as it was when the first key of that task was asked for.
    """

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self._shared: dict[tuple[str, str, str], dict[str, Any]] = {}
        self._training: dict[str, dict[str, Any]] = {}

    def __call__(self, kind: str, task: str, estimator: str, seed: int) -> str:
        """Return the key of a "run", "reference" or "snapshots" record, as hexadecimal SHA-256.

        Of kind "start" is the pre-training that all runs of a task and seed share.
        """
        shared = self._shared.get((kind, task, estimator))
        if shared is None:
            shared = self._shared[kind, task, estimator] = self._settings(kind, task, estimator)
        settings = shared | {"seed": seed}
        if kind == "snapshots":
            settings["reference"] = self("reference", task, REFERENCE_ESTIMATOR, seed)
        return _digest(settings)

    def _settings(self, kind: str, task: str, estimator: str) -> dict[str, Any]:
        from estbench import estimators
        from estbench.core import plugins

        experiment, snapshots = self._experiment, self._experiment.snapshots_for(task)
        if task not in self._training:
            self._training[task] = _training(experiment, task)
        settings: dict[str, Any] = {
            "kind": kind,
            "schema": SCHEMA,
            "task": task,
            "estimator": estimator,
            "version": estimators.info(estimator).version,
            "device": experiment.device.partition(":")[0],  # which card makes no difference
            "training": self._training[task],
        }
        if experiment.execution.threads != 1:  # sums are taken in another order
            settings["threads"] = experiment.execution.threads
        source = plugins.source_hash(estimator)
        if source:  # an estimator of the user's own is another one when its file changes
            settings["source"] = source
        if kind == "reference":  # older ones have five snapshots, and no word of it
            settings["fractions"] = FRACTIONS
        if kind == "snapshots":
            settings["snapshots"] = _measuring(snapshots)
        if kind == "reference" and snapshots.progress:  # it also follows exact steps
            shared = ("progress_rates", "progress_fractions", "reference_sequences")
            settings["progress"] = {name: getattr(snapshots, name) for name in shared}
        return settings


def key(kind: str, experiment: Experiment, task: str, estimator: str, seed: int) -> str:
    """Return one key; see ``Keys``, which is for many."""
    return Keys(experiment)(kind, task, estimator, seed)


def timing_key(experiment: Experiment) -> str:
    """Return the key of the timing rounds; each record says which estimators it holds."""
    threads = experiment.execution.threads
    return _digest(
        {
            "kind": "timing",
            **({} if threads == 1 else {"threads": threads}),
            "schema": SCHEMA,
            "device": experiment.device.partition(":")[0],
            "training": _without_defaults(experiment.training),
            "per_task": _of_training(experiment.per_task),
            "timing": asdict(experiment.timing),
        }
    )


def _of_training(per_task: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what tasks have otherwise that steps depend on: nothing of the measurements."""
    own = {
        task: {key: value for key, value in given.items() if key not in _MEASUREMENT}
        for task, given in per_task.items()
    }
    return {task: given for task, given in own.items() if given}


_MEASUREMENT = frozenset(entry.name for entry in fields(SnapshotSettings))


def _measuring(snapshots: SnapshotSettings) -> dict[str, Any]:
    """Return the settings of the measurements; those of ``progress`` only where it is asked for."""
    given = asdict(snapshots)
    if snapshots.progress:
        return given
    return {name: value for name, value in given.items() if not name.startswith("progress")}


def _training(experiment: Experiment, task: str) -> dict[str, Any]:
    """Return the settings that determine a run of a task, and a hash of the files it reads."""
    from estbench import tasks
    from estbench.core import plugins

    settings = experiment.training_for(task)
    kept = _without_defaults(settings)
    for option in tasks.OPTIONS:
        if option not in tasks.info(task).options:
            kept.pop(option, None)
    content = tasks.fingerprint(task, settings)
    if content:  # the content of a file counts, not its path
        kept = {k: v for k, v in kept.items() if k not in ("data", "oracle_weights")}
        kept["files"] = content
    parts = {"task": task, "generator": settings.generator, "discriminator": settings.discriminator}
    sources = {kind: plugins.source_of(kind, name) for kind, name in parts.items()}
    # What a plugin brings is another one when its file changes.
    return kept | {f"{kind}_source": source for kind, source in sources.items() if source}


def _without_defaults(settings: TrainingSettings) -> dict[str, Any]:
    """Return settings as a mapping, without later additions that have their default value.

    The default of a setting that is added is what was always done: older records keep their keys.
    """
    later = {f.name: f.default for f in fields(settings) if f.name not in _FIRST_SETTINGS}
    given = asdict(settings)
    return {k: v for k, v in given.items() if k not in later or v != later[k]}


_FIRST_SETTINGS = frozenset(
    {
        "batch_size",
        "batches",
        "data_size",
        "discriminator_batch_size",
        "discriminator_learning_rate",
        "discriminator_pretrain_updates",
        "discriminator_updates",
        "evaluate_every",
        "evaluation_samples",
        "generator_learning_rate",
        "pretrain_batch_size",
        "pretrain_epochs",
        "pretrain_learning_rate",
        "reward",
        "rollouts",
        "truncation",
    }
)
"""What every key of schema 1 holds, at its default or not."""


def _digest(settings: dict[str, Any]) -> str:
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()

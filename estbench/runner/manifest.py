"""The manifest: what a result set holds. It grows; the settings it was made with never change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from estbench.config.experiment import Experiment
from estbench.core.errors import UserError
from estbench.runner.environment import environment
from estbench.store import SCHEMA, Record, ResultSet
from estbench.tasks.fit import refusals

__all__ = ["held", "manifest", "union"]


def held(results: ResultSet) -> Experiment | None:
    """Return the experiment that a result set holds, or None where it is new.

    Raises:
      UserError: Its manifest is damaged or of another version.
    """
    document = results.manifest()
    if document is None:
        return None
    remedy = f"give --out another folder, or delete {results.path}"
    try:
        return Experiment.from_dict(document["experiment"])
    except UserError as error:
        raise UserError(f"{results.manifest_path}: {error}; {remedy}") from None


def union(old: Experiment | None, new: Experiment, results: ResultSet) -> Experiment:
    """Return what the result set will hold: all it held, and what is asked for now.

    Raises:
      UserError: The settings differ; names the first that does.
    """
    if old is None:
        return new
    for setting, was, now in _differences(old, new):
        raise UserError(
            f"{results.path} was made with {setting} = {was!r}, not {now!r}: "
            f"give --out another folder, or delete it"
        )
    estimators = _merged(old.estimators, new.estimators)
    return replace(
        old,
        tasks=_merged(old.tasks, new.tasks),
        estimators=estimators,
        also_measured=tuple(e for e in _merged(old.measured, new.measured) if e not in estimators),
        seeds=_merged(old.seeds, new.seeds),
        per_task={**new.per_task, **old.per_task},
        execution=new.execution,
    )


def manifest(experiment: Experiment, command: str) -> Record:
    """Return the manifest of a result set that holds ``experiment``."""
    return {
        "schema": SCHEMA,
        "experiment": experiment.as_dict(),
        "refused": refusals(experiment),
        "environment": environment() | {"threads_per_worker": experiment.execution.threads},
        "command": command,
    }


def _merged(old: tuple[Any, ...], new: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys((*old, *new)))


def _differences(old: Experiment, new: Experiment) -> Iterator[tuple[str, Any, Any]]:
    """Yield (setting, old value, new value) of what every record depends on."""
    kinds = [side.device.partition(":")[0] for side in (old, new)]  # not which card
    threads = [{"threads": side.execution.threads} for side in (old, new)]
    pairs: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("", {"device": kinds[0]}, {"device": kinds[1]}),
        ("[execution] ", threads[0], threads[1]),
    ]
    for section in ("training", "snapshots", "timing"):
        pairs.append(
            (f"[{section}] ", asdict(getattr(old, section)), asdict(getattr(new, section)))
        )
    for task in _merged((*old.tasks, *old.per_task), (*new.tasks, *new.per_task)):
        here, there = asdict(old.training_for(task)), asdict(new.training_for(task))
        pairs.append((f"[per_task.{task}] ", here, there))
    for section, was, now in pairs:
        for name, value in was.items():
            if value != now[name]:
                yield section + name, value, now[name]

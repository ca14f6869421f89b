"""What two result sets were made with, by dotted name, and which of it keeps them apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from estbench.config.experiment import Experiment, TrainingSettings
from estbench.report.between.sides import Side
from estbench.report.data.labels import task_info
from estbench.report.data.provenance import flat
from estbench.tasks import OPTIONS

__all__ = ["Difference", "environments", "not_comparable", "same_machine", "settings"]

# Families of quantities; each is one family for Holm's correction.
VARIANCE, QUALITY, DESCRIPTION, TIME, MEMORY = FAMILIES = (
    "variance",
    "quality",
    "description",
    "time",
    "memory",
)

# What a setting keeps apart; all that is not named here keeps everything of its task apart.
_ONLY_FOR: Mapping[str, tuple[str, ...]] = {
    "evaluate_every": (),  # evaluations have random numbers of their own
    "temperatures": (),  # evaluations after the last batch
    "evaluation_samples": (QUALITY, DESCRIPTION, MEMORY),
    "quality_sequences": (QUALITY, DESCRIPTION, MEMORY),
}
_SNAPSHOTS = ("sequences", "adaptation_batches")  # the reference gradient is no part of a variance
_TIMING = ("warmup",)  # more rounds or seconds are more of the same
_FILES = ("data", "oracle_weights")


@dataclass(frozen=True)
class Difference:
    """Something that is not the same in both sets.

    Attributes:
      name: Dotted, such as training.batches.
      a: Its value in A, None where A does not have it.
      b: Its value in B.
      matters: Families of quantities that it keeps from being compared, on some task.
    """

    name: str
    a: Any
    b: Any
    matters: tuple[str, ...] = ()


def settings(a: Side, b: Side) -> list[Difference]:
    """Return every setting that differs; where one set lacks a later one, its default counts."""
    found = []
    for name, was, now in _unequal(a.experiment.as_dict(), b.experiment.as_dict()):
        section, _, rest = name.partition(".")
        task, _, setting = rest.rpartition(".")
        own = _common_tasks(a, b)
        if section == "per_task":  # where one set has no value of its own, the common one holds
            own = [task]
            was, now = (_of_task(side.experiment, task, setting) for side in (a, b))
            if was == now:
                continue
        matters = [
            family
            for family in FAMILIES
            if any(setting in _reasons(a, b, task, family) for task in own)
        ]
        if section not in ("training", "per_task", "snapshots", "timing"):
            matters = []
        found.append(Difference(name, was, now, tuple(matters)))
    return found


def environments(a: Side, b: Side) -> list[Difference]:
    """Return what differs in versions, machine and threads."""
    return [Difference(*entry) for entry in _unequal(a.environment, b.environment)]


def same_machine(a: Side, b: Side) -> bool:
    """Return whether times can be judged: processor, cores, threads and device are the same."""

    def machine(side: Side) -> tuple[Any, ...]:
        own, cpu = side.environment, side.environment.get("cpu") or {}
        device = side.experiment.device.partition(":")[0]
        return cpu.get("model"), cpu.get("cores"), own.get("threads_per_worker"), device

    return machine(a) == machine(b) and machine(a)[0] is not None


def not_comparable(a: Side, b: Side, task: str, family: str) -> str:
    """Return why a family of quantities cannot be compared on a task, or ""."""
    reasons = [
        f"{name} is {_text(was)} in A and {_text(now)} in B"
        if was != now
        else f"{name} = {_text(was)} may be another file: no record has the same key"
        for name, (was, now) in _reasons(a, b, task, family).items()
    ]
    return "; ".join(reasons)


def _reasons(a: Side, b: Side, task: str, family: str) -> dict[str, tuple[Any, Any]]:
    """Return the settings that matter to a family on a task and differ."""
    here, there = (asdict(side.experiment.training_for(task)) for side in (a, b))
    found = {}
    for entry in fields(TrainingSettings):
        name, was, now = entry.name, here[entry.name], there[entry.name]
        if not _taken(task, name) or family not in _ONLY_FOR.get(name, FAMILIES):
            continue
        if was != now and name not in _FILES:
            found[name] = (was, now)
    for names, its in ((_SNAPSHOTS, VARIANCE), (_TIMING, TIME)):
        for name in names:
            was, now = (_of_task(side.experiment, task, name) for side in (a, b))
            if family == its and was != now:
                found[name] = (was, now)
    for name in _FILES:  # what a file holds counts, not where it lies
        was, now = here[name], there[name]
        unsure = was != now or (was and not found)
        if _taken(task, name) and unsure and not _same_files(a, b, task):
            found[name] = (was, now)
    return found


def _of_task(experiment: Experiment, task: str, setting: str) -> Any:
    """Return a setting's value on a task, whichever table it stands in."""
    tables = (experiment.training_for(task), experiment.snapshots_for(task), experiment.timing)
    return next(getattr(own, setting) for own in tables if hasattr(own, setting))


def _taken(task: str, setting: str) -> bool:
    """Return whether a setting means anything to a task."""
    known = task_info(task)
    return known is None or setting not in OPTIONS or setting in known.options


def _same_files(a: Side, b: Side, task: str) -> bool:
    """Return whether both sets read the same file: its hash is part of every record's key."""
    shared = [where for where in a.records if where in b.records and where[1] == task]
    return any(a.records[where].key == b.records[where].key for where in shared)


def _common_tasks(a: Side, b: Side) -> list[str]:
    return [task for task in a.results.tasks if task in b.results.tasks]


def _unequal(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return (dotted name, value in A, value in B) of all that is not the same."""
    here, there = flat(a), flat(b)
    return [
        (name, here.get(name), there.get(name))
        for name in dict.fromkeys((*here, *there))
        if here.get(name) != there.get(name)
    ]


def _text(value: Any) -> str:
    return repr(value) if isinstance(value, str) else str(value)

"""The tasks: where training sequences come from, and how generated ones are judged.

A task is one file, whose class registers itself. ``names`` and ``info`` answer from the generated
catalogue, without importing torch, as long as nobody else's task is there.
"""

from __future__ import annotations

from dataclasses import asdict
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from estbench.core.errors import UserError
from estbench.core.registry import TASKS, catalogue, offered
from estbench.tasks.declaring import MetricInfo, Size, TaskInfo

if TYPE_CHECKING:
    from estbench.config.experiment import TrainingSettings
    from estbench.tasks.base import Task

__all__ = [
    "OPTIONS",
    "MetricInfo",
    "Size",
    "TaskInfo",
    "check_needs",
    "check_options",
    "describe",
    "fingerprint",
    "info",
    "make",
    "names",
    "options",
    "size",
    "task_class",
]

OPTIONS = tuple(dict.fromkeys(option for row in catalogue()["tasks"] for option in row["options"]))
"""Every training setting that some of estbench's tasks take and others have no use for."""


def names() -> list[str]:
    """Return the names of all tasks."""
    return TASKS.names() if TASKS.loaded or offered(TASKS) else [row["name"] for row in _rows()]


def info(name: str) -> TaskInfo:
    """Return what a task declares about itself.

    Raises:
      UserError: There is no such task.
    """
    if not TASKS.loaded:
        for row in _rows():
            if row["name"] == name:
                return TaskInfo.of(row)
    found: TaskInfo = TASKS[name].info
    return found


def task_class(name: str) -> type[Task]:
    """Return the class of a task; this imports torch.

    Raises:
      UserError: There is no such task.
    """
    found: type[Task] = TASKS[name].origin
    return found


def _rows() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = catalogue()["tasks"]
    return found


def make(name: str, seed: int, data_size: int = 10_000, **options: Any) -> Task:
    """Return a task with its data, generated from the seed.

    Args:
      name: One of ``names()``.
      seed: Training and held-out sequences follow from (name, seed).
      data_size: Training sequences N.
      options: What the task's own class takes, such as ``oracle_seed``; see ``options``.

    Raises:
      UserError: The task does not exist, or cannot be made of these options.
    """
    make: Any = task_class(name)
    made: Task = make(info(name), seed, data_size, **options)
    return made


def options(name: str, settings: TrainingSettings) -> dict[str, Any]:
    """Return what a task takes of an experiment's settings, for ``make``."""
    given = asdict(settings)
    return {option: given[option] for option in info(name).options}


def size(name: str, settings: TrainingSettings) -> Size:
    """Return the V and T that a task has under these settings, without making it.

    Raises:
      UserError: They depend on data that cannot be read.
    """
    declared, given = info(name), options(name, settings)
    if not declared.vocabulary:
        return task_class(name).size(**given)
    vocabulary = given.get("vocabulary") or declared.vocabulary
    length = given.get("length") or declared.length
    return Size(vocabulary, length, vocabulary - 1 if declared.end else None)


def check_options(name: str, settings: TrainingSettings) -> None:
    """Check what can be checked of a task's options before anything is computed.

    Raises:
      UserError: A package or file is missing, a file is damaged, or a number is too small.
    """
    check_needs(info(name))
    task_class(name).check(info(name), **options(name, settings))


def check_needs(declared: TaskInfo) -> None:
    """Check that the package that a task needs is there.

    Raises:
      UserError: It is not installed.
    """
    if declared.needs is not None:
        module, package, extra = declared.needs
        if find_spec(module) is None:
            raise UserError(
                f"the task {declared.name} needs {package}: pip install 'estbench[{extra}]'"
            )


def describe(name: str, settings: TrainingSettings) -> str:
    """Return a line on the data that a task reads; "" where it reads none.

    Raises:
      UserError: A file cannot be read.
    """
    return task_class(name).describe(**options(name, settings))


def fingerprint(name: str, settings: TrainingSettings) -> str:
    """Return a hash of the files that a task's data come from; "" where they come from none.

    Raises:
      UserError: A file cannot be read.
    """
    return task_class(name).fingerprint(**options(name, settings))

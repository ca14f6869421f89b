"""The tasks: where training sequences come from, and how generated ones are judged.

``names`` and ``info`` answer without importing torch; ``make`` builds a task for a seed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from estbench.tasks.catalogue import MetricInfo, TaskInfo, builder, info, names

if TYPE_CHECKING:
    from estbench.tasks.base import Task

__all__ = ["MetricInfo", "TaskInfo", "info", "make", "names"]


def make(name: str, seed: int, data_size: int = 10_000, **options: Any) -> Task:
    """Return a task with its data, generated from the seed.

    Args:
      name: One of ``names()``.
      seed: Training and held-out sequences follow from (name, seed).
      data_size: Training sequences N.
      options: What the task's own class takes, such as ``oracle_seed``.

    Raises:
      UserError: The task does not exist.
    """
    task: Task = builder(name)(info(name), seed, data_size, **options)
    return task

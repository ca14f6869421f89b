"""Which estimators fit which tasks: some need smaller ones, and some another batch size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from estbench.config.experiment import Experiment
from estbench.core.errors import UserError
from estbench.core.processes import described, is_stop
from estbench.core.registry import POLICIES, REWARDS, TASKS
from estbench.store.keys import REFERENCE_ESTIMATOR

if TYPE_CHECKING:
    from estbench.estimators.base import Estimator

__all__ = ["REFUSED", "check_fit", "check_names", "refusals"]

REFUSED = "does not fit"
"""The status of a run that was never begun, because the estimator refuses the task or its batch."""


def refusals(experiment: Experiment) -> dict[str, dict[str, str]]:
    """Return for each task the estimators that do not fit it, each with the reason in a line."""
    from estbench import estimators, tasks

    found: dict[str, dict[str, str]] = {}
    for task in experiment.tasks:
        settings = experiment.training_for(task)
        size = tasks.size(task, settings)
        for name in experiment.measured:
            method = estimators.make(name, settings.rollouts, settings.truncation)
            reason = _refusal(method, size.vocabulary, size.length)
            reason = reason or _uneven(settings.batch_size, method.info.group)
            if not reason and settings.reward == "random" and method.info.needs_relaxed_reward:
                reason = 'needs a reward that takes weights, and reward = "random" takes tokens'
            if not reason and tasks.task_class(task).stage.conditional:
                reason = method.without_contexts
            if not reason and "beta" in tasks.info(task).options and not settings.beta:
                reason = method.without_penalty
            if reason:
                found.setdefault(task, {})[name] = " ".join(reason.split())
    return found


def check_names(experiment: Experiment) -> None:
    """Check that the tasks, estimators and parts that an experiment names exist and fit together.

    Raises:
      UserError: One does not exist, or a task cannot be made with its settings.
    """
    from estbench import estimators, tasks

    existing = tasks.names()
    for name in (*experiment.tasks, *experiment.per_task):
        if name not in existing:
            raise TASKS.unknown(name, existing)
    for name, own in experiment.per_task.items():
        for option in tasks.OPTIONS:
            if option in own and option not in tasks.info(name).options:
                takers = [t for t in existing if option in tasks.info(t).options]
                raise UserError(
                    f"[per_task.{name}] {option}: {name} has no such choice; "
                    f"it is one of {', '.join(takers)}"
                )
    for name in experiment.tasks:
        settings = experiment.training_for(name)
        for registry in (POLICIES, REWARDS):
            if (part := getattr(settings, registry.kind)) not in registry.names():
                raise registry.unknown(part)
        tasks.check_options(name, settings)
    for name in experiment.measured:
        estimators.check_name(name)


def check_fit(experiment: Experiment) -> None:
    """Check that there is something to do.

    Raises:
      UserError: No estimator of the experiment fits any of its tasks, or the snapshots' trajectory
        does not fit a batch.
    """
    from estbench import estimators

    for task in experiment.tasks:
        group = estimators.info(REFERENCE_ESTIMATOR).group
        if reason := _uneven(experiment.training_for(task).batch_size, group):
            raise UserError(
                f"{task}: {reason} of {REFERENCE_ESTIMATOR}, whose run the snapshots are taken from"
            )
    found = refusals(experiment)
    pairs = [(task, name) for task in experiment.tasks for name in experiment.measured]
    if all(name in found.get(task, {}) for task, name in pairs):
        task, name = pairs[0]
        raise UserError(
            f"{name} does not fit {task}: {found[task][name]}"
            + (", and no other pair fits either" if len(pairs) > 1 else "")
            + "; choose another estimator or a smaller task (see: estbench list estimators)"
        )


def _refusal(method: Estimator, vocabulary: int, length: int) -> str:
    """Return why an estimator refuses a task; one that fails to answer does not fit either."""
    try:
        return method.refusal(vocabulary, length)
    except BaseException as error:
        if is_stop(error):
            raise
        return f"its refusal({vocabulary}, {length}) raises {described(error)}"


def _uneven(batch_size: int, group: int) -> str:
    """Return why a batch does not fall into draws of ``group`` sequences; "" where it does."""
    if batch_size % group == 0:
        return ""
    return f"batch_size = {batch_size} must be a multiple of {group}, the sequences of one draw"

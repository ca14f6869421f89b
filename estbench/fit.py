"""Which estimators fit which tasks: some need more than a large vocabulary or length allows."""

from __future__ import annotations

from estbench.errors import UserError
from estbench.experiment import Experiment

__all__ = ["REFUSED", "check_fit", "refusals"]

REFUSED = "does not fit"
"""The status of a run that was never begun, because the estimator refuses the task's size."""


def refusals(experiment: Experiment) -> dict[str, dict[str, str]]:
    """Return for each task the estimators that do not fit it, each with the reason in a line."""
    from estbench import estimators, tasks

    found: dict[str, dict[str, str]] = {}
    for task in experiment.tasks:
        settings = experiment.training_for(task)
        size = tasks.size(task, settings)
        for name in experiment.measured:
            method = estimators.make(name, settings.rollouts, settings.truncation)
            reason = method.refusal(size.vocabulary, size.length)
            if not reason and tasks.info(task).kind == "autoencoder":
                reason = method.without_contexts  # each image is a context of the encoder
            if reason:
                found.setdefault(task, {})[name] = " ".join(reason.split())
    return found


def check_fit(experiment: Experiment) -> None:
    """Check that there is something to do.

    Raises:
      UserError: No estimator of the experiment fits any of its tasks.
    """
    found = refusals(experiment)
    pairs = [(task, name) for task in experiment.tasks for name in experiment.measured]
    if all(name in found.get(task, {}) for task, name in pairs):
        task, name = pairs[0]
        raise UserError(
            f"{name} does not fit {task}: {found[task][name]}"
            + (", and no other pair fits either" if len(pairs) > 1 else "")
            + "; choose another estimator or a smaller task (see: estbench list estimators)"
        )

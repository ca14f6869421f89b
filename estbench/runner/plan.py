"""What of an experiment is not in its result set yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from estbench.config.experiment import Experiment
from estbench.core import plugins
from estbench.core.errors import UserError
from estbench.core.terminal import say
from estbench.runner import jobs
from estbench.runner.jobs import Job
from estbench.runner.timing import Again, rounds_due, state_seeds
from estbench.runner.worker import Outcome, outcome
from estbench.store import (
    REFERENCE_ESTIMATOR,
    CorruptRecordError,
    Keys,
    Record,
    ResultSet,
)
from estbench.tasks.fit import refusals

__all__ = ["Plan", "make_plan"]


@dataclass
class Plan:
    """What to do, and what is done.

    Attributes:
      training: References and training runs to be made.
      measuring: Measurements to be made, once the references are there.
      copies: References whose run, rloo's, is not beside the other runs yet.
      discard: Jobs whose old record has to go first: it failed, or its states are lost.
      stale: Records that another version made, to be set aside first.
      ended: What the result set holds already of what was asked for.
    """

    training: list[Job] = field(default_factory=list)
    measuring: list[Job] = field(default_factory=list)
    copies: list[tuple[Job, Record]] = field(default_factory=list)
    discard: list[Job] = field(default_factory=list)
    stale: list[Path] = field(default_factory=list)
    ended: list[Outcome] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether nothing is left to train, measure or copy."""
        return not (self.training or self.measuring or self.copies)


@dataclass
class _Planner:
    """Looks each wanted record up, and sorts it into the plan; see ``make_plan``."""

    experiment: Experiment
    results: ResultSet
    again: Again
    warn: Callable[[str], None]
    events: bool
    plan: Plan = field(default_factory=Plan)

    def __post_init__(self) -> None:
        self.keys = Keys(self.experiment)

    def job(self, kind: str, task: str, estimator: str, seed: int) -> Job:
        functions: dict[str, Callable[..., Any]] = {
            "run": jobs.train,
            "reference": jobs.reference,
            "snapshots": jobs.measure,
        }
        identity = self.keys(kind, task, estimator, seed)
        function, files = functions[kind], plugins.loaded()
        prepare = partial(jobs.warm_up, files) if files else jobs.warm_up
        head = (kind, task, estimator, seed, identity)
        shared = kind != "snapshots" and set(self.experiment.estimators) != {REFERENCE_ESTIMATOR}
        start = self.keys("start", task, REFERENCE_ESTIMATOR, seed) if shared else ""
        return Job(*head, function, self.experiment, prepare, self.events, start)

    def find(self, job: Job) -> Record | None:
        """Return the record of a job, or None where the job has to be done."""
        path = self.results.record_path(*job.place)
        try:
            record = self.results.read(path)
        except CorruptRecordError as error:
            self.warn(f"{error.fault}: it is made again")
            return None
        if record is None:
            return None
        if record["key"] != job.key:
            if self.again.stale:
                self.plan.stale.append(path)
                return None
            raise UserError(
                f"{path} was made with other settings or by another version of {job.estimator}: "
                "give --out another folder, or --renew to set what is stale aside, in "
                f"{self.results.path / 'stale'}, and make it again"
            )
        if record["status"] == "failed" and self.again.failed:
            self.plan.discard.append(job)
            return None
        return record

    def look_up(self, job: Job, todo: list[Job]) -> None:
        record = self.find(job)
        if record is None:
            todo.append(job)
        else:
            self.plan.ended.append(outcome(job, record))

    def references(self, state_needed: set[tuple[str, int]]) -> None:
        copy = REFERENCE_ESTIMATOR in self.experiment.estimators
        for task, seed in product(self.experiment.tasks, self.experiment.seeds):
            job = self.job("reference", task, REFERENCE_ESTIMATOR, seed)
            record = self.find(job)
            if record and record["status"] == "ok" and (task, seed) in state_needed:
                digest = self.results.state_digest(task, seed)
                if digest != record.get("state_sha256"):
                    self.warn(
                        f"{self.results.state_path(task, seed)} is missing or damaged: "
                        "its reference is trained again"
                    )
                    self.plan.discard.append(job)
                    record = None
            run = self.find(self.job("run", task, REFERENCE_ESTIMATOR, seed)) if copy else None
            if record is None:
                self.plan.training.append(job)
                continue
            self.plan.ended.append(outcome(job, record))
            if copy and run is None:
                self.plan.copies.append((job, record))


def make_plan(
    experiment: Experiment,
    results: ResultSet,
    again: Again,
    *,
    warn: Callable[[str], None] = say,
    events: bool = False,
) -> Plan:
    """Compare an experiment with its result set; changes nothing on disk.

    Estimators that do not fit a task are left out of it: they are rows of the report, not work.

    Args:
      experiment: What is wanted.
      results: Where it may be already.
      again: Which records count as missing though they are there.
      warn: Is told of damaged files, a line each; they count as missing.
      events: Whether training runs also write event files for TensorBoard.

    Raises:
      UserError: A record was made with other settings.
    """
    planner = _Planner(experiment, results, again, warn, events)
    plan, unfit = planner.plan, refusals(experiment)
    for task, seed in product(experiment.tasks, experiment.seeds):
        fitting = [name for name in experiment.measured if name not in unfit.get(task, {})]
        for estimator in fitting:
            planner.look_up(planner.job("snapshots", task, estimator, seed), plan.measuring)
        for estimator in experiment.estimators:
            if estimator != REFERENCE_ESTIMATOR and estimator in fitting:
                planner.look_up(planner.job("run", task, estimator, seed), plan.training)
    needed = {(job.task, job.seed) for job in plan.measuring}
    # A timing round that does not exist yet needs the states of one seed a task, whichever.
    if rounds_due(experiment, results, again, warn=warn):
        missing = set(experiment.tasks) - set(state_seeds(experiment, results))
        needed |= {(task, experiment.seeds[0]) for task in missing}
    planner.references(needed)
    return plan

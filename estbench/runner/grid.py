"""Running an experiment: what is missing in its result set is made, phase by phase."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from estbench.config.experiment import Experiment
from estbench.runner.backends import Backend, make_backend
from estbench.runner.estimate import Costs, longest_first
from estbench.runner.jobs import placed
from estbench.runner.live import Progress, refreshed
from estbench.runner.manifest import held, manifest, union
from estbench.runner.plan import Plan, make_plan
from estbench.runner.progress import Display
from estbench.runner.timing import Again, failed_rows, rounds_due, run_timing
from estbench.runner.worker import Outcome, copy_as_run, one_line
from estbench.store import Record, ResultSet
from estbench.store.checkpoints import checkpoint_path, remove_checkpoint

__all__ = ["Failure", "Summary", "run_experiment"]


@dataclass(frozen=True)
class Failure:
    """A record of a failure: what it was, why, and the file that holds its traceback."""

    label: str
    error: str
    path: Path


@dataclass
class Summary:
    """What a call of ``run_experiment`` did.

    Attributes:
      made: Records made now.
      found: Records that were there already.
      failures: Those of either that failed.
    """

    made: int = 0
    found: int = 0
    failures: list[Failure] = field(default_factory=list)


def run_experiment(
    experiment: Experiment,
    directory: Path,
    *,
    workers: int,
    command: str,
    display: Display,
    summary: Summary | None = None,
    retry_failed: bool = False,
    renew: bool = False,
    prove: Callable[[], list[dict[str, Any]]] | None = None,
    live: bool = False,
    tensorboard: bool = False,
) -> Summary:
    """Make every record of an experiment that is not in its result set yet.

    Args:
      experiment: What is wanted; names have been checked.
      directory: The result set; made where missing.
      workers: Processes of this machine that work at the same time; ``experiment.execution`` says
        whether others do, and how.
      command: What the user typed, for the manifest.
      display: Where progress is shown.
      summary: Filled as records are made, so that it is right after an interruption too.
      retry_failed: Whether records of failures are made again.
      renew: Whether records that another version made are set aside, in DIR/stale, and made again.
      prove: Called when there is something to do, before anything is done or written; returns
        verdicts on the estimators, which are kept with the records, or raises.
      live: Whether the report is made anew now and then until the timing pass begins.
      tensorboard: Whether training runs also write event files; no number depends on it.

    Returns:
      The summary. The numbers on disk depend neither on ``workers`` nor on the order in which the
      records were made.

    Raises:
      UserError: The folder cannot be written, or holds records made with other settings.
      StorageError: The disk refused a record; all written before are whole.
      SetGoneError: The folder was deleted, moved or replaced meanwhile; nothing is written back.
      BackendLostError: Whoever hands out the runs is gone; all written before are whole.
    """
    results = ResultSet(directory)
    summary = Summary() if summary is None else summary
    again = Again(retry_failed, renew)
    call = _Call(results, display, summary)
    before = held(results)
    whole = union(before, experiment, results)
    with results.writing():
        plan = make_plan(experiment, results, again, warn=display.note, events=tensorboard)
        due = rounds_due(experiment, results, again, warn=display.note)
        summary.found = len(plan.ended)
        for ending in plan.ended:
            call.count_failure(ending)
        for index in set(range(experiment.timing.rounds)) - set(due):
            record = results.sound(results.timing_path(index))
            summary.failures += _failures_of(record, results) if record else []
        proofs = prove() if prove is not None and not (plan.empty and not due) else []
        # Where runs were made last is no reason to write the manifest again.
        if not plan.empty or before is None or replace(before, execution=whole.execution) != whole:
            results.write_manifest(manifest(whole, command))
        if proofs:
            results.write_proofs(proofs)
        for path in plan.stale:
            results.set_aside(path)
        for job in plan.discard:
            results.record_path(*job.place).unlink()
        for job, record in plan.copies:
            copy_as_run(results, job, record)
        try:
            timing_seconds = experiment.timing.seconds if due else 0.0
            with refreshed(results.path, display.note, live) as tell:
                if plan.training or plan.measuring:
                    most = min(workers, max(len(plan.training), len(plan.measuring)))
                    engine = make_backend(experiment.execution, most, results.path, display.note)
                    call.train_and_measure(plan, engine, timing_seconds, tell)
            for task, seed in product(experiment.tasks, experiment.seeds):
                # Nobody begins there any more.
                remove_checkpoint(checkpoint_path(results.path, "start", task, "", seed))
            if due:
                call.time(whole, len(due), again)
            results.check_there()
        finally:
            display.close()
    return summary


@dataclass(frozen=True)
class _Call:
    """A call of ``run_experiment``: where its records go, where it is shown, what became of it."""

    results: ResultSet
    display: Display
    summary: Summary

    def train_and_measure(
        self,
        plan: Plan,
        engine: Backend,
        timing_seconds: float,
        tell: Callable[[Progress], None],
    ) -> None:
        """Work through the plan; measurements begin when all references are there."""
        costs, progress, noted = Costs(), progress_of(plan), False
        for ending in plan.ended:
            if not ending.error:
                costs.observe(ending.job, ending.seconds)
        phases = {
            "training": longest_first(plan.training),
            "snapshots": longest_first(plan.measuring),
        }
        waiting = dict.fromkeys(phases["training"] + phases["snapshots"])
        try:
            for phase, jobs in phases.items():
                if not jobs:
                    continue
                self.display.phase(phase, len(jobs))
                for ending in engine.run(placed(jobs)):
                    self.results.check_there()
                    del waiting[ending.job]
                    if not ending.error:
                        costs.observe(ending.job, ending.seconds)
                    self.summary.made += 1
                    self.count_failure(ending)
                    if ending.note and not noted:  # the next run's would say the same
                        self.display.note(ending.note)
                        noted = True
                    progress.ended(phase, bool(ending.error))
                    tell(progress)
                    left = costs.left(waiting, engine.workers)
                    left = None if left is None else left + timing_seconds
                    self.display.ended(ending.job.label, ending.error, ending.seconds, left)
        finally:
            engine.close()

    def time(self, whole: Experiment, rounds: int, again: Again) -> None:
        """Make the timing rounds that are due; the workers are gone by now."""
        budget, spent, done = whole.timing.seconds, 0.0, 0
        self.display.phase("timing", rounds)

        def tell(record: Record) -> None:
            nonlocal spent, done
            seconds = float(record["timing"]["wall_s"])
            spent, done = spent + seconds, done + 1
            left = min(budget - spent, spent / done * (rounds - done))
            self.summary.made += 1
            failures = _failures_of(record, self.results)
            self.summary.failures += failures
            error = "; ".join(f"{failure.label}: {failure.error}" for failure in failures)
            self.display.ended(f"round {record['round']}", error, seconds, max(left, 0.0))

        run_timing(whole, self.results, again, tell=tell, note=self.display.note)

    def count_failure(self, ending: Outcome) -> None:
        """Add how a job ended to the failures, if it failed."""
        if ending.error:
            path = self.results.record_path(*ending.job.place)
            self.summary.failures.append(Failure(ending.job.label, ending.error, path))


def progress_of(plan: Plan) -> Progress:
    """Return how far a plan's experiment is before anything is done; timing is no part of it."""
    progress = Progress()
    for phase, jobs in (("training", plan.training), ("snapshots", plan.measuring)):
        found = [e for e in plan.ended if (e.job.kind == "snapshots") == (phase == "snapshots")]
        progress.done[phase] = len(found)
        progress.total[phase] = len(found) + len(jobs)
        progress.failed += sum(bool(ending.error) for ending in found)
    return progress


def _failures_of(record: Record, results: ResultSet) -> list[Failure]:
    """Return what failed in a timing round."""
    where, path = f"in timing round {record['round']}", results.timing_path(record["round"])
    return [
        Failure(f"{row['task']} {row['estimator']} {where}", one_line(row["error"]), path)
        for row in failed_rows(record)
    ]

"""The timing pass: serial, in this process, with nothing else running.

Runs that share the machine say nothing about time. Here every estimator takes its turn in every
round, so that a slow minute of the machine is slow for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from estbench.errors import UserError
from estbench.experiment import Experiment
from estbench.runner import jobs
from estbench.runner.worker import one_line, recorded, use_threads
from estbench.store import CorruptRecordError, Record, ResultSet, timing_key, write_json
from estbench.terminal import say

__all__ = ["rounds_due", "run_timing", "state_seeds"]


def rounds_due(
    experiment: Experiment,
    results: ResultSet,
    *,
    tasks: Iterable[str] | None = None,
    retry_failed: bool = False,
    renew: bool = False,
    warn: Callable[[str], None] = say,
) -> list[int]:
    """Return the rounds to be made: missing, and with time left for them in the budget.

    A round that lacks a task or an estimator is made again whole, for only what was timed side by
    side can be compared.

    Args:
      experiment: What is to be timed.
      results: Where the rounds are.
      tasks: The tasks that can be timed; all where None.
      retry_failed: Whether a round that failed is made again.
      renew: Whether a round made with other settings is made again.
      warn: Is told of damaged files.

    Raises:
      UserError: A round was made with other settings.
    """
    wanted = set(experiment.tasks if tasks is None else tasks)
    due, seconds = [], [0.0]
    for index in range(experiment.timing.rounds):
        path = results.timing_path(index)
        try:
            record = results.read(path)
        except CorruptRecordError as error:
            warn(f"{error}: it is made again")
            record = None
        if record is not None and record["key"] != timing_key(experiment):
            if renew:
                due.append(index)
                continue
            raise UserError(
                f"{path} was made with other settings: "
                f"give --out another folder, or --renew to make again what is stale"
            )
        if record is None or not _whole(record, wanted, set(experiment.measured), retry_failed):
            due.append(index)
        else:
            seconds.append(float(record["timing"]["wall_s"]))
    # The next round will take as long as the longest so far.
    return due if sum(seconds) + max(seconds) <= experiment.timing.seconds else []


def _whole(record: Record, tasks: set[str], estimators: set[str], retry_failed: bool) -> bool:
    if record["status"] == "failed" and retry_failed:
        return False
    held = set(record.get("tasks", ())), set(record.get("estimators", ()))
    return tasks <= held[0] and estimators <= held[1]


def state_seeds(experiment: Experiment, results: ResultSet) -> dict[str, int]:
    """Return for each task the first seed whose reference is there with its states."""
    found = {}
    for task in experiment.tasks:
        for seed in experiment.seeds:
            try:
                record = results.read(results.reference_path(task, seed))
            except CorruptRecordError:
                continue
            if record is None or record["status"] != "ok":
                continue
            if record.get("state_sha256") == results.state_digest(task, seed):
                found[task] = seed
                break
    return found


def run_timing(
    experiment: Experiment,
    results: ResultSet,
    *,
    retry_failed: bool = False,
    renew: bool = False,
    tell: Callable[[int, str, float], None],
) -> None:
    """Make the rounds that are due, each written as it ends; ``tell`` hears of each.

    Args:
      experiment: Everything that the result set holds, so that all is timed side by side.
      results: Where the states are and the rounds go.
      retry_failed: Whether rounds that failed are made again.
      renew: Whether rounds made with other settings are.
      tell: Called with the round, "" or the error in one line, and its seconds.

    Raises:
      StorageError: The disk refused a round.
    """
    seeds = state_seeds(experiment, results)
    due = rounds_due(experiment, results, tasks=seeds, retry_failed=retry_failed, renew=renew)
    experiment = experiment.on(experiment.devices[0])
    if not seeds or not due:
        return
    jobs.warm_up()
    use_threads(experiment.execution.threads)
    states = {task: _load(results, task, seed) for task, seed in seeds.items()}
    for index in due:
        record = recorded(
            lambda index=index: dict(jobs.timing_round(experiment, index, states)),  # type: ignore[misc]
            "timing",
            timing_key(experiment),
        )
        record |= {"round": index, "tasks": list(states), "estimators": list(experiment.measured)}
        path = results.timing_path(index)
        if renew and path.exists():
            results.set_aside(path)
        write_json(path, record)
        tell(index, one_line(record["error"]), float(record["timing"]["wall_s"]))
        if not rounds_due(experiment, results, tasks=seeds, renew=renew):
            return


def _load(results: ResultSet, task: str, seed: int) -> Any:
    try:
        return results.states(task, seed)
    except CorruptRecordError as error:
        raise UserError(f"{error}: delete it and run again; other runs are kept") from None

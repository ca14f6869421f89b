"""The timing pass: serial, one estimator at a time in a worker process, with nothing else running.

Runs that share the machine say nothing about time. Here every estimator takes its turn in every
round, so that a slow minute of the machine is slow for all.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from estbench.config.experiment import Experiment
from estbench.core import plugins
from estbench.core.errors import UserError
from estbench.core.processes import WorkerKilled, stop_workers, surviving
from estbench.core.reading import read_document
from estbench.core.terminal import say
from estbench.runner import jobs
from estbench.runner.limits import limited
from estbench.runner.worker import about, recorded, use_threads
from estbench.store import (
    CorruptRecordError,
    Record,
    ResultSet,
    encode,
    envelope,
    timing_key,
    write_json,
)
from estbench.tasks.fit import refusals

__all__ = ["Again", "failed_rows", "rounds_due", "run_timing", "state_seeds"]

Pair = tuple[str, str]
"""A task and an estimator."""


@dataclass(frozen=True)
class Again:
    """What is made again though it is there.

    Attributes:
      failed: Records of failures, and rounds in which something failed, or was not timed because
        its training had failed.
      stale: What was made with other settings, or by another version.
    """

    failed: bool = False
    stale: bool = False


def rounds_due(
    experiment: Experiment,
    results: ResultSet,
    again: Again,
    *,
    tasks: Iterable[str] | None = None,
    warn: Callable[[str], None] = say,
) -> list[int]:
    """Return the rounds to be made: missing, and with time left for them in the budget.

    A round that lacks a task or an estimator is made again whole, for only what was timed side by
    side can be compared.

    Args:
      experiment: What is to be timed.
      results: Where the rounds are.
      again: Which of those that are there are made again.
      tasks: The tasks that can be timed; all where None.
      warn: Is told of damaged files.

    Raises:
      UserError: A round was made with other settings.
    """
    wanted = list(experiment.tasks if tasks is None else tasks)
    pairs = set(_pairs(experiment, wanted)) if again.failed else set[Pair]()
    due, seconds = [], [0.0]
    for index in range(experiment.timing.rounds):
        path = results.timing_path(index)
        try:
            record = results.read(path)
        except CorruptRecordError as error:
            warn(f"{error.fault}: it is made again")
            record = None
        if record is not None and record["key"] != timing_key(experiment):
            if again.stale:
                due.append(index)
                continue
            raise UserError(
                f"{path} was made with other settings: "
                f"give --out another folder, or --renew to make again what is stale"
            )
        whole = record is not None and _whole(record, set(wanted), set(experiment.measured), pairs)
        if record is None or not whole:
            due.append(index)
        else:
            seconds.append(float(record["timing"]["wall_s"]))
    # The next round will take as long as the longest so far.
    return due if sum(seconds) + max(seconds) <= experiment.timing.seconds else []


def _whole(record: Record, tasks: set[str], estimators: set[str], pairs: set[Pair]) -> bool:
    """Return whether a round was made for these tasks and estimators, and has timed these pairs."""
    held = set(record.get("tasks", ())), set(record.get("estimators", ()))
    if not (tasks <= held[0] and estimators <= held[1]):
        return False
    failed = _named(failed_rows(record))
    return pairs <= _named(record.get("rows") or ()) - failed


def state_seeds(experiment: Experiment, results: ResultSet) -> dict[str, int]:
    """Return for each task the first seed whose reference is there with its states."""
    seeds = {}
    for task in experiment.tasks:
        for seed in experiment.seeds:
            record = results.sound(results.reference_path(task, seed))
            if record is None or record["status"] != "ok":
                continue
            if record.get("state_sha256") == results.state_digest(task, seed):
                seeds[task] = seed
                break
    return seeds


def run_timing(
    experiment: Experiment,
    results: ResultSet,
    again: Again,
    *,
    tell: Callable[[Record], None],
    note: Callable[[str], None],
) -> None:
    """Make the rounds that are due, each written as it ends.

    What fails in a round costs its own row, and is not tried in later rounds. An estimator is not
    timed on a task where its training failed.

    Args:
      experiment: Everything that the result set holds, so that all is timed side by side.
      results: Where the states are and the rounds go.
      again: Which rounds that are there are made again.
      tell: Called with the record of each round.
      note: Told in a line when a worker process dies.

    Raises:
      StorageError: The disk refused a round.
    """
    seeds = state_seeds(experiment, results)
    left = partial(rounds_due, experiment, results, again, tasks=seeds)
    due = left()
    experiment = experiment.on(experiment.devices[0])
    others = (i for i in range(experiment.timing.rounds) if i not in due)
    rounds = [results.sound(results.timing_path(index)) for index in others]
    failed = _named(row for record in rounds for row in failed_rows(record))
    pairs = [p for p in _pairs(experiment, seeds) if not _untrained(experiment, results, p)]
    try:
        for index in due:
            pairs = [pair for pair in pairs if pair not in failed]
            if not pairs:
                return
            record = _round(experiment, results, index, pairs, seeds, note)
            path = results.timing_path(index)
            if again.stale and path.exists():
                results.set_aside(path)
            results.write(path, encode(record))
            tell(record)
            failed = _named(failed_rows(record))
            if not left():  # the time is spent
                return
    finally:
        stop_workers()


def failed_rows(record: Record | None) -> list[dict[str, Any]]:
    """Return the rows of a round that are failures; their ``error`` is as a record's."""
    return [row for row in (record or {}).get("rows") or () if row.get("status") == "failed"]


def _named(rows: Iterable[Mapping[str, Any]]) -> set[Pair]:
    return {(row["task"], row["estimator"]) for row in rows}


def _pairs(experiment: Experiment, tasks: Iterable[str]) -> list[Pair]:
    """Return every pair that fits."""
    unfit = refusals(experiment)
    return [
        (task, name)
        for task in tasks
        for name in experiment.measured
        if name not in unfit.get(task, {})
    ]


def _untrained(experiment: Experiment, results: ResultSet, pair: Pair) -> bool:
    """Return whether all runs of a pair failed; of what is not trained, all measurements."""
    kind = "run" if pair[1] in experiment.estimators else "snapshots"
    paths = (results.record_path(kind, *pair, seed) for seed in experiment.seeds)
    return {record["status"] for path in paths if (record := results.sound(path))} == {"failed"}


def _round(
    experiment: Experiment,
    results: ResultSet,
    index: int,
    pairs: Sequence[Pair],
    seeds: Mapping[str, int],
    note: Callable[[str], None],
) -> Record:
    """Return the record of a round: a row for each pair. Failures are no part of its seconds."""
    from estbench.meter.timing import shuffled

    costs, rows = {"wall_s": 0.0, "cpu_s": 0.0, "peak_mb": 0.0}, []
    with tempfile.TemporaryDirectory(prefix="estbench-") as name:
        word = Path(name)  # where a worker leaves word before it ends itself

        def call(pair: Pair) -> Callable[[], Any]:
            what = experiment, results.path.absolute(), pair, seeds[pair[0]]
            prepare = partial(jobs.warm_up, plugins.loaded(), (jobs.TIMING,))
            return partial(_time, *what, jobs.time_step, prepare, word)

        endings = surviving(
            shuffled(pairs, index),
            call,
            1,
            threads=experiment.execution.threads,
            label=lambda pair: f"{' '.join(pair)} in timing round {index}",
            left=partial(_word, word),
            note=note,
        )
        for pair, outcome in endings:
            if isinstance(outcome, WorkerKilled):
                rows.append(_failure(pair, outcome))
                continue
            row, timing = outcome
            rows.append(row)
            if row.get("status") != "failed":
                costs["wall_s"] += timing["wall_s"]
                costs["cpu_s"] += timing["cpu_s"]
                costs["peak_mb"] = max(costs["peak_mb"], timing["peak_mb"])
    record = envelope("timing", timing_key(experiment), timing=costs)
    held = {"tasks": list(seeds), "estimators": list(experiment.measured)}
    return record | {"round": index, "rows": rows} | held


def _time(
    experiment: Experiment,
    directory: Path,
    pair: Pair,
    seed: int,
    function: Callable[..., Any],
    prepare: Callable[[], None],
    word: Path,
) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the row of a pair and what it took; called in a worker."""
    prepare()
    use_threads(experiment.execution.threads)

    def bounded() -> Record:
        def on_hang(error: Exception) -> None:
            write_json(_word_path(word, pair), _failure(pair, error))

        with limited(experiment.execution, on_hang):
            return dict(function(experiment, *pair, _states(directory, pair[0], seed)))

    record = recorded(bounded, "timing", "", *pair)
    row = {"task": pair[0], "estimator": pair[1]}
    if record["status"] == "failed":
        return row | {"status": "failed", "error": record["error"]}, record["timing"]
    common = envelope("timing", "")
    return row | {k: v for k, v in record.items() if k not in common}, record["timing"]


@lru_cache(maxsize=1)
def _states(directory: Path, task: str, seed: int) -> Any:
    return ResultSet(directory).states(task, seed)


def _failure(pair: Pair, error: BaseException) -> dict[str, Any]:
    return {"task": pair[0], "estimator": pair[1], "status": "failed", "error": about(error)}


def _word_path(word: Path, pair: Pair) -> Path:
    return word.joinpath(*pair, "failure.json")


def _word(word: Path, pair: Pair) -> tuple[dict[str, Any], dict[str, float]] | None:
    """Return what a worker wrote about a pair before it ended itself, as ``_time`` does."""
    path = _word_path(word, pair)
    return (read_document(path), {}) if path.exists() else None

"""Reads a result set's JSON records into frames: one row a run, a batch, a snapshot, a round.

Rows come in one order (tasks, estimators, seeds), whatever the order on disk or in the manifest,
so that everything made of them is the same to the byte. Failed and missing runs are rows too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from estbench.core.errors import UserError
from estbench.report.data.formatting import clean
from estbench.report.data.order import estimator_order, task_order
from estbench.store import CorruptRecordError, ResultSet
from estbench.store.layout import (
    AnyRecord,
    CurveFields,
    EndedFields,
    JobRecord,
    ProgressFields,
    ReferenceRecord,
    RunRecord,
    SnapshotFields,
    SnapshotsRecord,
    StepFields,
    TimedFields,
    TimingRecord,
)
from estbench.tasks.fit import REFUSED

__all__ = ["Failure", "Results", "load", "matching"]

Record = dict[str, Any]
CurveArrays = tuple[Record, dict[str, NDArray[np.float64]]]
AnyKind = TypeVar("AnyKind", bound=AnyRecord)

COSTS = ["wall_s", "cpu_s", "peak_mb"]
RUN_COLUMNS = ["task", "estimator", "seed", "status", "error", "steps", *COSTS]
CURVE_COLUMNS = ["task", "estimator", "seed", "step", "reward_evals", "seconds"]
SNAPSHOT_NUMBERS = SnapshotFields.__struct_fields__[1:-3]
"""Numbers of a measurement, DESIGN's columns first; older records lack some of them."""
# The columns that tables/ must have where they replace missing run files.
STORED = {
    "curves": [*CURVE_COLUMNS, "metric", "value"],
    "starts": ["task", "estimator", "seed", "metric", "value"],
    "temperatures": ["task", "estimator", "seed", "temperature", "metric", "value"],
}
MOST_NAMES = 500  # of tasks, estimators or metrics in a report
TIMING_COLUMNS = ["task", "estimator", "round", "seconds_per_step"]
SOURCE_COLUMNS = ["task", "estimator", "seed", "snapshot", "fraction", "by", "part", "position"]
SOURCE_COLUMNS += ["share"]
PROGRESS_COLUMNS = [
    "task",
    "estimator",
    "seed",
    "snapshot",
    "step",
    *ProgressFields.__struct_fields__,
]
PHASE_COLUMNS = ["task", "estimator", "round", "phase", "seconds"]


@dataclass(frozen=True)
class Failure:
    """A run or measurement that did not end well, with everything its record says."""

    kind: str
    task: str
    estimator: str
    seed: int
    message: str
    traceback: str


@dataclass(frozen=True)
class Results:
    """A result set in memory.

    Attributes:
      directory: Its folder.
      manifest: manifest.json, or {} if there is no file.
      runs: One row a training run that exists, failed, is missing or "does not fit" (`status`),
        with final metrics.
      curves: One row a run and batch; a column a metric.
      variance: One row an estimator, seed and snapshot; failed and refused measurements
        have no snapshot.
      timing: One row a task, estimator and round of the timing pass.
      failures: Every failed record.
      starts: One row a run and metric: what the generator was worth before the first batch.
      temperatures: One row a run, temperature and metric, from the sweep after the last batch.
      samples: (task, estimator) -> sequences of the first finished seed.
      sources: One row a measurement and part of the policy (`by` "tensor" or "step", `part` its
        name, `position` its place): the `share` of the total variance that comes from it.
      progress: One row an estimator, seed, snapshot, optimiser, rate, batch and number of steps:
        what they gain (`meter.progress`).
      phases: One row a task, estimator, round and phase of a generator step, with its seconds.
      from_tables: Whether there were no records of training runs, and tables/ was read for them.
    """

    directory: Path
    manifest: Record
    runs: pd.DataFrame
    curves: pd.DataFrame
    variance: pd.DataFrame
    timing: pd.DataFrame
    failures: tuple[Failure, ...]
    starts: pd.DataFrame
    temperatures: pd.DataFrame
    samples: Mapping[tuple[str, str], tuple[str, ...]]
    sources: pd.DataFrame
    progress: pd.DataFrame
    phases: pd.DataFrame
    from_tables: bool = False

    @cached_property
    def tasks(self) -> list[str]:
        """Every task that any record names, in natural order."""
        frames = (self.runs, self.variance, self.timing)
        return sorted({t for frame in frames for t in frame["task"]}, key=task_order)

    def estimators(self, frame: pd.DataFrame, task: str | None = None) -> list[str]:
        """Return the estimators that `frame` holds (for `task`), in the order of the palette."""
        rows = frame if task is None else frame[frame["task"] == task]
        return sorted(set(rows["estimator"]), key=estimator_order)

    @property
    def metrics(self) -> list[str]:
        """Every metric of the curves."""
        return [name for name in self.curves.columns if name not in CURVE_COLUMNS]

    @property
    def measured(self) -> pd.DataFrame:
        """The rows of `variance` that hold a measurement."""
        return self.variance[self.variance["snapshot"].notna()]


def matching(frame: pd.DataFrame, **values: str | int | bool) -> pd.DataFrame:
    """Return the rows whose columns have these values."""
    for column, value in values.items():
        frame = frame[frame[column].eq(value).fillna(False)]
    return frame


def load(directory: Path) -> Results:
    """Read the result set in `directory`.

    Raises:
      UserError: It is not a result set, holds no records, or holds an unreadable one.
    """
    store = ResultSet(directory)
    store.require()
    runs: list[RunRecord] = []
    curves: list[CurveArrays] = []
    for run in _checked(store, RunRecord):
        if run.curves and not run.failed:
            curves.append((_identity(run), _arrays(run.curves)))
        run.curves = None  # as arrays they take a fifth of the memory
        runs.append(run)
    references = list(_checked(store, ReferenceRecord))
    snapshots = list(_checked(store, SnapshotsRecord))
    timing = list(_checked(store, TimingRecord))
    if not (runs or snapshots or timing):
        raise UserError(
            f"nothing to report in {directory}: it holds no runs, snapshots or timing yet; "
            f"estbench run --out {directory} computes them"
        )
    manifest = store.manifest() or {}
    metrics = {name for _, columns in curves for name in columns}
    metrics |= {name for run in runs for name in run.final or ()}
    _check_count(directory, "metrics", metrics)
    stored = None if runs else _from_tables(directory)
    run_frame, curve_frame, start_frame, temperature_frame = stored or (
        _run_frame(runs, manifest),
        _curve_frame(curves),
        _start_frame(runs),
        _temperature_frame(runs),
    )
    every: list[tuple[str, Sequence[EndedFields]]] = [
        ("training", runs),
        ("snapshots", snapshots),
        ("reference", references),
        ("timing", timing),
        ("timing", _rows(timing)),
    ]
    failures = [_failure(kind, r) for kind, records in every for r in records if r.failed]
    results = Results(
        directory,
        manifest,
        _ordered(run_frame, "seed"),
        _ordered(curve_frame, "seed", "step"),
        _ordered(_variance_frame(snapshots, manifest), "seed", "snapshot"),
        _ordered(_timing_frame(timing), "round"),
        tuple(sorted(failures, key=_failure_order)),
        _ordered(start_frame, "seed", "metric"),
        _ordered(temperature_frame, "seed", "temperature", "metric"),
        _samples(runs),
        _ordered(_source_frame(snapshots), "seed", "snapshot", "by", "position"),
        _ordered(_progress_frame(snapshots), "seed", "snapshot"),
        _ordered(_phase_frame(timing), "round", "position").drop(columns="position"),
        from_tables=stored is not None,
    )
    _check_count(directory, "tasks", set(results.tasks))
    frames = (results.runs, results.variance, results.timing)
    named = pd.concat([frame["estimator"] for frame in frames])
    _check_count(directory, "estimators", set(named))
    return results


def _check_count(directory: Path, what: str, names: set[str]) -> None:
    """Raise where a set names more than can be drawn, tested in pairs, or held as columns.

    No grid does; a file from elsewhere may.
    """
    if len(names) > MOST_NAMES:
        raise UserError(
            f"{directory} names {len(names):,} {what}, more than the {MOST_NAMES} that a report "
            "can hold: report on a part of it"
        )


def _from_tables(directory: Path) -> tuple[pd.DataFrame, ...] | None:
    """Return runs, curves, starts and temperatures from tables/, or None where they are not there.

    A set that was sent or published without its run files has them there, whole; a report of it
    must not take its runs for missing and overwrite the tables with that.
    """
    folder = directory / "tables"
    if not (folder / "runs.parquet").is_file():
        return None

    from estbench.report.data.stored import read_table

    def stored(name: str) -> pd.DataFrame | None:
        path = folder / f"{name}.parquet"
        return read_table(path, STORED[name]) if path.is_file() else None

    try:
        runs = read_table(folder / "runs.parquet", RUN_COLUMNS)
        if not runs["status"].isin(["ok", "failed"]).any():
            return None  # made when there were no runs either
        long, starts, temperatures = map(stored, ("curves", "starts", "temperatures"))
        curves = _curve_frame([]) if long is None else _wide(long)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"a table in {folder} is damaged: {error}") from None
    return (
        runs,
        curves,
        _start_frame([]) if starts is None else starts,
        _temperature_frame([]) if temperatures is None else temperatures,
    )


def _wide(long: pd.DataFrame) -> pd.DataFrame:
    """Return tables/curves with a column a metric."""
    metrics = set(long["metric"])
    if len(metrics) > MOST_NAMES or metrics & set(CURVE_COLUMNS):
        raise ValueError(f"curves names more than {MOST_NAMES} metrics, or one like a column")
    wide = long.pivot_table(
        index=CURVE_COLUMNS, columns="metric", values="value", aggfunc="first", sort=False
    ).reset_index()
    names = sorted(name for name in wide.columns if name not in CURVE_COLUMNS)
    return wide[[*CURVE_COLUMNS, *names]].rename_axis(columns=None)


def _checked(store: ResultSet, kind: type[AnyKind]) -> Iterator[AnyKind]:
    """Yield every record of a kind, or say which file is damaged."""
    try:
        yield from store.typed(kind)
    except CorruptRecordError as error:
        raise UserError(f"{error}: delete it and run again; other runs are kept") from None


def _arrays(curves: CurveFields) -> dict[str, NDArray[np.float64]]:
    """Return curves as arrays, by name; null is nan."""
    named: dict[str, Any] = dict(curves.metrics.items())
    named |= {name: getattr(curves, name) for name in ("step", "reward_evals", "seconds")}
    return {str(name): np.array(values, dtype=np.float64) for name, values in named.items()}


def _rows(timing: Sequence[TimingRecord]) -> list[TimedFields]:
    return [row for record in timing if not record.failed for row in record.rows or ()]


def _failure(kind: str, ended: EndedFields) -> Failure:
    return Failure(
        kind,
        str(getattr(ended, "task", "")),
        str(getattr(ended, "estimator", "")),
        getattr(ended, "seed", -1),
        _message(ended),
        (ended.error.traceback if ended.error else "") or "",
    )


def _message(ended: EndedFields) -> str:
    """Return "Type: message" of a failure, "" otherwise."""
    return clean(f"{ended.error.type}: {ended.error.message}") if ended.error else ""


def _failure_order(failure: Failure) -> tuple[Any, ...]:
    task, estimator = task_order(failure.task), estimator_order(failure.estimator)
    return failure.kind, task, estimator, failure.seed


def _run_frame(records: Sequence[RunRecord], manifest: Record) -> pd.DataFrame:
    """Return the rows of tables/runs; runs that the experiment asks for and are not there too."""
    rows: list[Record] = []
    for run in records:
        row = _identity(run) | {"status": run.status, "error": _message(run), "steps": run.steps}
        row |= {name: getattr(run.timing, name) for name in COSTS}
        rows.append(row | {f"final.{name}": value for name, value in (run.final or {}).items()})
    there = {(row["task"], row["estimator"], row["seed"]) for row in rows}
    refused = manifest.get("refused") or {}
    for task, estimator, seed in _expected(manifest):
        if (task, estimator, seed) not in there:
            reason = clean(refused.get(task, {}).get(estimator, ""))
            row = {"task": task, "estimator": estimator, "seed": seed}
            rows.append(row | {"status": REFUSED if reason else "missing", "error": reason})
    finals = sorted({name for row in rows for name in row if name.startswith("final.")})
    frame = pd.DataFrame(rows, columns=RUN_COLUMNS + finals)
    frame = frame.astype({"seed": "int64", "steps": "Int64"})
    frame = frame.astype(dict.fromkeys([*COSTS, *finals], "float64"))
    # In the table a final metric has its own name, unless that is already a column's.
    bare = {name: name.removeprefix("final.") for name in finals}
    return frame.rename(columns={k: v for k, v in bare.items() if v not in RUN_COLUMNS})


def _expected(manifest: Record) -> Iterator[tuple[str, str, int]]:
    """Yield the training runs that the manifest's experiment asks for."""
    experiment = manifest.get("experiment") or {}
    for task in experiment.get("tasks") or ():
        for estimator in experiment.get("estimators") or ():
            for seed in experiment.get("seeds") or ():
                yield str(task), str(estimator), int(seed)


def _curve_frame(curves: Sequence[CurveArrays]) -> pd.DataFrame:
    """Return a row a run and batch, with a column a metric."""
    metrics = sorted({name for _, columns in curves for name in columns} - set(CURVE_COLUMNS))
    lengths = [len(columns["step"]) for _, columns in curves]
    data: dict[str, Any] = {}
    for name in ("task", "estimator", "seed"):
        data[name] = np.repeat(np.array([identity[name] for identity, _ in curves]), lengths)
    for name in CURVE_COLUMNS[3:] + metrics:
        unknown = (np.full(length, np.nan) for length in lengths)
        values = [columns.get(name, nan) for (_, columns), nan in zip(curves, unknown, strict=True)]
        data[name] = np.concatenate(values) if values else np.empty(0)
    return pd.DataFrame(data).astype({"seed": "int64", "step": "int64"})


def _start_frame(records: Sequence[RunRecord]) -> pd.DataFrame:
    """Return a row a run and metric of the evaluation before the first batch."""
    rows = [
        _identity(run) | {"metric": str(name), "value": value}
        for run in records
        if not run.failed
        for name, value in (run.start or {}).items()
    ]
    frame = pd.DataFrame(rows, columns=["task", "estimator", "seed", "metric", "value"])
    return frame.astype({"seed": "int64", "value": "float64"})


def _temperature_frame(records: Sequence[RunRecord]) -> pd.DataFrame:
    """Return a row a run, temperature and metric."""
    rows = [
        _identity(run) | {"temperature": entry["temperature"], "metric": str(name), "value": value}
        for run in records
        if not run.failed
        for entry in run.temperatures or ()
        for name, value in entry.items()
        if name != "temperature"
    ]
    columns = ["task", "estimator", "seed", "temperature", "metric", "value"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.astype({"seed": "int64", "temperature": "float64", "value": "float64"})


def _samples(records: Sequence[RunRecord]) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return sequences of every estimator's first finished seed."""
    samples: dict[tuple[str, str], tuple[str, ...]] = {}
    for run in sorted(records, key=lambda run: run.seed):
        if run.samples and not run.failed:
            texts = tuple(clean(text, 400) for text in run.samples)
            samples.setdefault((str(run.task), str(run.estimator)), texts)
    return samples


def _measured(records: Sequence[SnapshotsRecord]) -> Iterator[tuple[Record, SnapshotFields]]:
    """Yield every measurement, and of which task, estimator, seed and snapshot it is."""
    for record in records:
        for entry in () if record.failed else record.snapshots or ():
            yield _identity(record) | {"snapshot": entry.snapshot}, entry


def _variance_frame(records: Sequence[SnapshotsRecord], manifest: Record) -> pd.DataFrame:
    """Return a row a snapshot; a failed or refused measurement is one row without a snapshot."""
    rows: list[Record] = []
    for record in records:
        own = [(head, entry) for head, entry in _measured([record])]
        status = {"status": record.status, "error": _message(record)}
        rows += [h | status | {n: getattr(e, n) for n in SNAPSHOT_NUMBERS} for h, e in own]
        rows += [_identity(record) | status | {"snapshot": None}] if record.failed else []
    for task, reasons in (manifest.get("refused") or {}).items():
        for estimator, reason in reasons.items():
            why = {"status": REFUSED, "error": clean(reason), "snapshot": None}
            for seed in manifest["experiment"]["seeds"]:
                rows.append({"task": task, "estimator": estimator, "seed": seed} | why)
    columns = ["task", "estimator", "seed", "snapshot", *SNAPSHOT_NUMBERS, "status", "error"]
    frame = pd.DataFrame(rows, columns=columns)
    frame = frame.astype(dict.fromkeys(SNAPSHOT_NUMBERS, "float64") | {"seed": "int64"})
    # The squared bias has a sign. Older records have its root alone, cut off at zero.
    squared = frame["relative_bias_squared"].fillna(frame["relative_bias"] ** 2)
    whole = ["snapshot", "draws", "sequences_per_draw", "step"]
    return frame.assign(relative_bias_squared=squared).astype(dict.fromkeys(whole, "Int64"))


def _timing_frame(records: Sequence[TimingRecord]) -> pd.DataFrame:
    """Return a row a task, estimator and round."""
    rows = [
        _pair(row) | {"round": record.round, "seconds_per_step": row.seconds_per_step}
        for record in records
        for row in _rows([record])
        if not row.failed
    ]
    frame = pd.DataFrame(rows, columns=TIMING_COLUMNS)
    return frame.astype({"round": "int64", "seconds_per_step": "float64"})


def _source_frame(records: Sequence[SnapshotsRecord]) -> pd.DataFrame:
    """Return a row a snapshot and tensor, or time step, with its share of the total variance."""
    rows: list[Record] = []
    for head, entry in _measured(records):
        steps = entry.by_step or StepFields()
        parts: list[tuple[str, str, int, float | None]] = [
            *(("tensor", n, i, v) for i, (n, v) in enumerate((entry.by_tensor or {}).items())),
            *(("step", str(t + 1), t, v) for t, v in enumerate(steps.parts)),
        ]
        if steps.path:
            parts.append(("step", "path", len(steps.parts), steps.path))
        for by, part, position, value in parts:
            total = (entry.total_variance if by == "tensor" else steps.total) or 0.0
            share = math.nan if value is None or total <= 0 else value / total
            own = {"by": by, "part": clean(part, 60), "position": position, "share": share}
            rows.append(head | {"fraction": entry.fraction} | own)
    frame = pd.DataFrame(rows, columns=SOURCE_COLUMNS)
    types = dict.fromkeys(("seed", "snapshot", "position"), "int64")
    return frame.astype({**types, "fraction": "float64", "share": "float64"})


def _progress_frame(records: Sequence[SnapshotsRecord]) -> pd.DataFrame:
    """Return a row a measurement and cell of its `progress`, in the order of the record."""
    rows = [
        head | {"step": entry.step} | msgspec.structs.asdict(cell)
        for head, entry in _measured(records)
        for cell in entry.progress or ()
    ]
    frame = pd.DataFrame(rows, columns=PROGRESS_COLUMNS)
    whole = dict.fromkeys(("seed", "snapshot", "batch", "steps"), "int64")
    floats = dict.fromkeys(["rate_factor", *PROGRESS_COLUMNS[10:]], "float64")
    return frame.astype({**whole, **floats, "step": "Int64", "replicates": "Int64"})


def _phase_frame(records: Sequence[TimingRecord]) -> pd.DataFrame:
    """Return a row a task, estimator, round and phase."""
    rows = [
        _pair(row)
        | {"round": record.round, "phase": clean(phase, 40)}
        | {"seconds": seconds, "position": position}
        for record in records
        for row in _rows([record])
        for position, (phase, seconds) in enumerate((row.phases or {}).items())
    ]
    frame = pd.DataFrame(rows, columns=[*PHASE_COLUMNS, "position"])
    return frame.astype({"round": "int64", "position": "int64", "seconds": "float64"})


def _identity(job: JobRecord) -> Record:
    return {"task": str(job.task), "estimator": str(job.estimator), "seed": job.seed}


def _pair(row: TimedFields) -> Record:
    return {"task": str(row.task), "estimator": str(row.estimator)}


def _ordered(frame: pd.DataFrame, *then: str) -> pd.DataFrame:
    """Return the rows by task (natural order), estimator (the palette's) and `then`."""
    orders: dict[str, Callable[[str], Any]] = {"task": task_order, "estimator": estimator_order}
    ranks = {}
    for column, key in orders.items():
        names = sorted(set(frame[column]), key=key)
        ranks[f"_{column}"] = frame[column].map({name: i for i, name in enumerate(names)})
    table = frame.assign(**ranks).sort_values(["_task", "_estimator", *then], kind="stable")
    return table.drop(columns=list(ranks)).reset_index(drop=True)

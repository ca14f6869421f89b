"""Reads a result set's JSON records into frames: one row a run, a batch, a snapshot, a round.

Rows come in one order (tasks, estimators, seeds), whatever the order on disk or in the manifest,
so that everything made of them is the same to the byte. Failed and missing runs are rows too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from estbench.core.errors import UserError
from estbench.report.data.formatting import clean
from estbench.report.data.order import estimator_order, task_order
from estbench.store import ResultSet
from estbench.store.layout import (
    CostFields,
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

__all__ = ["Failure", "Origin", "Results", "load", "matching"]

Record = dict[str, Any]
Keys = tuple[str, str, int]  # task, estimator, seed
CurveArrays = tuple[Keys, dict[str, NDArray[np.float64]]]
Timed = Sequence[tuple[int, TimedFields]]  # rounds with their rows

# The columns of each frame with their types; "" is text.
KEYS = {"task": "", "estimator": "", "seed": "int64"}
RUN_COLUMNS = KEYS | {"status": "", "error": "", "steps": "Int64"}
RUN_COLUMNS |= dict.fromkeys(CostFields.__struct_fields__, "float64")
CURVE_COLUMNS = [*KEYS, "step", "reward_evals", "seconds"]
STARTS = KEYS | {"metric": "", "value": "float64"}
TEMPERATURES = KEYS | {"temperature": "float64", "metric": "", "value": "float64"}
SNAPSHOT_NUMBERS = SnapshotFields.__struct_fields__[1:-3]
"""Numbers of a measurement, DESIGN's columns first; older records lack some of them."""
VARIANCE = KEYS | {"snapshot": "Int64"} | dict.fromkeys(SNAPSHOT_NUMBERS, "float64")
VARIANCE |= dict.fromkeys(("draws", "sequences_per_draw", "step"), "Int64")
VARIANCE |= {"status": "", "error": ""}
SOURCES = KEYS | {"snapshot": "int64", "fraction": "float64", "by": "", "part": ""}
SOURCES |= {"position": "int64", "share": "float64"}
PROGRESS = KEYS | {"snapshot": "int64", "step": "Int64"}
PROGRESS |= dict.fromkeys(ProgressFields.__struct_fields__, "float64")
PROGRESS |= {"optimiser": "", "batch": "int64", "steps": "int64", "replicates": "Int64"}
TIMING = {"task": "", "estimator": "", "round": "int64", "seconds_per_step": "float64"}
PHASES = {"task": "", "estimator": "", "round": "int64", "position": "int64"}
PHASES |= {"phase": "", "seconds": "float64"}
SAMPLES = KEYS | {"position": "int64", "text": ""}

TABLES = {
    "runs": ("runs", "curves", "starts", "temperatures", "samples"),
    "snapshots": ("variance", "sources", "progress"),
    "timing": ("timing", "phases"),
}
"""By kind of record, the frames made of it; the first has a row a job."""

ORDERS = {
    "runs": ("seed",),
    "curves": ("seed", "step"),
    "starts": ("seed", "metric"),
    "temperatures": ("seed", "temperature", "metric"),
    "samples": ("position",),
    "variance": ("seed", "snapshot"),
    "sources": ("seed", "snapshot", "by", "position"),
    "progress": ("seed", "snapshot"),
    "timing": ("round",),
    "phases": ("round", "position"),
}
"""The order of a frame's rows within a task and estimator."""

MOST_NAMES = 500  # of tasks, estimators or metrics in a report


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
class Origin:
    """Where a record comes from, and what tells it from that of another set.

    Attributes:
      path: Its file.
      key: Hash of the settings and of the estimator's version or source.
      state: Hash of a reference's snapshots, "" for other records.
      failed: Whether it is the record of a failure.
    """

    path: Path
    key: str
    state: str
    failed: bool


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
      samples: One row a sequence of an estimator's first finished seed.
      sources: One row a measurement and part of the policy (`by` "tensor" or "step", `part` its
        name, `position` its place): the `share` of the total variance that comes from it.
      progress: One row an estimator, seed, snapshot, optimiser, rate, batch and number of steps:
        what they gain (`meter.progress`).
      phases: One row a task, estimator, round and phase of a generator step, with its seconds.
      origins: (kind, task, estimator, seed) -> where a training run, reference or measurement
        comes from.
      from_tables: The kinds of record ("runs", "snapshots", "timing") of which there was none, and
        for which tables/ was read.
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
    samples: pd.DataFrame
    sources: pd.DataFrame
    progress: pd.DataFrame
    phases: pd.DataFrame
    origins: Mapping[tuple[str, str, str, int], Origin]
    from_tables: tuple[str, ...]

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

    def final_metrics(self, task: str) -> list[str]:
        """Return the metrics that a task's runs end with."""
        known = matching(self.runs, task=task).notna().any()
        return [str(name) for name in known.index[known] if name not in RUN_COLUMNS]

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
    for run in store.typed(RunRecord):
        if run.curves and not run.failed:
            curves.append((_keys(run), _arrays(run.curves)))
        run.curves = None  # as arrays they take a fifth of the memory
        runs.append(run)
    references = list(store.typed(ReferenceRecord))
    snapshots = list(store.typed(SnapshotsRecord))
    timing = list(store.typed(TimingRecord))
    manifest = store.manifest() or {}
    metrics = {name for _, columns in curves for name in columns}
    metrics |= {name for run in runs for name in run.final or ()}
    _check_count(directory, "metrics", metrics)
    timed = [(r.round, row) for r in timing if not r.failed for row in r.rows or ()]
    frames = {
        "runs": _run_frame(runs, manifest),
        "curves": _curve_frame(curves),
        "starts": _frame(_starts(runs), STARTS),
        "temperatures": _frame(_temperatures(runs), TEMPERATURES),
        "samples": _frame(_samples(runs), SAMPLES),
        "variance": _frame(_variances(snapshots, manifest), VARIANCE),
        "sources": _frame(_sources(snapshots), SOURCES),
        "progress": _frame(_progress(snapshots), PROGRESS),
        "timing": _frame(_seconds(timed), TIMING),
        "phases": _frame(_phases(timed), PHASES),
    }
    # The squared bias has a sign. Older records have its root alone, cut off at zero.
    variance = frames["variance"]
    squared = variance["relative_bias_squared"].fillna(variance["relative_bias"] ** 2)
    frames["variance"] = variance.assign(relative_bias_squared=squared)
    from_tables = []
    for kind, there in (("runs", runs), ("snapshots", snapshots), ("timing", timing)):
        stored = {} if there else _from_tables(directory, {n: frames[n] for n in TABLES[kind]})
        frames |= stored
        from_tables += [kind] * bool(stored)
    if not (runs or snapshots or timing or from_tables):
        raise UserError(
            f"nothing to report in {directory}: it holds no runs, snapshots or timing yet; "
            f"estbench run --out {directory} computes them"
        )
    ended: list[tuple[str, Sequence[EndedFields]]] = [
        ("training", runs),
        ("snapshots", snapshots),
        ("reference", references),
        ("timing", timing),
        ("timing", [row for _, row in timed]),
    ]
    failures = [_failure(kind, r) for kind, records in ended for r in records if r.failed]
    failures += [f for kind in from_tables if kind != "timing" for f in _said(kind, frames)]
    ordered = {name: _ordered(frame, *ORDERS[name]) for name, frame in frames.items()}
    results = Results(
        directory=directory,
        manifest=manifest,
        failures=tuple(sorted(failures, key=_failure_order)),
        origins=_origins(store, [*runs, *references, *snapshots]),
        from_tables=tuple(from_tables),
        **ordered,
    )
    _check_count(directory, "tasks", set(results.tasks))
    jobs = (results.runs, results.variance, results.timing)
    _check_count(directory, "estimators", {name for job in jobs for name in job["estimator"]})
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


def _from_tables(directory: Path, empty: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Return frames as an earlier report wrote them to tables/, or {} where it had none.

    A set that was committed or published without its records has them there; a report must not
    take its runs for missing, nor overwrite the tables with that.

    Args:
      empty: The frames as they are without a record, the one that names the jobs first.
    """
    folder = directory / "tables"
    first = next(iter(empty))
    if not (folder / f"{first}.parquet").is_file():
        return {}

    from estbench.report.data.stored import read_table

    found = dict(empty)
    try:
        for name, frame in empty.items():
            path = folder / f"{name}.parquet"
            if not path.is_file():
                continue
            if name == "runs":
                found[name] = read_table(path, list(RUN_COLUMNS), more=True)
            elif name == "curves":
                found[name] = _wide(read_table(path, [*CURVE_COLUMNS, "metric", "value"]))
            else:
                found[name] = read_table(path, list(frame.columns)).astype(frame.dtypes)
            jobs = found[first]
            if jobs.empty or not jobs.get("status", pd.Series("ok")).isin(["ok", "failed"]).any():
                return {}  # the tables were made when there were no records either
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"a table in {folder} is damaged: {error}") from None
    return found


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


def _arrays(curves: CurveFields) -> dict[str, NDArray[np.float64]]:
    """Return curves as arrays, by name; null is nan."""
    named: dict[str, Any] = dict(curves.metrics.items())
    named |= {name: getattr(curves, name) for name in ("step", "reward_evals", "seconds")}
    return {str(name): np.array(values, dtype=np.float64) for name, values in named.items()}


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


def _said(kind: str, frames: Mapping[str, pd.DataFrame]) -> Iterator[Failure]:
    """Yield the failures that tables name; a traceback is in a record alone."""
    what, name = {"runs": ("training", "runs"), "snapshots": ("snapshots", "variance")}[kind]
    columns = ["task", "estimator", "seed", "error"]
    failed = matching(frames[name], status="failed")
    for task, estimator, seed, error in failed[columns].itertuples(index=False):
        yield Failure(what, task, estimator, seed, error, "")


def _failure_order(failure: Failure) -> tuple[Any, ...]:
    task, estimator = task_order(failure.task), estimator_order(failure.estimator)
    return failure.kind, task, estimator, failure.seed


def _origins(
    store: ResultSet, records: Sequence[JobRecord]
) -> dict[tuple[str, str, str, int], Origin]:
    found = {}
    for record in records:
        where = (str(record.__struct_config__.tag), *_keys(record))
        state = getattr(record, "state_sha256", "")
        found[where] = Origin(store.record_path(*where), record.key, state, record.failed)
    return found


def _run_frame(records: Sequence[RunRecord], manifest: Record) -> pd.DataFrame:
    """Return the rows of tables/runs; runs that the experiment asks for and are not there too."""
    rows: dict[Keys, Record] = {}
    for run in records:
        row: Record = {"status": run.status, "error": _message(run), "steps": run.steps}
        row |= msgspec.structs.asdict(run.timing)
        row |= {f"final.{name}": value for name, value in (run.final or {}).items()}
        rows[_keys(run)] = row
    asked, refused = manifest.get("experiment") or {}, manifest.get("refused") or {}
    names = ("tasks", "estimators", "seeds")
    for task, estimator, seed in product(*(asked.get(name) or () for name in names)):
        reason = clean(refused.get(task, {}).get(estimator, ""))
        row = {"status": REFUSED if reason else "missing", "error": reason}
        rows.setdefault((str(task), str(estimator), int(seed)), row)
    finals = sorted({name for row in rows.values() for name in row if name.startswith("final.")})
    full = [dict(zip(KEYS, keys, strict=True)) | row for keys, row in rows.items()]
    frame = _frame(full, RUN_COLUMNS | dict.fromkeys(finals, "float64"))
    # In the table a final metric has its own name, unless that is already a column's.
    bare = {name: name.removeprefix("final.") for name in finals}
    return frame.rename(columns={k: v for k, v in bare.items() if v not in RUN_COLUMNS})


def _curve_frame(curves: Sequence[CurveArrays]) -> pd.DataFrame:
    """Return a row a run and batch, with a column a metric."""
    metrics = sorted({name for _, columns in curves for name in columns} - set(CURVE_COLUMNS))
    lengths = [len(columns["step"]) for _, columns in curves]
    data: dict[str, Any] = {
        name: np.repeat(np.array([keys[place] for keys, _ in curves]), lengths)
        for place, name in enumerate(KEYS)
    }
    for name in CURVE_COLUMNS[3:] + metrics:
        unknown = (np.full(length, np.nan) for length in lengths)
        values = [columns.get(name, nan) for (_, columns), nan in zip(curves, unknown, strict=True)]
        data[name] = np.concatenate(values) if values else np.empty(0)
    return pd.DataFrame(data).astype({"seed": "int64", "step": "int64"})


def _starts(records: Sequence[RunRecord]) -> Iterator[tuple[Any, ...]]:
    """Yield a row a run and metric of the evaluation before the first batch."""
    for run in records:
        for name, value in (run.start or {}).items() if not run.failed else ():
            yield *_keys(run), str(name), value


def _temperatures(records: Sequence[RunRecord]) -> Iterator[tuple[Any, ...]]:
    """Yield a row a run, temperature and metric."""
    for run in records:
        for entry in (run.temperatures or ()) if not run.failed else ():
            for name, value in entry.items():
                if name != "temperature":
                    yield *_keys(run), entry["temperature"], str(name), value


def _samples(records: Sequence[RunRecord]) -> Iterator[tuple[Any, ...]]:
    """Yield a row a sequence of every estimator's first finished seed."""
    first: dict[tuple[str, str], RunRecord] = {}
    for run in sorted(records, key=lambda run: run.seed):
        if run.samples and not run.failed:
            first.setdefault((run.task, run.estimator), run)
    for run in first.values():
        for position, text in enumerate(run.samples or ()):
            yield *_keys(run), position, clean(text, 400)


def _measured(records: Sequence[SnapshotsRecord]) -> Iterator[tuple[Keys, SnapshotFields]]:
    """Yield every measurement, and of which task, estimator and seed it is."""
    for record in records:
        for entry in () if record.failed else record.snapshots or ():
            yield _keys(record), entry


def _variances(records: Sequence[SnapshotsRecord], manifest: Record) -> Iterator[tuple[Any, ...]]:
    """Yield a row a snapshot; a failed or refused measurement is one row without a snapshot."""
    nothing = (None,) * (1 + len(SNAPSHOT_NUMBERS))
    for keys, entry in _measured(records):
        numbers = (getattr(entry, name) for name in SNAPSHOT_NUMBERS)
        yield *keys, entry.snapshot, *numbers, "ok", ""
    for record in records:
        if record.failed:
            yield *_keys(record), *nothing, record.status, _message(record)
    for task, reasons in (manifest.get("refused") or {}).items():
        for estimator, reason in reasons.items():
            for seed in manifest["experiment"]["seeds"]:
                yield task, estimator, seed, *nothing, REFUSED, clean(reason)


def _seconds(timed: Timed) -> Iterator[tuple[Any, ...]]:
    """Yield a row a task, estimator and round."""
    for index, row in timed:
        if not row.failed:
            yield str(row.task), str(row.estimator), index, row.seconds_per_step


def _phases(timed: Timed) -> Iterator[tuple[Any, ...]]:
    """Yield a row a task, estimator, round and phase."""
    for index, row in timed:
        for position, (phase, seconds) in enumerate((row.phases or {}).items()):
            yield str(row.task), str(row.estimator), index, position, clean(phase, 40), seconds


def _sources(records: Sequence[SnapshotsRecord]) -> Iterator[tuple[Any, ...]]:
    """Yield a row a snapshot and tensor, or time step, with its share of the total variance."""
    for keys, entry in _measured(records):
        steps = entry.by_step or StepFields()
        by_step = {str(t + 1): value for t, value in enumerate(steps.parts)}
        by_step |= {"path": steps.path} if steps.path else {}
        for by, parts, total in (
            ("tensor", entry.by_tensor or {}, entry.total_variance or 0.0),
            ("step", by_step, steps.total or 0.0),
        ):
            for position, (part, value) in enumerate(parts.items()):
                share = math.nan if value is None or total <= 0 else value / total
                where = (*keys, entry.snapshot, entry.fraction)
                yield *where, by, clean(part, 60), position, share


def _progress(records: Sequence[SnapshotsRecord]) -> Iterator[tuple[Any, ...]]:
    """Yield a row a measurement and cell of its `progress`, in the order of the record."""
    for keys, entry in _measured(records):
        for cell in entry.progress or ():
            yield *keys, entry.snapshot, entry.step, *msgspec.structs.astuple(cell)


def _keys(job: JobRecord) -> Keys:
    return str(job.task), str(job.estimator), job.seed


def _frame(rows: Iterable[Any], columns: Mapping[str, str]) -> pd.DataFrame:
    """Return rows as a frame of these columns and types."""
    frame = pd.DataFrame(list(rows), columns=list(columns))
    return frame.astype({name: kind for name, kind in columns.items() if kind})


def _ordered(frame: pd.DataFrame, *then: str) -> pd.DataFrame:
    """Return the rows by task (natural order), estimator (the palette's) and `then`."""
    orders: dict[str, Callable[[str], Any]] = {"task": task_order, "estimator": estimator_order}
    ranks = {}
    for column, key in orders.items():
        names = sorted(set(frame[column]), key=key)
        ranks[f"_{column}"] = frame[column].map({name: i for i, name in enumerate(names)})
    table = frame.assign(**ranks).sort_values(["_task", "_estimator", *then], kind="stable")
    return table.drop(columns=list(ranks)).reset_index(drop=True)

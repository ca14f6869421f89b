"""Reads a result set's JSON records into frames: one row a run, a batch, a snapshot, a round.

Rows come in one order (tasks, estimators, seeds), whatever the order on disk or in the manifest,
so that everything made of them is the same to the byte. Failed and missing runs are rows too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from estbench.errors import UserError
from estbench.fit import REFUSED
from estbench.report.data.formatting import clean
from estbench.report.data.order import estimator_order, task_order
from estbench.store import CorruptRecordError, ResultSet

__all__ = ["Failure", "Results", "load"]

Record = dict[str, Any]

RUN_COLUMNS = ["task", "estimator", "seed", "status", "error", "steps", "wall_s", "cpu_s"]
RUN_COLUMNS += ["peak_mb"]
CURVE_COLUMNS = ["task", "estimator", "seed", "step", "reward_evals", "seconds"]
SNAPSHOT_FIELDS = ["snapshot", "draws", "sequences_per_draw", "total_variance", "variance_low"]
SNAPSHOT_FIELDS += ["variance_high", "kurtosis", "relative_bias", "bias_low", "bias_high", "snr"]
SNAPSHOT_FIELDS += ["cosine", "mse", "hard_evals_per_draw", "relaxed_evals_per_draw", "adapt_evals"]
SNAPSHOT_FIELDS += ["policy_steps_per_draw", "seconds_per_draw"]
# After DESIGN's columns: what figures and ratios need beside them. Older sets lack some.
SNAPSHOT_EXTRAS = ["step", "fraction", "gradient_norm", "untrained_variance"]
SNAPSHOT_EXTRAS += ["reward_std", "reward_scale", "adam_variance", "adam_gradient_norm"]
SNAPSHOT_EXTRAS += ["tail_index", "between_variance"]
SNAPSHOT_EXTRAS += ["evaluations_at_one", "evaluations_at_batch", "evaluations_in_limit"]
# The squared bias with its sign. Records without it have the root alone, cut off at zero.
SIGNED_BIAS = "relative_bias_squared"
# What tables/ have to hold where they stand in for run files.
STORED = {
    "curves": [*CURVE_COLUMNS, "metric", "value"],
    "starts": ["task", "estimator", "seed", "metric", "value"],
    "temperatures": ["task", "estimator", "seed", "temperature", "metric", "value"],
}
MOST_NAMES = 500  # of tasks, estimators or metrics in a report
TIMING_COLUMNS = ["task", "estimator", "round", "seconds_per_step"]
SOURCE_COLUMNS = ["task", "estimator", "seed", "snapshot", "fraction", "by", "part", "position"]
SOURCE_COLUMNS += ["share"]
PROGRESS_COLUMNS = ["task", "estimator", "seed", "snapshot", "step", "optimiser", "rate_factor"]
PROGRESS_COLUMNS += ["batch", "steps", "replicates", "gain", "gain_exact", "ratio", "low", "high"]
PROGRESS_COLUMNS += ["gain_momentum", "added", "added_low", "added_high", "learning_rate"]
PROGRESS_COLUMNS += ["useful_share"]
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
      directory: Where it lies.
      manifest: manifest.json, or {} where there is none.
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


def load(directory: Path) -> Results:
    """Read the result set in `directory`.

    Raises:
      UserError: It is no result set, there is no record in it, or one is not readable.
    """
    store = ResultSet(directory)
    store.require()
    runs, snapshots = _checked(store.runs()), _checked(store.snapshots())
    timing, references = _checked(store.timing()), _checked(store.references())
    if not (runs or snapshots or timing):
        raise UserError(
            f"nothing to report in {directory}: it holds no runs, snapshots or timing yet; "
            f"estbench run --out {directory} computes them"
        )
    manifest = store.manifest() or {}
    _check_count(directory, "metrics", _metrics(runs))
    stored = None if runs else _from_tables(directory)
    run_frame, curve_frame, start_frame, temperature_frame = stored or (
        _run_frame(runs, manifest),
        _curve_frame(runs),
        _start_frame(runs),
        _temperature_frame(runs),
    )
    every = [("training", runs), ("snapshots", snapshots), ("reference", references)]
    failures = [_failure(kind, r) for kind, records in every for r in records if _failed(r)]
    for record in timing:
        failed = [record] if _failed(record) else filter(_is_failure, record.get("rows") or ())
        failures += [_failure("timing", entry) for entry in failed]
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


def _metrics(runs: list[Record]) -> set[str]:
    curves = [(record.get("curves") or {}).get("metrics") or () for record in runs]
    return set().union(*curves, *(record.get("final") or () for record in runs))


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


def _checked(records: Iterator[Record]) -> list[Record]:
    """Return every record of a kind, or say which file is damaged."""
    try:
        return [_lean(record) for record in records]
    except CorruptRecordError as error:
        raise UserError(f"{error}: delete it and run again; other runs are kept") from None


def _lean(record: Record) -> Record:
    """Return a record whose curves are arrays, null as nan: lists take five times the memory."""
    curves = record.get("curves")
    if curves:
        named = {name: curves.get(name) or [] for name in ("step", "reward_evals", "seconds")}
        named |= curves.get("metrics") or {}
        arrays = {str(name): np.array(values, dtype=np.float64) for name, values in named.items()}
        record = record | {"curves": arrays}
    return record


def _failed(record: Record) -> bool:
    return str(record.get("status", "ok")) != "ok"


def _failure(kind: str, record: Record) -> Failure:
    error = record.get("error") or {}
    return Failure(
        kind,
        str(record.get("task") or ""),
        str(record.get("estimator") or ""),
        _integer(record.get("seed"), -1),
        _message(record),
        str(error.get("traceback") or ""),
    )


def _is_failure(row: Record) -> bool:
    """Return whether a row of a timing round says what failed; it may come from elsewhere."""
    return _failed(row) and isinstance(row.get("error"), dict)


def _message(record: Record) -> str:
    """Return "Type: message" of a failed record, "" of a good one."""
    if not _failed(record):
        return ""
    error = record.get("error") or {}
    return clean(f"{error.get('type', 'Error')}: {error.get('message', '')}")


def _failure_order(failure: Failure) -> tuple[Any, ...]:
    task, estimator = task_order(failure.task), estimator_order(failure.estimator)
    return failure.kind, task, estimator, failure.seed


def _run_frame(records: list[Record], manifest: Record) -> pd.DataFrame:
    """Return the rows of tables/runs; runs that the experiment asks for and are not there too."""
    rows: list[Record] = []
    for record in records:
        timing = record.get("timing") or {}
        row = _identity(record)
        row |= {"status": record.get("status", "ok"), "error": _message(record)}
        row |= {"steps": record.get("steps")}
        row |= {name: _float(timing.get(name)) for name in ("wall_s", "cpu_s", "peak_mb")}
        final = record.get("final") or {}
        rows.append(row | {f"final.{name}": _float(value) for name, value in final.items()})
    there = {(row["task"], row["estimator"], row["seed"]) for row in rows}
    refused = manifest.get("refused") or {}
    for task, estimator, seed in _expected(manifest):
        if (task, estimator, seed) not in there:
            reason = clean(str((refused.get(task) or {}).get(estimator) or ""))
            row = {"task": task, "estimator": estimator, "seed": seed}
            rows.append(row | {"status": REFUSED if reason else "missing", "error": reason})
    finals = sorted({name for row in rows for name in row if name.startswith("final.")})
    frame = pd.DataFrame(rows, columns=RUN_COLUMNS + finals)
    # In the table a final metric has its own name, unless that is already a column's.
    bare = {name: name.removeprefix("final.") for name in finals}
    frame = frame.rename(columns={k: v for k, v in bare.items() if v not in RUN_COLUMNS})
    return frame.astype({"seed": "int64", "steps": "Int64"})


def _expected(manifest: Record) -> Iterator[tuple[str, str, int]]:
    """Yield the training runs that the manifest's experiment asks for."""
    experiment = manifest.get("experiment") or {}
    for task in experiment.get("tasks") or ():
        for estimator in experiment.get("estimators") or ():
            for seed in experiment.get("seeds") or ():
                yield str(task), str(estimator), int(seed)


def _curve_frame(records: list[Record]) -> pd.DataFrame:
    """Return a row a run and batch, with a column a metric."""
    parts: list[tuple[Record, int, dict[str, NDArray[np.float64]]]] = []
    for record in records:
        columns = record.get("curves")
        if _failed(record) or not columns:
            continue
        parts.append((_identity(record), len(columns["step"]), columns))
    metrics = sorted({name for _, _, columns in parts for name in columns} - set(CURVE_COLUMNS))
    lengths = [length for _, length, _ in parts]
    data: dict[str, Any] = {}
    for name in ("task", "estimator", "seed"):
        data[name] = np.repeat(np.array([identity[name] for identity, _, _ in parts]), lengths)
    for name in CURVE_COLUMNS[3:] + metrics:
        values = [_padded(columns.get(name), length) for _, length, columns in parts]
        data[name] = np.concatenate(values) if values else np.empty(0)
    return pd.DataFrame(data).astype({"seed": "int64", "step": "int64"})


def _start_frame(records: list[Record]) -> pd.DataFrame:
    """Return a row a run and metric of the evaluation before the first batch."""
    rows = [
        _identity(record) | {"metric": str(name), "value": _float(value)}
        for record in records
        if not _failed(record)
        for name, value in (record.get("start") or {}).items()
    ]
    frame = pd.DataFrame(rows, columns=["task", "estimator", "seed", "metric", "value"])
    return frame.astype({"seed": "int64", "value": "float64"})


def _temperature_frame(records: list[Record]) -> pd.DataFrame:
    """Return a row a run, temperature and metric."""
    rows = [
        _identity(record)
        | {"temperature": _float(entry.get("temperature"))}
        | {"metric": str(name), "value": _float(value)}
        for record in records
        if not _failed(record)
        for entry in record.get("temperatures") or ()
        for name, value in entry.items()
        if name != "temperature"
    ]
    columns = ["task", "estimator", "seed", "temperature", "metric", "value"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.astype({"seed": "int64", "temperature": "float64", "value": "float64"})


def _samples(records: list[Record]) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return sequences of every estimator's first finished seed."""
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    kept = [r for r in records if not _failed(r) and r.get("samples")]
    for record in sorted(kept, key=lambda r: _integer(r.get("seed"), 0)):
        own = _identity(record)
        texts = tuple(clean(str(text), 400) for text in record["samples"])
        found.setdefault((own["task"], own["estimator"]), texts)
    return found


def _padded(values: NDArray[np.float64] | None, length: int) -> NDArray[np.float64]:
    """Return `values`, or as many unknown ones where a run lacks the metric."""
    if values is None or len(values) != length:
        return np.full(length, np.nan)
    return np.where(np.isfinite(values), values, np.nan)


def _variance_frame(records: list[Record], manifest: Record) -> pd.DataFrame:
    """Return a row a snapshot; a failed or refused measurement is one row without a snapshot."""
    rows: list[Record] = []
    numbers = [*SNAPSHOT_FIELDS[1:], *SNAPSHOT_EXTRAS, SIGNED_BIAS]
    for record in records:
        identity = _identity(record)
        status = {"status": record.get("status", "ok"), "error": _message(record)}
        if _failed(record):
            rows.append(identity | status | {"snapshot": None})
            continue
        for entry in record.get("snapshots") or ():
            values: Record = {name: _float(entry.get(name)) for name in numbers}
            values["snapshot"] = _integer(entry.get("snapshot"), 0)
            rows.append(identity | status | values)
    for task, reasons in (manifest.get("refused") or {}).items():
        for estimator, reason in reasons.items():
            why = {"status": REFUSED, "error": clean(str(reason)), "snapshot": None}
            for seed in manifest["experiment"]["seeds"]:
                rows.append({"task": task, "estimator": estimator, "seed": int(seed)} | why)
    columns = ["task", "estimator", "seed", "snapshot", *numbers, "status", "error"]
    frame = pd.DataFrame(rows, columns=columns)
    clipped = frame["relative_bias"].astype("float64") ** 2
    frame[SIGNED_BIAS] = frame[SIGNED_BIAS].astype("float64").fillna(clipped)
    whole = ["draws", "sequences_per_draw", "step"]
    frame = frame.astype(dict.fromkeys(numbers, "float64") | {"seed": "int64", "snapshot": "Int64"})
    return frame.astype(dict.fromkeys(whole, "Int64"))


def _timing_frame(records: list[Record]) -> pd.DataFrame:
    """Return a row a task, estimator and round."""
    rows: list[Record] = []
    for record in records:
        for entry in () if _failed(record) else record.get("rows") or ():
            if _is_failure(entry):
                continue
            row: Record = {"task": str(entry["task"]), "estimator": str(entry["estimator"])}
            row["round"] = _integer(record.get("round"), 0)
            row["seconds_per_step"] = _float(entry.get("seconds_per_step"))
            rows.append(row)
    frame = pd.DataFrame(rows, columns=TIMING_COLUMNS)
    return frame.astype({"round": "int64", "seconds_per_step": "float64"})


def _source_frame(records: list[Record]) -> pd.DataFrame:
    """Return a row a snapshot and tensor, or time step, with its share of the total variance."""
    rows: list[Record] = []
    for record in records:
        for entry in () if _failed(record) else record.get("snapshots") or ():
            head = _identity(record) | {"snapshot": _integer(entry.get("snapshot"), 0)}
            head |= {"fraction": _float(entry.get("fraction"))}
            tensors = entry.get("by_tensor") or {}
            steps = entry.get("by_step") or {}
            parts = [
                *(("tensor", str(name), i, v) for i, (name, v) in enumerate(tensors.items())),
                *(("step", str(t + 1), t, v) for t, v in enumerate(steps.get("parts") or ())),
            ]
            totals = {"tensor": entry.get("total_variance"), "step": steps.get("total")}
            if steps.get("path"):
                parts.append(("step", "path", len(steps["parts"]), steps["path"]))
            for by, part, position, value in parts:
                total = _float(totals[by])
                share = _float(value) / total if total > 0 else math.nan
                own = {"by": by, "part": clean(part, 60), "position": position, "share": share}
                rows.append(head | own)
    frame = pd.DataFrame(rows, columns=SOURCE_COLUMNS)
    types = dict.fromkeys(("seed", "snapshot", "position"), "int64")
    return frame.astype({**types, "fraction": "float64", "share": "float64"})


def _progress_frame(records: list[Record]) -> pd.DataFrame:
    """Return a row a measurement and cell of its `progress`, in the order of the record."""
    rows: list[Record] = []
    for record in records:
        for entry in () if _failed(record) else record.get("snapshots") or ():
            about = {"snapshot": _integer(entry.get("snapshot"), 0), "step": entry.get("step")}
            rows += [_identity(record) | about | own for own in entry.get("progress") or ()]
    frame = pd.DataFrame(rows, columns=PROGRESS_COLUMNS)
    whole = dict.fromkeys(("seed", "snapshot", "batch", "steps"), "int64")
    floats = dict.fromkeys(["rate_factor", *PROGRESS_COLUMNS[10:]], "float64")
    return frame.astype({**whole, **floats, "step": "Int64", "replicates": "Int64"})


def _phase_frame(records: list[Record]) -> pd.DataFrame:
    """Return a row a task, estimator, round and phase."""
    rows: list[Record] = []
    for record in records:
        for entry in () if _failed(record) else record.get("rows") or ():
            head: Record = {"task": str(entry["task"]), "estimator": str(entry["estimator"])}
            head["round"] = _integer(record.get("round"), 0)
            for position, (phase, value) in enumerate((entry.get("phases") or {}).items()):
                own = {"phase": clean(str(phase), 40), "seconds": _float(value)}
                rows.append(head | own | {"position": position})
    frame = pd.DataFrame(rows, columns=[*PHASE_COLUMNS, "position"])
    return frame.astype({"round": "int64", "position": "int64", "seconds": "float64"})


def _identity(record: Record) -> Record:
    return {
        "task": str(record.get("task")),
        "estimator": str(record.get("estimator")),
        "seed": _integer(record.get("seed"), 0),
    }


def _ordered(frame: pd.DataFrame, *then: str) -> pd.DataFrame:
    """Return the rows by task (natural order), estimator (the palette's) and `then`."""
    orders: dict[str, Callable[[str], Any]] = {"task": task_order, "estimator": estimator_order}
    ranks = {}
    for column, key in orders.items():
        names = sorted(set(frame[column]), key=key)
        ranks[f"_{column}"] = frame[column].map({name: i for i, name in enumerate(names)})
    table = frame.assign(**ranks).sort_values(["_task", "_estimator", *then], kind="stable")
    return table.drop(columns=list(ranks)).reset_index(drop=True)


def _float(value: Any) -> float:
    """Return a float; null (how records store what is not finite) is nan."""
    number = math.nan if value is None else float(value)
    return number if math.isfinite(number) else math.nan


def _integer(value: Any, default: int) -> int:
    return default if value is None else int(value)

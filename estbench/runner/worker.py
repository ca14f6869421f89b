"""What happens in a worker: one job becomes one record, written before the worker says so."""

from __future__ import annotations

import io
import math
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estbench.core.errors import UserError, printable
from estbench.core.processes import is_stop, message
from estbench.runner.jobs import Job
from estbench.runner.limits import limited
from estbench.store import (
    REFERENCE_ESTIMATOR,
    Record,
    ResultSet,
    StorageError,
    check_payload,
    encode,
    envelope,
    finite,
    key,
)
from estbench.store.checkpoints import checkpoint_path, remove_checkpoint, source_digest

if TYPE_CHECKING:
    from estbench.runner.events import Events
    from estbench.training.resume import Checkpoint

__all__ = [
    "Outcome",
    "already_done",
    "copy_as_run",
    "execute",
    "failed",
    "give_up",
    "one_line",
    "outcome",
    "recorded",
    "save",
    "state_file",
    "use_threads",
]

CHECKPOINT_VARIABLE = "ESTBENCH_CHECKPOINT_S"
"""In the environment: seconds between checkpoints; 0 for as many as there can be, inf for none."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Outcome:
    """How a job ended; its numbers are in the file, not here.

    Attributes:
      job: The job.
      error: "" or, where it failed, the kind of error and its message, in one line.
      seconds: How long it took, without pre-training that another run had done.
      note: "" or, in a line, what went wrong beside its numbers.
    """

    job: Job
    error: str
    seconds: float
    note: str = ""


def use_threads(count: int = 1) -> None:
    """Let this process compute on so many threads: small models are slower on two than on one.

    The variables affect modules imported later; torch is told directly if it is already imported.
    """
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(count)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)


def execute(job: Job, directory: Path) -> Outcome:
    """Do a job and write its record, whole, whether it succeeds or fails in whatever way.

    An existing record is left as it is: the driver may not have heard that the job ended.

    Raises:
      StorageError: The disk refused the record, or the result set is gone.
      UserError: A plugin cannot be loaded here.
    """
    if threading.current_thread() is threading.main_thread():
        # Ctrl-C reaches the whole process group; the driver decides what it means.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    results = ResultSet(directory)
    with results.watching():
        results.check_there()
        ended = already_done(results, job)
        if ended is not None:
            return ended
        try:
            return _made(job, results)
        except (StorageError, UserError):
            raise
        except BaseException as error:  # such as no memory left to write the record
            if is_stop(error):
                raise
            return give_up(results, job, error)


def _made(job: Job, results: ResultSet) -> Outcome:
    """Compute a job, write its record, and return how it ended."""
    directory = results.path
    job.prepare()
    execution = job.experiment.execution
    use_threads(execution.threads)
    checkpoint = _checkpoint(job, results)
    states: dict[str, Any] = {}

    def bounded() -> Record:
        with limited(execution, lambda error: save(results, job, failed(job, error), {})):
            return compute()

    def compute() -> Record:
        grid = (job.experiment, job.task)
        if job.kind == "snapshots":
            _require_reference(results, job)
            state = results.states(job.task, job.seed)
            return dict(job.function(*grid, job.estimator, job.seed, state))
        if job.kind == "run":
            return dict(job.function(*grid, job.estimator, job.seed, checkpoint))
        payload, state = job.function(*grid, job.seed, checkpoint)
        states.update(state)
        return dict(payload)

    head = (job.kind, job.key, job.task, job.estimator, job.seed)
    with _events(job, directory) as events:
        record = recorded(bounded, *head)
    notes = [f"no event files of {job.label}: {events.fault}"] if events and events.fault else []
    if checkpoint is not None:
        notes += [f"{job.label}: {note}" for note in checkpoint.notes]
        record["timing"]["wall_s"] += checkpoint.wall_s
        record["timing"]["cpu_s"] += checkpoint.cpu_s
    save(results, job, record, states)
    ended = outcome(job, record)
    shared_s = checkpoint.shared_s if checkpoint is not None else 0.0
    return replace(ended, seconds=ended.seconds - shared_s, note="; ".join(notes))


def _checkpoint(job: Job, results: ResultSet) -> Checkpoint | None:
    """Return where a training run keeps its checkpoint, and goes on from if there is one."""
    if job.kind not in ("run", "reference") or "torch" not in sys.modules:
        return None
    import numpy
    import torch

    from estbench.training.resume import EVERY_S, Checkpoint

    given, notes = os.environ.get(CHECKPOINT_VARIABLE, ""), list[str]()
    try:
        every = float(given or EVERY_S)
    except ValueError:
        every = math.nan
    if not every >= 0:
        notes.append(f"{CHECKPOINT_VARIABLE}={given!r} is no number of seconds: {EVERY_S:g} it is")
        every = EVERY_S
    head = {
        "key": job.key,
        "version of torch": torch.__version__,
        "version of numpy": numpy.__version__,
        "version of estbench": source_digest(),
    }
    start = checkpoint_path(results.path, "start", job.task, "", job.seed)
    return Checkpoint(
        checkpoint_path(results.path, *job.place),
        head,
        job.experiment.device,
        every,
        notes,
        check_there=results.check_there,
        start=start if job.start else None,
        start_head=head | {"key": job.start},
    )


@contextmanager
def _events(job: Job, directory: Path) -> Iterator[Events | None]:
    """Have a training run tell its event files of every batch, where that was asked for.

    A reference is rloo's training run; it has event files if rloo is to be trained.
    """
    trained = job.kind == "run" or (
        job.kind == "reference" and REFERENCE_ESTIMATOR in job.experiment.estimators
    )
    if not (job.events and trained):
        yield None
        return
    from estbench.runner.events import Events
    from estbench.training.watching import watched

    events = Events(directory, job.experiment, job.task, job.estimator, job.seed)
    with watched(events.write):
        try:
            yield events
        finally:
            events.close()


def outcome(job: Job, record: Record) -> Outcome:
    """Return how a job ended, from its record."""
    return Outcome(job, one_line(record["error"]), float(record["timing"]["wall_s"]))


def already_done(results: ResultSet, job: Job) -> Outcome | None:
    """Return how a job ended if its record is on disk, else None."""
    record = results.sound(results.record_path(*job.place))
    return None if record is None or record["key"] != job.key else outcome(job, record)


def failed(job: Job, error: BaseException) -> Record:
    """Return the failed record of a job that cannot write its own."""
    return envelope(job.kind, job.key, job.task, job.estimator, job.seed, error=about(error))


def about(error: BaseException, where: str | None = None) -> dict[str, str | None]:
    """Return an error as a record holds it, with the traceback ``where`` if there is one."""
    return {"type": type(error).__name__, "message": message(error), "traceback": where}


def give_up(results: ResultSet, job: Job, error: BaseException) -> Outcome:
    """Write the failed record of a job that cannot write its own; return how it ended.

    Raises:
      StorageError: The disk refused it.
    """
    record = failed(job, error)
    save(results, job, record, {})
    return outcome(job, record)


def one_line(error: Mapping[str, Any] | None) -> str:
    """Return a record's error as one line; "" if it has none."""
    if not error:
        return ""
    text = printable(" ".join(f"{error['type']}: {error['message']}".split()))
    return text if len(text) <= 200 else text[:197] + "..."


def recorded(compute: Callable[[], Record], *head: Any) -> Record:
    """Return the record of a computation: its payload, or how it failed, whatever was raised.

    A payload that is not finite where it matters makes a failed record, and is kept in it.
    """
    wall, cpu = time.perf_counter(), time.process_time()
    payload: Record = {}
    error: dict[str, str | None] | None = None
    try:
        payload = compute()
        bad = _not_finite(payload)
        payload = finite(payload)
        encode(payload)  # a payload that is not JSON is a failure of the job, not of the disk
        check_payload(head[0], payload)  # so is a payload that readers would refuse
        if bad:
            error = {"type": "NotFinite", "message": bad, "traceback": None}
    except StorageError:
        raise
    except BaseException as caught:  # an estimator may call sys.exit
        if is_stop(caught):
            raise
        payload = {}
        error = about(caught, traceback.format_exc())
    timing = {
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "peak_mb": _peak_mib(),
    }
    return envelope(*head, error=error, timing=timing) | payload


def save(results: ResultSet, job: Job, record: Record, states: Mapping[str, Any]) -> None:
    """Write a job's files. The record comes last: once it is there, everything is.

    Raises:
      StorageError: The disk refused a file.
    """
    if job.kind == "reference":
        if record["status"] == "ok":
            data = state_file(states)
            results.write(results.state_path(job.task, job.seed), data)
            record = record | {"state_sha256": sha256(data).hexdigest()}
        if REFERENCE_ESTIMATOR in job.experiment.estimators:
            copy_as_run(results, job, record)
    results.write(results.record_path(*job.place), encode(record))
    if job.kind in ("run", "reference"):
        remove_checkpoint(checkpoint_path(results.path, *job.place))


def copy_as_run(results: ResultSet, job: Job, record: Record) -> None:
    """Write a reference's record as the training run that it is, rloo's.

    Raises:
      StorageError: The disk refused it.
    """
    run = {k: v for k, v in record.items() if k not in ("snapshot_steps", "state_sha256")}
    run |= {"kind": "run"}
    run |= {"key": key("run", job.experiment, job.task, REFERENCE_ESTIMATOR, job.seed)}
    results.write(results.run_path(job.task, REFERENCE_ESTIMATOR, job.seed), encode(run))


class ReferenceFailed(Exception):  # noqa: N818  (its name is what the record shows)
    """There are no snapshots to measure at."""


def _require_reference(results: ResultSet, job: Job) -> None:
    path = results.reference_path(job.task, job.seed)
    record = results.read(path)
    if record is None or record["status"] != "ok":
        reason = one_line(record["error"]) if record else f"{path} is missing"
        raise ReferenceFailed(f"no reference of {job.task}, seed {job.seed}: {reason}")


def _not_finite(payload: Record) -> str:
    """Return what makes a payload worthless, or ""."""
    for name, value in payload.get("final", {}).items():
        if isinstance(value, float) and math.isnan(value):
            return f"final {name} is not a number"
    for row in payload.get("snapshots", ()):
        variance = row.get("total_variance")
        if variance is None or not math.isfinite(variance):
            return f"total variance at snapshot {row.get('snapshot')} is {variance}"
    return ""


def _peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def state_file(states: Mapping[str, Any]) -> bytes:
    """Return the file that holds a reference's states."""
    import torch

    buffer = io.BytesIO()
    torch.save(_interned(dict(states)), buffer)
    return buffer.getvalue()


def _interned(value: Any) -> Any:
    """Return states whose equal texts are one text: a pickle writes a text once an object.

    So the bytes do not depend on whether the run went on from a checkpoint.
    """
    if type(value) is str:
        return sys.intern(value)
    if type(value) is dict:
        return {_interned(name): _interned(entry) for name, entry in value.items()}
    return [_interned(entry) for entry in value] if type(value) is list else value

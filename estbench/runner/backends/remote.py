"""A job in a process of another machine, which may or may not see the result set's folder.

Where it does, the job's files are written as on this machine. Where it does not, what a job reads
comes with it, what it writes goes into a folder of its own, and its files go back over the wire to
the driver, who writes them.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from estbench import __version__
from estbench.core.errors import UserError
from estbench.runner.jobs import Job
from estbench.runner.limits import interruptible
from estbench.runner.worker import Outcome, execute
from estbench.store import ResultSet, key, write_bytes

__all__ = ["Blind", "Delivery", "Files", "foreign", "inputs_of", "perform", "receive"]

Files = Mapping[str, bytes]
"""Contents by path, relative to a result set."""

_one_at_a_time = threading.Lock()  # a worker with more threads shares what a run believes its own


class Blind:
    """What a worker answers that does not see the result set's folder."""


@dataclass(frozen=True)
class Delivery:
    """How a job ended, and its files where the worker could not write them itself."""

    outcome: Outcome
    files: dict[str, bytes] = field(default_factory=dict)


def perform(
    job: Job, directory: str, token: str, version: str, inputs: Files | None
) -> Delivery | Blind:
    """Do a job in the process that this is called in.

    Args:
      job: The job.
      directory: The result set, as the driver calls it.
      token: The driver's own; a file of that name says that the worker's folder is the driver's.
      version: The driver's estbench.
      inputs: What the job reads; None where the worker is to see the folder itself.

    Raises:
      UserError: This worker has another version than the driver, whose numbers may be others.
      StorageError: The disk refused a record.
    """
    reason = foreign(job, version)
    if reason:
        raise UserError(reason)
    with _one_at_a_time, interruptible(token):
        if inputs is None:
            if not (Path(directory) / token).exists():
                return Blind()
            return Delivery(execute(job, Path(directory)))
        with tempfile.TemporaryDirectory(prefix="estbench-") as name:
            folder = Path(name)
            for path, content in inputs.items():
                write_bytes(folder / path, content)
            outcome = execute(job, folder)
            made = {
                str(path.relative_to(folder)): path.read_bytes()
                for path in sorted(folder.rglob("*"))
                if path.is_file() and str(path.relative_to(folder)) not in inputs
            }
        return Delivery(outcome, made)


def foreign(job: Job, version: str) -> str:
    """Return why this process may not do a job that a driver of ``version`` handed out, or ""."""
    job.prepare()  # an estimator of the user's own is known only then
    here = key(job.kind, job.experiment, job.task, job.estimator, job.seed)
    if version == __version__ and here == job.key:
        return ""
    return (
        f"a worker has another estbench ({__version__}, the driver {version}), or other files to "
        "read: install the same one on every machine"
    )


def inputs_of(results: ResultSet, job: Job) -> dict[str, bytes]:
    """Return what a job reads of a result set: the manifest; a measurement, its reference too."""
    wanted = [results.manifest_path]
    if job.kind == "snapshots":
        wanted.append(results.reference_path(job.task, job.seed))
        wanted.append(results.state_path(job.task, job.seed))
    return {
        str(path.relative_to(results.path)): path.read_bytes() for path in wanted if path.exists()
    }


def receive(results: ResultSet, delivery: Delivery) -> Outcome:
    """Write what a worker could not write itself; return the outcome.

    Raises:
      UserError: It sent a file for another place than the result set.
      StorageError: The disk refused a file.
    """
    job, files = delivery.outcome.job, dict(delivery.files)
    path = results.record_path(*job.place)
    record = files.pop(str(path.relative_to(results.path)), None)
    for name, content in files.items():
        target = results.path / name
        if ".." in target.parts or results.path not in target.parents:
            raise UserError(f"a worker sent a file for another place than the result set: {name}")
        results.write(target, content)
    if record is not None:  # last: once it is there, everything is
        results.write(path, record)
    return replace(delivery.outcome, job=job)

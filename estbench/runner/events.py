"""TensorBoard event files of training runs: DIR/tensorboard/TASK/ESTIMATOR/seed-003/.

They are a second account of what the records hold, for those who watch runs with TensorBoard. No
number depends on them, and where they cannot be written the run goes on without. They are written
here, not by torch's SummaryWriter: that one writes in a thread, whose errors are nobody's.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estbench import tasks
from estbench.config.experiment import Experiment
from estbench.core.errors import UserError
from estbench.core.processes import described
from estbench.store import Record, ResultSet, StorageError
from estbench.store.links import check_links

if TYPE_CHECKING:
    from tensorboard.summary.writer.record_writer import RecordWriter

__all__ = ["Events", "check_installed", "event_folder", "export", "tag"]

VERSION = "brain.Event:2"  # what the first event of a file says
GRADIENT = (
    "total_variance",
    "log_variance",
    "mean_norm2",
    "reward_mean",
    "bias_element_variance",
    "log_bias_element_variance",
)


def check_installed() -> None:
    """Check that event files can be written.

    Raises:
      UserError: The package is missing; names the command that installs it.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--tensorboard needs the package tensorboard ({error}): "
            "python -m pip install tensorboard"
        ) from None


def event_folder(directory: Path, task: str, estimator: str, seed: int) -> Path:
    """Return the folder of one run's event files."""
    return directory / "tensorboard" / task / estimator / f"seed-{seed:03d}"


def tag(task: str, name: str) -> str:
    """Return what a metric is called there: with its group, which TensorBoard folds."""
    if task in tasks.names() and name in tasks.info(task).metrics:
        return f"quality/{name}"
    if name in GRADIENT:
        return f"gradient/{name}"
    group, _, rest = name.partition("_")
    return f"discriminator/{rest}" if group == "discriminator" and rest else f"estimator/{name}"


class Events:
    """The event files of one run; those of an earlier attempt are removed.

    A run that goes on from a checkpoint tells of its batches from the first one on.

    Nothing is raised by it: at the first error it falls silent, and ``fault`` says why.

    Attributes:
      fault: "" or why there are no events, or only some.
    """

    def __init__(
        self, directory: Path, experiment: Experiment, task: str, estimator: str, seed: int
    ) -> None:
        self.fault = ""
        self._task = task
        self._writer: RecordWriter | None = None
        folder = event_folder(directory, task, estimator, seed)
        try:
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir(parents=True)
            from tensorboard.summary.writer.record_writer import RecordWriter
            from torch.utils.tensorboard.summary import text

            name = f"events.out.tfevents.{time.time_ns()}.{os.getpid()}"
            self._writer = RecordWriter((folder / name).open("wb"))
            self._add(file_version=VERSION)
            settings = _settings(experiment, task, estimator, seed)
            self._add(summary=text("settings", settings))  # type: ignore[no-untyped-call]
            self._writer.flush()
        except Exception as error:
            self._fail(error)

    def write(
        self,
        batch: int,
        evals: int,
        seconds: float,
        metrics: Mapping[str, float | None],
        at: float | None = None,
    ) -> None:
        """Write a batch's metrics; what is no finite number is left out.

        Args:
          batch: Which, from 0.
          evals: Reward evaluations so far.
          seconds: Seconds of training so far.
          metrics: By name.
          at: When, in seconds since the epoch; now if None.
        """
        if self._writer is None:
            return
        cost = {"cost/reward_evals": float(evals), "cost/seconds": seconds}
        named = {tag(self._task, name): value for name, value in metrics.items()}
        try:
            from torch.utils.tensorboard.summary import scalar

            for name, value in (cost | named).items():
                if value is not None and math.isfinite(value):
                    self._add(at, step=batch, summary=scalar(name, value))  # type: ignore[no-untyped-call]
            self._writer.flush()
        except Exception as error:
            self._fail(error)

    def close(self) -> None:
        """Close the file."""
        if self._writer is None:
            return
        try:
            self._writer.close()
        except Exception as error:
            self._fail(error)

    def _add(self, at: float | None = None, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        assert self._writer is not None
        event = Event(wall_time=time.time() if at is None else at, **fields)
        self._writer.write(event.SerializeToString())

    def _fail(self, error: Exception) -> None:
        writer, self._writer = self._writer, None
        with suppress(Exception):
            if writer is not None:
                writer.close()  # now, for it would fail again when it is collected
        self.fault = described(error)[:200]


def export(directory: Path) -> int:
    """Write the event files of every finished run from its record; return how many.

    Raises:
      StorageError: The disk refused a file.
      UserError: The package is missing, or there is no result set.
    """
    check_installed()
    results = ResultSet(directory)
    results.require()
    manifest = results.manifest()
    if manifest is None:
        raise UserError(f"{directory} has no manifest.json, which says with what it was made")
    experiment = Experiment.from_dict(manifest["experiment"])
    check_links(directory)
    count = 0
    for record in results.records("runs"):
        if record["status"] == "ok":
            _export(results, experiment, record)
            count += 1
    return count


def _export(results: ResultSet, experiment: Experiment, record: Record) -> None:
    identity = record["task"], record["estimator"], record["seed"]
    events = Events(results.path, experiment, *identity)
    curves = record.get("curves") or {}
    seconds = curves.get("seconds") or []
    try:
        ended = results.run_path(*identity).stat().st_mtime
    except OSError:
        ended = time.time()
    for index, (step, evals, spent) in enumerate(
        zip(curves.get("step") or (), curves.get("reward_evals") or (), seconds, strict=True)
    ):
        metrics = {name: values[index] for name, values in curves["metrics"].items()}
        events.write(step, evals, spent, metrics, ended - seconds[-1] + spent)
    events.close()
    if events.fault:
        raise StorageError(f"cannot write event files to {results.path}: {events.fault}")


def _settings(experiment: Experiment, task: str, estimator: str, seed: int) -> str:
    """Return what a run was made with, as a table in Markdown."""
    from dataclasses import asdict

    settings = asdict(experiment.training_for(task))
    for option in tasks.OPTIONS:
        if task in tasks.names() and option not in tasks.info(task).options:
            settings.pop(option, None)
    head: dict[str, Any] = {"task": task, "estimator": estimator, "seed": seed}
    rows = (head | {"device": experiment.device} | settings).items()
    lines = [
        f"| {name} | {json.dumps(value).replace('|', chr(92) + '|')} |" for name, value in rows
    ]
    return "\n".join(["| setting | value |", "|---|---|", *lines])

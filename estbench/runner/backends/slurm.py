"""A Slurm cluster, by submitit: array jobs, each element of which works through a share of runs.

The result set's folder has to be one that the nodes see too, as home folders mostly are. Records
are written by the nodes; the driver watches for them, and hands out again what a dead element left.
Whether an element is alive is asked of squeue, which every cluster has, and not of sacct, which
needs a database.

submitit hands jobs over as pickles, and a pickle can run any code. They go through a folder in the
user's cache (``$XDG_CACHE_HOME`` or ``~/.cache``), never through the result set, which a stranger
may have made. The folder is new for each driver, the user's alone, and has a random name. Its jobs
have the same name, and only jobs of that name are ever cancelled.
"""

from __future__ import annotations

import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from estbench import __version__
from estbench.config.experiment import ExecutionSettings
from estbench.core.errors import UserError, unknown_name
from estbench.core.processes import WorkerKilled
from estbench.runner.backends.base import BackendLostError
from estbench.runner.backends.remote import foreign
from estbench.runner.jobs import Job
from estbench.runner.worker import Outcome, already_done, execute, give_up
from estbench.store import ResultSet, StorageError
from estbench.store.private import cache, private_folder, read_own, write_own

__all__ = ["SlurmBackend", "check_slurm", "options"]

PROGRAMS = ("sbatch", "srun", "squeue", "scancel")
NAME = re.compile("estbench-[0-9a-f]{32}")  # of a driver's folder, and of its jobs
LEDGER = "driver.json"  # in it: the result set that the driver works on
WORKERS = 16  # elements at the same time, unless another number is asked for
SHARES = 4  # elements a worker: so many times it may find that it was dealt the short runs
MOST = 1000  # elements of an array; clusters allow 1001 unless they say otherwise
TIME_MIN = 240
POLL_S = 2.0
ALIVE_S = 10.0  # seconds between two questions to squeue, which many users share
SETTLE_S = 5.0  # seconds that a network file system may take to show what a dead node wrote
SPARE_MB = 1024  # beside a run's own memory: libraries, and files that they map
NUMBERS = ("time", "nodes", "num_gpus", "gpus_per_node", "gpus_per_task", "cpus_per_gpu")
TEXTS = (
    "partition",
    "account",
    "qos",
    "gres",
    "constraint",
    "exclude",
    "nodelist",
    "comment",
    "mem_per_gpu",
    "wckey",
)


def options(text: str) -> dict[str, str | int]:
    """Return what sbatch is asked for, from ``"partition=cpu,time=240"``.

    Raises:
      UserError: An option is unknown or malformed.
    """
    found: dict[str, str | int] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if name not in (*NUMBERS, *TEXTS):
            raise unknown_name("--slurm option", name, [*NUMBERS, *TEXTS])
        if not equals or not value or (name in NUMBERS and not value.isdigit()):
            kind = "a whole number" if name in NUMBERS else "a value"
            raise UserError(f"--slurm {part!r}: give {name}={kind.upper().replace(' ', '_')}")
        found[name] = int(value) if name in NUMBERS else value
    return found


def check_slurm(settings: ExecutionSettings) -> None:
    """Check that this machine submits to a cluster that would take such a job.

    Raises:
      UserError: It does not; gives sbatch's own reason.
    """
    for program in PROGRAMS:
        if shutil.which(program) is None:
            raise UserError(
                f"--backend slurm: no {program} here: run this on a login node of a cluster"
            )
    asked = _parameters(settings)
    words = [f"--{name.replace('_', '-')}={value}" for name, value in asked.items()]
    command = ["sbatch", "--test-only", *words, "--wrap", "true"]
    try:
        tried = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(f"--backend slurm: sbatch does not answer ({error})") from None
    if tried.returncode:
        reason = " ".join(tried.stderr.split())[:200]
        raise UserError(f"--backend slurm: sbatch refuses such a job: {reason}")


def _parameters(settings: ExecutionSettings) -> dict[str, Any]:
    memory = {"mem": f"{settings.memory_mb + SPARE_MB}MB"} if settings.memory_mb else {}
    fixed = {"time": TIME_MIN, "cpus_per_task": settings.threads} | memory
    return fixed | options(settings.slurm)


@dataclass
class Ending:
    """What an element returns: how its jobs ended, and why it stopped before the last."""

    outcomes: list[Outcome]
    refused: str = ""
    disk: bool = False


def work(jobs: list[Job], directory: str, version: str) -> Ending:
    """Do a share of jobs, in a process of a node."""
    ending = Ending([])
    for job in jobs:
        ending.refused = foreign(job, version)
        if ending.refused:
            break
        try:
            ending.outcomes.append(execute(job, Path(directory)))
        except StorageError as error:
            ending.refused, ending.disk = str(error), True
            break
    return ending


@dataclass
class _Element:
    """An element of an array: what it was given, and how much of that is known to have ended."""

    handle: Any
    jobs: list[Job]
    told: set[Job] = field(default_factory=set)

    @property
    def left(self) -> list[Job]:
        return [job for job in self.jobs if job not in self.told]


class SlurmBackend:
    """See ``Backend``.

    Args:
      settings: What a run may take, and what sbatch is asked for.
      workers: Elements at the same time; 0 is 16.
      directory: The result set, in a folder that the nodes see.
      note: Told what happens to elements, in a line.

    Raises:
      UserError: There is no private folder to exchange jobs through.
    """

    def __init__(
        self,
        settings: ExecutionSettings,
        workers: int,
        directory: Path,
        note: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self.workers = workers or WORKERS
        self._results = ResultSet(directory.absolute())
        self._note = note
        self._elements: list[_Element] = []
        self._submitted = False
        self._asked_at = 0.0
        self._logs_matter = False
        _cancel_leftovers(self._results.path, note)
        self._name = f"estbench-{secrets.token_hex(16)}"
        self._folder = self._exchange()

    def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """See ``Backend``."""
        waiting, deaths = list(jobs), dict[Job, int]()
        while waiting or self._elements:
            if waiting:
                self._submit(waiting)
                waiting = []
            time.sleep(POLL_S)
            alive = self._alive()
            for element in list(self._elements):
                ended = self._has_result(element)
                gone = not ended and alive is not None and element.handle.job_id not in alive
                if gone:
                    time.sleep(SETTLE_S)
                    ended = self._has_result(element)
                if ended:
                    yield from self._finish(element)
                    waiting += element.left
                else:
                    yield from self._news(element)
                if gone and not ended:
                    self._logs_matter = True
                    yield from self._bury(element, waiting, deaths)
                if ended or gone:
                    self._elements.remove(element)

    def close(self) -> None:
        """See ``Backend``."""
        if self._submitted:
            _cancel(self._name)
        if self._logs_matter:
            (self._folder / LEDGER).unlink(missing_ok=True)
        else:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _exchange(self) -> Path:
        """Make the folder that jobs are handed over in, and note there whose it is.

        The next driver on the set finds it by that note, should this one be killed.
        """
        try:
            folder = private_folder(_exchanges() / self._name)
            write_own(folder / LEDGER, {"results": str(self._results.path)})
        except StorageError as error:
            raise UserError(
                f"--backend slurm: no private folder to hand jobs over in ({error}): set "
                "XDG_CACHE_HOME to a folder of your own that the nodes see"
            ) from None
        return folder

    def _submit(self, jobs: list[Job]) -> None:
        """Deal jobs out, the longest first, so that every element gets of all kinds."""
        import submitit

        count = min(len(jobs), SHARES * self.workers, MOST)
        shares = [jobs[start::count] for start in range(count)]
        parameters = _parameters(self._settings)
        executor = submitit.SlurmExecutor(folder=self._folder / "%j", max_num_timeout=0)
        executor.update_parameters(
            **parameters, job_name=self._name, array_parallelism=self.workers
        )
        where = str(self._results.path)
        self._submitted = True
        try:
            with executor.batch():
                handles = [executor.submit(work, share, where, __version__) for share in shares]
        except (OSError, subprocess.SubprocessError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise BackendLostError(f"Slurm takes no job: {reason}") from None
        self._elements += map(_Element, handles, shares)
        self._asked_at = time.monotonic()

    def _alive(self) -> set[str] | None:
        """Return the elements that wait or run; None where it is not known now."""
        if time.monotonic() - self._asked_at < ALIVE_S or not self._elements:
            return None
        self._asked_at = time.monotonic()
        arrays = ",".join({e.handle.job_id.partition("_")[0] for e in self._elements})
        # Expanded (-r); an array that has left the queue altogether is an error, of no importance.
        command = ["squeue", "-r", "-h", "-o", "%i", "-j", arrays]
        try:
            told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        except (OSError, subprocess.SubprocessError):
            return None
        if told.returncode and "Invalid job id" not in told.stderr:
            return None  # the controller is busy, or restarts
        return set(told.stdout.split())

    @staticmethod
    def _has_result(element: _Element) -> bool:
        return bool(element.handle.paths.result_pickle.exists())

    def _news(self, element: _Element) -> Iterator[Outcome]:
        """Yield the outcomes that stand on disk already; an element takes its jobs in order."""
        for job in element.left:
            ended = already_done(self._results, job)
            if ended is None:
                return
            element.told.add(job)
            yield ended

    def _finish(self, element: _Element) -> Iterator[Outcome]:
        ending: Ending = element.handle.result()
        for ended in ending.outcomes:
            if ended.job not in element.told:
                element.told.add(ended.job)
                yield ended
        if ending.disk:
            self._results.check_there()
            raise StorageError(ending.refused)
        if ending.refused:
            raise UserError(ending.refused)

    def _bury(
        self, element: _Element, waiting: list[Job], deaths: dict[Job, int]
    ) -> Iterator[Outcome]:
        """Hand out again what a dead element left; its first job is what it was working on."""
        left = element.left
        if not left:
            return
        suspect = left[0]
        deaths[suspect] = deaths.get(suspect, 0) + 1
        number = element.handle.job_id
        if deaths[suspect] < 2:
            self._note(f"Slurm's job {number} ended before its work; run again: {suspect.label}")
            waiting += left
            return
        waiting += left[1:]
        reason = f"Slurm's job {number}; see {self._folder}"
        yield give_up(self._results, suspect, WorkerKilled(reason))


def _exchanges() -> Path:
    """Return where the folders of drivers are."""
    return cache() / "slurm"


def _cancel_leftovers(results: Path, note: Callable[[str], None]) -> None:
    """Cancel the jobs of drivers that were killed at work on a result set, and forget them."""
    try:
        folders = [p for p in _exchanges().iterdir() if NAME.fullmatch(p.name)]
    except OSError:
        return
    for folder in folders:
        try:
            left = read_own(folder / LEDGER)["results"] == str(results)
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if left:
            note(
                f"cancelled what an earlier driver left in Slurm's queue: jobs named {folder.name}"
            )
            _cancel(folder.name)
            shutil.rmtree(folder, ignore_errors=True)


def _cancel(name: str) -> None:
    """Cancel the jobs of a driver, by their name, which no other job has."""
    with suppress(OSError, subprocess.SubprocessError):
        subprocess.run(["scancel", f"--name={name}"], capture_output=True, timeout=60, check=False)

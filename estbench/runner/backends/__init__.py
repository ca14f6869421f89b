"""Where runs are made: processes of this machine, a dask cluster, or Slurm."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from estbench.config.experiment import ExecutionSettings
from estbench.core.errors import UserError
from estbench.runner.backends.base import Backend, BackendLostError

__all__ = ["Backend", "BackendLostError", "check_backend", "make_backend"]

PACKAGES = {"dask": "distributed", "slurm": "submitit"}
"""What a backend needs beyond what estbench needs anyway: the extra of its own name."""


def check_backend(settings: ExecutionSettings) -> None:
    """Check, before anything is done, that a backend can be used.

    Raises:
      UserError: A package is missing, no scheduler answers, or Slurm refuses such jobs.
    """
    backend = settings.backend
    for name, given, owner in (
        ("scheduler", settings.scheduler, "dask"),
        ("slurm", settings.slurm, "slurm"),
    ):
        if given and backend != owner:
            raise UserError(f"--{name} is of no use to --backend {backend}; add --backend {owner}")
    package = PACKAGES.get(backend)
    if package and find_spec(package) is None:
        raise UserError(
            f"--backend {backend} needs the package {package}: "
            f"python -m pip install 'estbench[{backend}]'"
        )
    if backend == "dask" and settings.scheduler:
        from estbench.runner.backends.dask import check_scheduler

        check_scheduler(settings.scheduler)
    if backend == "slurm":
        from estbench.runner.backends.slurm import check_slurm

        check_slurm(settings)


def make_backend(
    settings: ExecutionSettings, workers: int, directory: Path, note: Callable[[str], None]
) -> Backend:
    """Return the backend that is asked for.

    Args:
      settings: Which, and what it needs to know.
      workers: Runs at the same time here; elsewhere ``settings.jobs`` says it.
      directory: The result set.
      note: Told what happens to workers, in a line.

    Raises:
      UserError: It cannot be reached.
    """
    if settings.backend == "dask":
        from estbench.runner.backends.dask import DaskBackend

        count = settings.jobs if settings.scheduler else workers
        return DaskBackend(settings.scheduler, count, directory, note)
    if settings.backend == "slurm":
        from estbench.runner.backends.slurm import SlurmBackend

        return SlurmBackend(settings, settings.jobs, directory, note)
    from estbench.runner.backends.local import LocalBackend

    return LocalBackend(workers, directory, note)

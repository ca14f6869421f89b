"""Where an experiment runs: what its timings depend on, and what its numbers may."""

from __future__ import annotations

import os
import platform
import subprocess
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

from estbench import __version__
from estbench.core.errors import UserError
from estbench.core.openmp import idle_threads

__all__ = ["check_device", "devices", "environment", "worker_count"]

PACKAGES = ("torch", "numpy", "pandas", "scipy", "joblib", "matplotlib", "seaborn", "pyarrow")


def environment() -> dict[str, Any]:
    """Return the machine and the versions, as JSON would hold them; imports none of them."""
    commit = _commit()
    return {
        "estbench": __version__,
        **({"git": commit} if commit else {}),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cpu": {"model": _cpu_model(), "cores": worker_count(), "memory_mb": _memory_mib()},
        "threads_per_worker": 1,
        "idle_threads": idle_threads(),
        "platform": platform.platform(),
    }


def devices() -> list[str]:
    """Return the devices that --device accepts here."""
    import torch

    cards = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    return ["cpu", *(f"cuda:{index}" for index in cards)]


def check_device(device: str) -> None:
    """Check that a device exists.

    Raises:
      UserError: It does not.
    """
    if device == "cpu":
        return
    found = devices()
    if device not in found and not (device == "cuda" and len(found) > 1):
        raise UserError(f"device {device}: there is none here; one of: {', '.join(found)}")


def worker_count() -> int:
    """Return the physical cores that this process may use: affinity and container limits count."""
    import joblib

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where physical cores cannot be told, logical ones count
        return max(1, int(joblib.cpu_count(only_physical_cores=True)))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> dict[str, Any] | None:
    """Return the commit of estbench's own source, and whether files differ from it.

    None where it does not lie in a checkout of its own, or there is no git.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists() or not (root / "estbench").is_dir():
        return None
    git = ["git", "--no-optional-locks", "-C", str(root)]
    try:
        head, changes = (
            subprocess.run([*git, *words], capture_output=True, text=True, timeout=10, check=True)
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--", "estbench"))
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": head.stdout.strip(), "changed": bool(changes.stdout.strip())}


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    for line in text.splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_mib() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    except (ValueError, OSError):
        return None

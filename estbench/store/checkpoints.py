"""Checkpoints of training runs: a file each, written whole, gone when the record is there.

A file is a line, a SHA-256 of what follows, and what ``torch.save`` makes of a head and a state.
The head says which run it is, and which code and packages computed it: another's is never used.
Reading executes nothing (``weights_only``), so that a state is tensors, numbers, text, lists and
dictionaries.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

from estbench.core.reading import read_bytes
from estbench.store.atomic import remove_leftovers, write_bytes

__all__ = [
    "UnusableCheckpointError",
    "checkpoint_path",
    "read_checkpoint",
    "remove_checkpoint",
    "source_digest",
    "write_checkpoint",
]

MAGIC = b"estbench checkpoint 1\n"
DIGEST = hashlib.sha256().digest_size
MOST_BYTES = 1 << 34
FOLDER = "checkpoints"
COMPUTING = ("core", "estimators", "meter", "models", "tasks", "training")
"""What of the package can touch a number of a training run."""


class UnusableCheckpointError(Exception):
    """A checkpoint that is damaged or of another run, with the reason in one line."""


def checkpoint_path(directory: Path, kind: str, task: str, estimator: str, seed: int) -> Path:
    """Return where the checkpoint of a "run" or a "reference" is kept in a result set.

    Of kind "start" is what all runs of a task and seed begin with, whatever their estimator.
    """
    folder = directory / FOLDER
    if kind == "run":
        return folder / "runs" / task / estimator / f"seed-{seed:03d}.pt"
    return folder / kind / task / f"seed-{seed:03d}.pt"


def write_checkpoint(path: Path, head: Mapping[str, str], state: Any) -> int:
    """Write a checkpoint in place of the one before; return its size in bytes.

    Args:
      path: Its file.
      head: Which run it is, and what computed it.
      state: Tensors, numbers, text, lists, tuples and dictionaries.

    Raises:
      StorageError: The disk refused it; the one before is whole and in its place.
    """
    import torch

    # One buffer for all of it: a state has its size in memory once more, not twice.
    buffer = io.BytesIO()
    buffer.write(MAGIC + bytes(DIGEST))
    plain = {name: str(value) for name, value in head.items()}  # torch's version is a class's
    torch.save({"head": plain, "state": state}, buffer)
    whole = buffer.getbuffer()
    start = len(MAGIC) + DIGEST
    whole[len(MAGIC) : start] = hashlib.sha256(whole[start:]).digest()
    write_bytes(path, cast(bytes, whole))
    return len(whole)


def read_checkpoint(path: Path, head: Mapping[str, str], device: str = "cpu") -> Any:
    """Return the state of a checkpoint; None if there is no file.

    Args:
      path: Its file.
      head: Which run it should be of, and what should have computed it.
      device: Where tensors go that were not on the CPU.

    Raises:
      UnusableCheckpointError: It is damaged, or its head is another one.
    """
    try:
        whole = read_bytes(path, MOST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UnusableCheckpointError(f"it cannot be read ({error.strerror or error})") from None
    start = len(MAGIC) + DIGEST
    data = memoryview(whole)[start:]
    if not whole.startswith(MAGIC) or whole[len(MAGIC) : start] != hashlib.sha256(data).digest():
        raise UnusableCheckpointError("it is damaged")
    import torch

    def moved(storage: Any, place: str) -> Any:
        from torch.serialization import default_restore_location

        if place == "cpu":
            return storage
        return default_restore_location(storage, device)  # type: ignore[no-untyped-call]

    try:
        content = torch.load(io.BytesIO(data), map_location=moved, weights_only=True)
        theirs, state = content["head"], content["state"]
    except Exception as error:  # whole, and yet nothing that this version of torch reads
        raise UnusableCheckpointError(f"it is no checkpoint ({type(error).__name__})") from None
    for name, value in head.items():
        if theirs.get(name) != value:
            raise UnusableCheckpointError(f"it was made with another {name}")
    return state


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint, and the folders that are empty without it; never raises."""
    try:
        remove_leftovers(path.parent, of=path.name)
        path.unlink(missing_ok=True)
        names = [folder.name for folder in path.parents]
        for folder in path.parents[: names.index(FOLDER) + 1 if FOLDER in names else 0]:
            folder.rmdir()
    except OSError:
        pass  # not empty, or not there


@cache
def source_digest() -> str:
    """Return a hash of the code that computes training runs, as hexadecimal SHA-256.

    A record's key holds the version of its estimator alone; half a run by one code and half by
    another would be neither's.
    """
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for name in COMPUTING:
        place = package / name
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(path.relative_to(package).as_posix().encode() + b"\0")
            digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()

"""A result set: the folder that an experiment writes, found by task, estimator and seed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from estbench.errors import UserError
from estbench.store.atomic import remove_leftovers, write_json
from estbench.store.schema import Record, is_record

__all__ = ["CorruptRecordError", "ResultSet"]


class CorruptRecordError(Exception):
    """A file that is not a whole record: cut off, damaged, or something else's."""


class ResultSet:
    """The paths of a result set, and what is read from them.

    Attributes:
      path: The folder. Nothing is made or read until it is asked for.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @property
    def manifest_path(self) -> Path:
        """The experiment, schema version, environment and command."""
        return self.path / "manifest.json"

    def run_path(self, task: str, estimator: str, seed: int) -> Path:
        """A training run."""
        return self.path / "runs" / task / estimator / f"seed-{seed:03d}.json"

    def reference_path(self, task: str, seed: int) -> Path:
        """The trajectory that snapshots come from; its states lie beside it (``state_path``)."""
        return self.path / "reference" / task / f"seed-{seed:03d}.json"

    def state_path(self, task: str, seed: int) -> Path:
        """The (policy, reward) pairs of a reference trajectory, as ``torch.save`` writes them."""
        return self.reference_path(task, seed).with_suffix(".pt")

    def snapshots_path(self, task: str, estimator: str, seed: int) -> Path:
        """An estimator's measurements at the snapshots."""
        return self.path / "snapshots" / task / estimator / f"seed-{seed:03d}.json"

    def timing_path(self, index: int) -> Path:
        """A round of the timing pass."""
        return self.path / "timing" / f"{index:03d}.json"

    def record_path(self, kind: str, task: str, estimator: str, seed: int) -> Path:
        """The path of a record of any kind but "timing"."""
        if kind == "reference":
            return self.reference_path(task, seed)
        return {"run": self.run_path, "snapshots": self.snapshots_path}[kind](task, estimator, seed)

    def read(self, path: Path) -> Record | None:
        """Return a record, or None where there is none.

        Raises:
          CorruptRecordError: The file is not a whole record.
        """
        try:
            document = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise CorruptRecordError(f"{path} is not readable ({error})") from None
        if not is_record(document):
            raise CorruptRecordError(f"{path} is not a whole record")
        return dict(document)

    def runs(self) -> Iterator[Record]:
        """Yield the training runs, by task, estimator and seed."""
        return self._records("runs")

    def references(self) -> Iterator[Record]:
        """Yield the reference trajectories."""
        return self._records("reference")

    def snapshots(self) -> Iterator[Record]:
        """Yield the measurements at the snapshots."""
        return self._records("snapshots")

    def timing(self) -> Iterator[Record]:
        """Yield the timing rounds, in order."""
        return self._records("timing")

    def manifest(self) -> Record | None:
        """Return the manifest, or None where there is none.

        Raises:
          UserError: It is damaged.
        """
        try:
            document = json.loads(self.manifest_path.read_bytes())
            document["experiment"]["seeds"]
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(
                f"{self.manifest_path} is damaged: delete it and run again; finished runs are kept"
            ) from None
        return dict(document)

    def write_manifest(self, document: Record) -> None:
        """Write the manifest.

        Raises:
          StorageError: The disk refused it.
        """
        write_json(self.manifest_path, document)

    @property
    def proofs_path(self) -> Path:
        """What was proven about the estimators, as ``estbench.proof.gate`` writes it."""
        return self.path / "proofs.json"

    def proofs(self) -> list[dict[str, Any]]:
        """Return the verdicts on the estimators' configurations; none where there is no file.

        Raises:
          UserError: The file is damaged.
        """
        try:
            found = json.loads(self.proofs_path.read_bytes())
            for proof in found:
                proof["configuration"]["estimator"], proof["verdict"], proof["detail"]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(
                f"{self.proofs_path} is damaged: delete it and run again; finished runs are kept"
            ) from None
        return list(found)

    def write_proofs(self, proofs: list[dict[str, Any]]) -> None:
        """Add verdicts; one on a configuration takes the place of an older one.

        Raises:
          StorageError: The disk refused them.
          UserError: What is there is damaged.
        """
        before = self.proofs()
        held = {json.dumps(p["configuration"], sort_keys=True): p for p in [*before, *proofs]}
        if list(held.values()) != before:
            write_json(self.proofs_path, list(held.values()))

    def state_digest(self, task: str, seed: int) -> str | None:
        """Return the SHA-256 of a reference's states, or None where they are missing."""
        try:
            return hashlib.sha256(self.state_path(task, seed).read_bytes()).hexdigest()
        except OSError:
            return None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Make the folder, and hold it for one writer at a time.

        Raises:
          UserError: It cannot be written to, or another process writes to it.
        """
        probe = self.path / f".writable.{os.getpid()}.tmp"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            reason = "it is a file" if self.path.is_file() else error.strerror
            raise UserError(
                f"cannot write to {self.path} ({reason}): give --out a folder you may write to"
            ) from None
        handle = os.open(self.path, os.O_RDONLY)
        try:
            self._lock(handle)
            remove_leftovers(self.path)
            yield
        finally:
            os.close(handle)  # which lets go of the lock

    def _lock(self, handle: int) -> None:
        import fcntl

        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # Network file systems may know no locks; only a lock that is held is a reason to stop.
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise UserError(
                    f"another run is writing to {self.path}: wait for it, or give another --out"
                ) from None

    def _records(self, kind: str) -> Iterator[Any]:
        for path in sorted((self.path / kind).rglob("*.json")):
            record = self.read(path)
            if record is not None:
                yield record

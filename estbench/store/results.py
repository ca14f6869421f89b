"""A result set: the folder that an experiment writes, found by task, estimator and seed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from estbench.core.errors import UserError
from estbench.core.reading import read_bytes, read_document
from estbench.store.atomic import (
    StorageError,
    encode,
    is_temporary,
    remove_leftovers,
    write_bytes,
    write_json,
)
from estbench.store.layout import (
    AnyRecord,
    ReferenceRecord,
    RunRecord,
    SnapshotsRecord,
    TimingRecord,
)
from estbench.store.links import check_links
from estbench.store.outputs import probe
from estbench.store.schema import (
    Record,
    check_manifest,
    check_proofs,
    check_record,
    check_schema,
)

__all__ = ["RECORDS", "CorruptRecordError", "ResultSet", "SetGoneError"]


LOCK = ".lock"
FOLDERS: dict[type[AnyRecord], str] = {
    RunRecord: "runs",
    ReferenceRecord: "reference",
    SnapshotsRecord: "snapshots",
    TimingRecord: "timing",
}
RECORDS = tuple(FOLDERS.values())
"""Folders of a result set that hold records."""

AnyKind = TypeVar("AnyKind", bound=AnyRecord)

MOST_STATE_BYTES = 1 << 34
"""Of the states of a reference: a policy, its reward and its optimiser for each snapshot."""


class SetGoneError(StorageError):
    """The result set was deleted or moved; nothing more may be written."""


class CorruptRecordError(UserError):
    """A file that is not a whole record: cut off, damaged, or something else's.

    Attributes:
      fault: What is wrong, without the remedy.
    """

    def __init__(self, fault: str) -> None:
        super().__init__(f"{fault}: delete it and run again; other runs are kept")
        self.fault = fault


class ResultSet:
    """The paths of a result set, and readers of its files.

    Attributes:
      path: The folder. Nothing is made or read until it is asked for.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._lock_handle: int | None = None

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
        """Return a record, or None if there is no file.

        Raises:
          CorruptRecordError: The file is not a whole record.
          UserError: It is of another version of estbench.
        """
        both = self._read(path)
        return both and both[0]

    def sound(self, path: Path) -> Record | None:
        """Return a record, or None if there is no file or it is damaged; else as ``read``."""
        try:
            return self.read(path)
        except CorruptRecordError:
            return None

    def _read(self, path: Path) -> tuple[Record, AnyRecord] | None:
        """Return a record as JSON and as an object."""
        try:
            document = read_document(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise CorruptRecordError(f"{path} is not readable ({reason})") from None
        check_schema(document, path)
        try:
            record = check_record(document)
        except ValueError as error:
            raise CorruptRecordError(f"{path} is not a whole record: {error}") from None
        if path != self._path_of(document):
            raise CorruptRecordError(f"{path} does not lie where the record that it holds belongs")
        return document, record

    def _path_of(self, record: Record) -> Path:
        """Return where a record belongs: no other place may speak for it."""
        if record["kind"] == "timing":
            return self.timing_path(record["round"])
        return self.record_path(record["kind"], record["task"], record["estimator"], record["seed"])

    def records(self, folder: str) -> Iterator[Record]:
        """Yield the records of one of the folders ``RECORDS``, by task, estimator and seed.

        Raises:
          CorruptRecordError: A file is not a whole record.
          UserError: It is of another version of estbench.
        """
        for path in self._paths(folder):
            record = self.read(path)
            if record is not None:
                yield record

    def typed(self, kind: type[AnyKind]) -> Iterator[AnyKind]:
        """Yield the records of a kind as objects; else as ``records``."""
        for path in self._paths(FOLDERS[kind]):
            both = self._read(path)
            if both is not None and isinstance(both[1], kind):
                yield both[1]

    def manifest(self) -> Record | None:
        """Return the manifest, or None if there is no file.

        Raises:
          UserError: It is damaged, or of another version of estbench.
        """
        try:
            document = read_document(self.manifest_path)
            check_schema(document, self.manifest_path)
            check_manifest(document)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            remedy = (
                "put a copy in its place; or run with another --out and move runs/, reference/, "
                "snapshots/ and timing/ there"
            )
            raise _damaged(self.manifest_path, error, remedy) from None
        return dict(document)

    def require(self) -> None:
        """Check, at a glance, that the folder is a result set, or a part of one without a manifest.

        Raises:
          UserError: The folder does not exist, or is not a result set.
        """
        if not self.path.is_dir():
            raise UserError(
                f"no result set at {self.path}: not a folder; estbench run --out makes one"
            )
        known = (self.manifest_path.name, *RECORDS, "tables")  # tables may stand in for records
        if not any((self.path / name).exists() for name in known):
            raise UserError(
                f"no result set at {self.path}: it holds neither manifest.json nor records; give "
                "the folder of one, such as results/bench (estbench run --out makes one)"
            )

    def check_there(self) -> None:
        """Check that the manifest is still there, and the folder still the one that is held.

        A user may delete or move a result set while it is written. Later jobs must not recreate a
        part of it, nor write into another set in its place.

        Raises:
          SetGoneError: It is not.
        """
        if not self.manifest_path.is_file() or not self._is_held():
            raise self._gone()

    def write(self, path: Path, data: bytes) -> None:
        """Write a file of the set whole; every file of a set but its manifest is written here.

        Raises:
          SetGoneError: The set was deleted or moved.
          StorageError: The disk refused it.
        """
        self.check_there()
        try:
            write_bytes(path, data)
        except StorageError:
            self.check_there()  # it may have gone in between
            raise

    def write_manifest(self, document: Record) -> None:
        """Write the manifest.

        Raises:
          SetGoneError: The folder was deleted or moved since ``writing`` began.
          StorageError: The disk refused it.
        """
        if not self._is_held():
            raise self._gone()
        write_json(self.manifest_path, document)

    @property
    def proofs_path(self) -> Path:
        """What was proven about the estimators, as ``estbench.proof.gate`` writes it."""
        return self.path / "proofs.json"

    def proofs(self) -> list[dict[str, Any]]:
        """Return the verdicts on the estimators' configurations; an empty list if there is no file.

        Raises:
          UserError: The file is damaged.
        """
        try:
            verdicts = read_document(self.proofs_path)
            check_proofs(verdicts)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except (OSError, ValueError) as error:
            raise _damaged(self.proofs_path, error, "delete it and run again") from None
        return list(verdicts)

    def write_proofs(self, proofs: list[dict[str, Any]]) -> None:
        """Add verdicts; one on a configuration takes the place of an older one.

        Raises:
          StorageError: The disk refused them.
          UserError: The existing file is damaged.
        """
        before = self.proofs()
        held = {json.dumps(p["configuration"], sort_keys=True): p for p in [*before, *proofs]}
        if list(held.values()) != before:
            self.write(self.proofs_path, encode(list(held.values())))

    def set_aside(self, path: Path) -> None:
        """Move a record into stale/; existing files there are kept.

        Raises:
          SetGoneError: The set was deleted or moved.
          StorageError: The disk refused it.
        """
        self.check_there()
        target = self.path / "stale" / path.relative_to(self.path)
        number = 1
        while target.exists():
            number += 1
            target = target.with_name(f"{path.stem}.{number}{path.suffix}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
        except OSError as error:
            raise StorageError(f"cannot move {path} to {target}: {error.strerror}") from None

    def state_digest(self, task: str, seed: int) -> str | None:
        """Return the SHA-256 of a reference's states, or None where they are missing."""
        try:
            content = read_bytes(self.state_path(task, seed), MOST_STATE_BYTES)
            return hashlib.sha256(content).hexdigest()
        except OSError:
            return None

    def states(self, task: str, seed: int) -> Any:
        """Return a reference's states; nothing that the file holds is run.

        Raises:
          CorruptRecordError: There is no file, or ``torch.save`` did not write it.
        """
        from estbench.store.states import load_states

        path = self.state_path(task, seed)
        try:
            return load_states(read_bytes(path, MOST_STATE_BYTES))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise CorruptRecordError(f"{path} is not readable ({reason})") from None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Make the folder, and hold it for one writer at a time.

        What killed writers left is removed, if a manifest says that the folder is a result set.

        Raises:
          UserError: It is something else than a result set, it cannot be written to, or another
            process writes to it.
        """
        try:
            ours = self._is_ours()
            self.path.mkdir(parents=True, exist_ok=True)
            check_links(self.path)
            probe(self.path)
            # A file, not the folder: network file systems lock only files opened for writing.
            handle = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            reason = "it is a file" if self.path.is_file() else error.strerror
            raise UserError(
                f"cannot write to {self.path} ({reason}): give --out a folder you may write to"
            ) from None
        try:
            self._lock(handle)
            self._lock_handle = handle
            if ours:
                remove_leftovers(self.path)
            yield
        finally:
            self._lock_handle = None
            os.close(handle)  # which lets go of the lock

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Know the folder again, as a worker does that writes to what its driver holds.

        Another set that is put in its place meanwhile has another lock. A folder without one, in
        which a worker of another machine keeps its files, is not watched.
        """
        try:
            # An open file keeps its number: none that is made later can be taken for it.
            handle = os.open(self.path / LOCK, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            yield
            return
        try:
            self._lock_handle = handle
            yield
        finally:
            self._lock_handle = None
            os.close(handle)

    def _is_ours(self) -> bool:
        """Return whether the folder has a manifest; without one there must be nothing in it.

        Raises:
          UserError: It holds something else.
          OSError: It cannot be read.
        """
        if self.manifest() is not None:
            return True
        try:
            names = sorted(os.listdir(self.path))
        except FileNotFoundError:
            return False
        # A run that was killed before it wrote the manifest leaves no more than these.
        others = [name for name in names if name != LOCK and not is_temporary(name)]
        if others:
            raise UserError(
                f"{self.path} is no result set (it has no manifest.json) and not empty (it holds "
                f"{others[0]}): give --out a new or an empty folder"
            )
        return False

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

    def _is_held(self) -> bool:
        """Return whether the lock is the file that was opened; True where none was."""
        if self._lock_handle is None:
            return True
        try:
            there = os.stat(self.path / LOCK, follow_symlinks=False)
        except OSError:
            return False
        return os.path.samestat(there, os.fstat(self._lock_handle))

    def _gone(self) -> SetGoneError:
        return SetGoneError(
            f"{self.path} was deleted, moved or replaced while run was working: nothing more is "
            "written there"
        )

    def _paths(self, folder: str) -> list[Path]:
        return sorted((self.path / folder).rglob("*.json"))


def _damaged(path: Path, error: OSError | ValueError, remedy: str) -> UserError:
    reason = getattr(error, "strerror", None) or error
    return UserError(f"{path} is damaged ({reason}): {remedy}; finished runs are kept")

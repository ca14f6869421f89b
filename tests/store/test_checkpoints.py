"""Checkpoint files: whole or none, one's own or none, and nothing in them is run."""

from __future__ import annotations

import hashlib
import io
import os
import random
from pathlib import Path

import pytest
import torch

from estbench.store import StorageError
from estbench.store.atomic import temporary_path
from estbench.store.checkpoints import (
    MAGIC,
    UnusableCheckpointError,
    checkpoint_path,
    read_checkpoint,
    remove_checkpoint,
    source_digest,
    write_checkpoint,
)

HEAD = {"key": "abc", "version of torch": "9"}
WHY = {"pickle": "it is no checkpoint", "torch": "it is no checkpoint"}
WHY |= {"folder": "Is a directory", "pipe": "not a regular file"}
STATE = {"weights": torch.arange(5.0), "rows": [1, None, 0.5], "pair": (1, "a")}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = checkpoint_path(tmp_path, "run", "expressions-3", "rloo", 3)
    assert read_checkpoint(path, HEAD) is None
    size = write_checkpoint(path, HEAD, STATE)
    assert path.stat().st_size == size
    found = read_checkpoint(path, HEAD)
    assert torch.equal(found["weights"], STATE["weights"])  # type: ignore[call-overload]
    assert (found["rows"], found["pair"]) == (STATE["rows"], STATE["pair"])


def test_every_run_has_its_own(tmp_path: Path) -> None:
    paths = {
        checkpoint_path(tmp_path, kind, task, estimator, seed)
        for kind in ("run", "reference")
        for task in ("a", "b")
        for estimator in ("rloo", "rebar" if kind == "run" else "rloo")
        for seed in (0, 1)
    }
    assert len(paths) == 8 + 4
    assert all(path.is_relative_to(tmp_path / "checkpoints") for path in paths)


def test_another_runs_is_refused_and_says_why(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    write_checkpoint(path, HEAD, STATE)
    with pytest.raises(UnusableCheckpointError, match="another version of torch"):
        read_checkpoint(path, HEAD | {"version of torch": "10"})
    with pytest.raises(UnusableCheckpointError, match="another version of estbench"):
        read_checkpoint(path, HEAD | {"version of estbench": "1"})


def test_any_damage_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    write_checkpoint(path, HEAD, STATE)
    whole = path.read_bytes()
    choose = random.Random(0)
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[choose.randrange(len(whole))] ^= 1 << choose.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(UnusableCheckpointError, match="it is damaged"):
            read_checkpoint(path, HEAD)
    for length in (0, 1, len(MAGIC), len(MAGIC) + 20, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UnusableCheckpointError, match="it is damaged"):
            read_checkpoint(path, HEAD)


@pytest.mark.parametrize("what", WHY)
def test_what_is_no_checkpoint_is_refused_and_nothing_in_it_is_run(
    tmp_path: Path, what: str
) -> None:
    path, mark = tmp_path / "c.pt", tmp_path / "mark"

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (os.mkdir, (str(mark),))

    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    else:
        buffer = io.BytesIO()
        torch.save({"head": HEAD, "state": Evil()} if what == "pickle" else [1], buffer)
        data = buffer.getvalue()
        path.write_bytes(MAGIC + hashlib.sha256(data).digest() + data)
    with pytest.raises(UnusableCheckpointError, match=WHY[what]):
        read_checkpoint(path, HEAD)
    assert not mark.exists()


def test_a_full_disk_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.pt"
    write_checkpoint(path, HEAD, {"step": 1})

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(StorageError, match="No space left"):
            write_checkpoint(path, HEAD, {"step": 2})
    assert read_checkpoint(path, HEAD) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_removing_takes_empty_folders_and_what_killed_writers_left(tmp_path: Path) -> None:
    one, other = (checkpoint_path(tmp_path, "run", "a", "rloo", seed) for seed in (0, 1))
    for path in (one, other):
        write_checkpoint(path, HEAD, {})
    temporary_path(one).write_bytes(b"half")
    writing = temporary_path(other)
    writing.write_bytes(b"another writer is alive")
    remove_checkpoint(one)
    assert sorted(one.parent.iterdir()) == [writing, other]
    remove_checkpoint(other)
    remove_checkpoint(other)
    assert list(tmp_path.iterdir()) == []
    elsewhere = tmp_path / "other" / "c.pt"
    write_checkpoint(elsewhere, HEAD, {})
    remove_checkpoint(elsewhere)
    assert elsewhere.parent.is_dir()


def test_the_code_that_computes_has_a_hash() -> None:
    assert len(source_digest()) == 64
    assert source_digest() == source_digest()


def test_tensors_of_another_device_go_where_the_run_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.pt"
    whole = torch.arange(4.0)
    with monkeypatch.context() as patch:
        patch.setattr("torch.serialization.location_tag", lambda storage: "cuda:3")
        write_checkpoint(path, HEAD, {"whole": whole, "part": whole[1:3]})
    read = read_checkpoint(path, HEAD, "cpu")
    assert read["whole"].device.type == "cpu"
    read["part"].zero_()
    assert read["whole"].tolist() == [0.0, 0.0, 0.0, 3.0], "views of one memory stay so"

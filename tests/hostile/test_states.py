"""States and an oracle's weights from elsewhere: tensors and arrays, never code, never a flood."""

from __future__ import annotations

import io
import os
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from estbench.core.errors import UserError
from estbench.store import CorruptRecordError, ResultSet
from estbench.store.states import load_states
from estbench.tasks.weights import NAMES, read_arrays, sizes

from .mutations import damaged
from .rule import answer, check_line, in_time, inputs, tally

V, E, H = 6, 2, 3


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


STATES = saved({"snapshots": [{"policy": {"w": torch.ones(3)}, "rate": 0.5}] * 2})


class Evil:
    """Leaves a file behind where it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch estbench-was-here",)


def read(content: bytes) -> Any:
    tally["states"] += 1
    try:
        with in_time():
            return load_states(content)
    except ValueError as error:
        tally["states refused"] += 1
        check_line(str(error))
        return error


@inputs(150)
@given(content=damaged(STATES))
def test_states_are_read_or_refused(content: bytes) -> None:
    found = read(content)
    assert isinstance(found, (ValueError, dict))


@pytest.mark.parametrize("whole", [Evil(), {"snapshots": [Evil()]}, [Evil(), torch.ones(1)]])
def test_states_with_code_in_them_run_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    for content in (saved(whole), pickle.dumps(whole)):
        assert isinstance(read(content), ValueError)
    assert list(tmp_path.iterdir()) == []


def compressed(content: bytes, zeros: int = 0) -> bytes:
    """The same archive, compressed, its tensors longer by so many zeros."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            more = bytes(zeros) if "/data/" in name else b""
            new.writestr(name, old.read(name) + more)
    return buffer.getvalue()


def test_a_zip_bomb_is_not_unpacked() -> None:
    bomb = compressed(STATES, 1 << 27)
    assert len(bomb) < 1 << 20
    assert "compressed" in str(read(bomb))


def test_states_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    results = ResultSet(tmp_path)
    path = results.state_path("t", 0)
    path.parent.mkdir(parents=True)
    with pytest.raises(CorruptRecordError, match=r"seed-000\.pt is not readable \(No such file"):
        results.states("t", 0)
    os.mkfifo(path)
    with in_time(), pytest.raises(CorruptRecordError, match="not a regular file"):
        results.states("t", 0)
    assert results.state_digest("t", 0) is None


def arrays() -> list[np.ndarray[Any, Any]]:
    shapes = [(V, E), *[(E, H), (H, H), (H,)] * 4, (H, V), (V,)]
    return [np.full(shape, 0.5, np.float32) for shape in shapes]


def npz(named: bool = True) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **dict(zip(NAMES, arrays(), strict=True)) if named else {})
    return buffer.getvalue()


PICKLES = {
    f"pickle {protocol}": pickle.dumps(arrays(), protocol=protocol) for protocol in (0, 2, 4, 5)
}
WEIGHTS = {**PICKLES, "npz": npz()}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_are_read_or_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "oracle"

    @inputs(80)
    @given(content=damaged(WEIGHTS[kind]))
    def run(content: bytes) -> None:
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = answer(kind.split()[0], lambda: sizes(read_arrays(path), path))
        assert isinstance(found, (UserError, tuple))

    path.write_bytes(WEIGHTS[kind])
    assert sizes(read_arrays(path), path) == (V, E, H)
    run()


OPCODES = [
    bytes([code])
    for code in b".(0125BCGIJKLMNQRTUVX]abcdeghijlopqrstu}\x80\x81\x85\x86\x87\x89\x93\x94\x95"
]
WORDS = [
    *(b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"cos\nsystem\n", b"c_codecs\nencode\n"),
    *(b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy._core.numeric\n_frombuffer\n"),
    *(
        b"cbuiltins\neval\n",
        b"cbuiltins\ngetattr\n",
        b"cnumpy\nload\n",
        b"cnumpy.testing\nrundocs\n",
    ),
    *(b"U\x02f8", b"S'f4'\n", b"K\x01", b"J\xff\xff\xff\x7f", b"L99999999999999L\n", b")", b"N"),
]


@inputs(300)
@given(parts=st.lists(st.sampled_from([*OPCODES, *WORDS]), max_size=30))
def test_any_program_of_a_pickle_is_refused_and_runs_nothing(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]
) -> None:
    path = tmp_path_factory.getbasetemp() / "program.pkl"
    path.write_bytes(b"".join(parts) + b".")
    assert isinstance(answer("pickle programs", lambda: read_arrays(path)), UserError)


def header(shape: str, kind: str = "<f4") -> bytes:
    """An array as .npy says it, without the numbers."""
    text = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize("shape", ["(10**12,)", "(1000000000000,)", "(-1,)", "(2**70,)", "()"])
def test_an_array_that_says_it_is_larger_is_refused(tmp_path: Path, shape: str) -> None:
    path = tmp_path / "oracle.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name in NAMES:
            archive.writestr(f"{name}.npy", header(shape))
    assert isinstance(answer("npz", lambda: read_arrays(path)), UserError)


def test_an_npz_that_unpacks_to_a_flood_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "oracle.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in NAMES:
            archive.writestr(f"{name}.npy", header("(25000000,)") + bytes(1 << 27))
    assert path.stat().st_size < 1 << 24
    assert "unpacks to more" in str(answer("npz", lambda: read_arrays(path)))


@pytest.mark.parametrize("size", [10**12, (10**6, 10**6), -1])
def test_a_pickled_array_is_never_larger_than_its_bytes(tmp_path: Path, size: Any) -> None:
    path = tmp_path / "oracle.pkl"
    whole = pickle.dumps(arrays(), protocol=2)
    shape = pickle.dumps(size if isinstance(size, tuple) else (size,), protocol=2)[2:-1]
    assert whole.count(b"K\x06K\x02\x86") == 1, "the embedding's shape"
    path.write_bytes(whole.replace(b"K\x06K\x02\x86", shape.partition(b"q")[0]))
    found = answer("pickle", lambda: sizes(read_arrays(path), path))
    assert isinstance(found, UserError)


@pytest.mark.parametrize("name", ["a\0b", "x" * 500, "/dev/zero", "/dev", "."])
def test_no_path_is_more_than_refused(name: str) -> None:
    assert isinstance(answer("paths", lambda: read_arrays(Path(name))), UserError)

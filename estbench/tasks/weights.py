"""Reading an oracle's parameters from a file that somebody else wrote.

The published oracle is a pickle of a list of arrays. A pickle may ask for any code to be run when
it is read, so this reader allows only the few names that pickles of NumPy arrays use, and
replaces them by its own classes: these keep their arguments, and make an array of them if they fit.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from estbench.core.errors import UserError
from estbench.core.reading import read_bytes
from estbench.models.lstm_generator import Generator
from estbench.tasks import filetypes
from estbench.tasks.filetypes import FileType, file_type

__all__ = ["NAMES", "file_hash", "load_into", "read_arrays", "sizes"]

NAMES = (
    "embedding",
    *(f"{kind}_{gate}" for gate in "ifoc" for kind in ("W", "U", "b")),
    "W_output",
    "b_output",
)
"""The arrays, in the order of the published pickle: embedding [V, E]; for the gates i, f, o, c
input weights [E, H], recurrent weights [H, H] and bias [H]; output weights [H, V] and bias [V]."""

LARGEST_FILE = 1 << 30
WANTED = f"a pickle or an .npz of {len(NAMES)} arrays"
CONVERT = "load it and write its arrays with numpy.savez (docs/seqgan.md has the code)"
GATES = "ifco"  # torch's order: input, forget, cell, output; c is the cell's candidate


class _Type:
    """A type of numbers, from a pickle."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    def numpy(self) -> np.dtype[Any]:
        """Return it, if it is one of plain numbers."""
        if not re.fullmatch(r"[fiu][1248]", str(self.code)) or self.order not in tuple("<>=|"):
            raise ValueError(f"an array is not of numbers but of {self.code!r:.40}")
        return np.dtype(self.order + self.code)


class _Array:
    """An array, from a pickle: its shape, type and bytes."""

    def __init__(self) -> None:
        self.shape: Any = ()
        self.type: Any = None
        self.fortran: Any = False
        self.content: Any = b""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, self.type, self.fortran, self.content = state

    def numpy(self) -> np.ndarray[Any, np.dtype[Any]]:
        """Return it; its shape has to be that of its bytes, so that it is never larger."""
        if not isinstance(self.type, _Type):
            raise ValueError("an array has no type")
        content = self.content
        if isinstance(content, str):  # as Python 2 wrote them
            content = content.encode("latin-1")
        if not isinstance(content, (bytes, bytearray)):
            raise ValueError("an array is not of numbers")
        flat = np.frombuffer(content, self.type.numpy())
        return flat.reshape(self.shape, order="F" if self.fortran else "C")


def _reconstruct(*_: Any) -> _Array:
    """How NumPy begins an array; its content follows as a state."""
    return _Array()


def _from_buffer(content: Any, kind: Any, shape: Any, order: Any = "C") -> _Array:
    """How NumPy writes an array in protocol 5."""
    array = _Array()
    array.__setstate__((1, shape, kind, order == "F", content))
    return array


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        allowed = ALLOWED.get((module.replace("numpy.core", "numpy._core"), name))
        if allowed is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return allowed


def _encode(text: str, encoding: str = "utf-8", errors: str = "strict") -> bytes:
    """How Python 2's bytes come back; no other codec is needed, and some of them cost much."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it asks for the codec {encoding}")
    return text.encode("latin-1", errors)


ALLOWED: Mapping[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("_codecs", "encode"): _encode,
}


def read_arrays(path: Path) -> list[np.ndarray[Any, np.dtype[Any]]]:
    """Return the 15 arrays of a file, in the order of ``NAMES``, as float32.

    Args:
      path: A pickle of a list of arrays, or an .npz with the names of ``NAMES`` (or with arr_0 ...
        arr_14).

    Raises:
      UserError: The file does not exist, or holds something else.
    """
    try:
        content = read_bytes(path, LARGEST_FILE)
    except IsADirectoryError:
        raise UserError(f"{path} is a directory: name the .pkl or .npz file itself") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; name a .pkl or .npz file") from None
    kind = file_type(content, path.name)
    if kind == filetypes.NPZ:
        entries = _npz(content, path)
    elif kind in PERHAPS_PICKLES:
        entries = _pickle(content, path, kind)
    else:
        raise _wrong_kind(path, kind)
    arrays = []
    for name, value in zip(NAMES, entries, strict=True):
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
            raise UserError(f"{path}: {name} is no array of numbers but {type(value).__name__}")
        with np.errstate(over="ignore"):
            array = value.astype(np.float32)
        if not np.isfinite(array).all():
            raise UserError(f"{path}: {name} holds a number that is not finite")
        arrays.append(array)
    return arrays


# Old pickles begin like text, and have no first bytes of their own.
PERHAPS_PICKLES = (
    filetypes.PICKLE,
    filetypes.LINE_ENDS,
    filetypes.JSON,
    filetypes.TEXT,
    filetypes.UNKNOWN,
)


def _wrong_kind(path: Path, kind: FileType) -> UserError:
    if kind.remedy:
        return UserError(f"{path} is {kind.name}: {kind.remedy}")
    return UserError(f"{path} is {kind.name}, and an oracle is {WANTED}: {CONVERT}")


def _pickle(content: bytes, path: Path, kind: FileType) -> Sequence[Any]:
    try:
        entries = _ArraysOnly(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # whatever a damaged or hostile pickle stumbles over
        raise _not_loaded(content, path, kind, error) from None
    listed = isinstance(entries, list | tuple)
    if not listed or len(entries) != len(NAMES):
        size = f"{len(entries)} entries" if listed else type(entries).__name__
        raise UserError(f"{path} holds {size}; an oracle is a list of {len(NAMES)} arrays")
    try:
        return [entry.numpy() if isinstance(entry, _Array) else entry for entry in entries]
    except Exception as error:
        raise UserError(f"{path} is no pickle of arrays ({_line(error)}): give {WANTED}") from None


def _not_loaded(content: bytes, path: Path, kind: FileType, error: Exception) -> UserError:
    """Return what is wrong with a file that could not be read as a pickle."""
    text = _line(error)
    if kind in (filetypes.TEXT, filetypes.JSON):
        return UserError(f"{path} is {kind.name}: give {WANTED}")
    if kind == filetypes.LINE_ENDS:
        return _wrong_kind(path, kind)
    if text.startswith("it asks for torch."):
        return _wrong_kind(path, FileType("a pickle of torch tensors"))
    if kind == filetypes.PICKLE and not text.startswith("it asks for"):
        return UserError(
            f"{path} is a damaged or truncated pickle ({len(content):,} bytes; {text}): "
            "download it again in binary mode"
        )
    return UserError(
        f"{path} is no pickle of arrays ({text}); nothing in it was run: give {WANTED}"
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _npz(content: bytes, path: Path) -> Sequence[Any]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(member.file_size for member in archive.infolist()) > LARGEST_FILE:
                raise ValueError(f"it unpacks to more than {LARGEST_FILE >> 20} MB")
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays: Mapping[str, Any] = {name: file[name] for name in file.files}
    except Exception as error:
        raise UserError(
            f"{path} is a damaged .npz file ({_line(error)}): download it again"
        ) from None
    numbered = [f"arr_{i}" for i in range(len(NAMES))]
    for names in (NAMES, numbered):
        if set(names) == set(arrays):
            return [arrays[name] for name in names]
    missing = [name for name in NAMES if name not in arrays]
    raise UserError(
        f"{path} lacks {', '.join(missing)}: an .npz oracle has {', '.join(NAMES)}"
        if missing
        else f"{path} holds more than an oracle's {len(NAMES)} arrays"
    )


def sizes(arrays: Sequence[np.ndarray[Any, np.dtype[Any]]], path: Path) -> tuple[int, int, int]:
    """Return vocabulary, embedding's width and LSTM's width of an oracle's arrays.

    Raises:
      UserError: An array has another shape than the others ask for.
    """
    by_name = dict(zip(NAMES, arrays, strict=True))
    embedding = by_name["embedding"]
    if embedding.ndim != 2:
        raise UserError(f"{path}: embedding has shape {list(embedding.shape)}; it must be [V, E]")
    V, E = embedding.shape
    H = by_name["b_i"].size
    for name, array in by_name.items():
        kind = name[0] if name not in ("embedding", "W_output", "b_output") else name
        wanted = {
            "embedding": (V, E),
            "W": (E, H),
            "U": (H, H),
            "b": (H,),
            "W_output": (H, V),
            "b_output": (V,),
        }[kind]
        if array.shape != wanted:
            raise UserError(
                f"{path}: {name} has shape {list(array.shape)}; it must be {list(wanted)}"
            )
    return V, E, H


@torch.no_grad()
def load_into(
    oracle: Generator, arrays: Sequence[np.ndarray[Any, np.dtype[Any]]], path: Path
) -> None:
    """Copy an oracle's arrays into a generator; token 0 is what a sequence starts from.

    The published model reads token 0 before the first position: its row is copied to the begin
    symbol's.

    Raises:
      UserError: They do not fit.
    """
    V, E, H = sizes(arrays, path)
    own = (oracle.vocabulary, oracle.input.in_features, oracle.hidden)
    if own != (V, E, H):
        raise UserError(f"{path} holds an oracle of V, E, H = {(V, E, H)}; wanted are {own}")
    by_name = {name: torch.from_numpy(a) for name, a in zip(NAMES, arrays, strict=True)}
    oracle.embedding.weight[:V] = by_name["embedding"]
    oracle.embedding.weight[V] = by_name["embedding"][0]
    oracle.input.weight.copy_(torch.cat([by_name[f"W_{g}"].t() for g in GATES]))
    oracle.input.bias.zero_()
    oracle.recurrence.weight.copy_(torch.cat([by_name[f"U_{g}"].t() for g in GATES]))
    oracle.recurrence.bias.copy_(torch.cat([by_name[f"b_{g}"] for g in GATES]))
    oracle.output.weight.copy_(by_name["W_output"].t())
    oracle.output.bias.copy_(by_name["b_output"])


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
      UserError: It cannot be read.
    """
    try:
        return hashlib.sha256(read_bytes(path, LARGEST_FILE)).hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None

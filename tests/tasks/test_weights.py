"""An oracle's parameters from a file: the published layout, and nothing that is not arrays."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import re
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from estbench import tasks
from estbench.core.errors import UserError
from estbench.models.lstm_generator import Generator
from estbench.tasks.weights import NAMES, load_into, read_arrays, sizes

V, E, H = 12, 3, 4


def arrays(seed: int = 0) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    shapes = [(V, E), *[(E, H), (H, H), (H,)] * 4, (H, V), (V,)]
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def written(folder: Path, content: Any, protocol: int = 2) -> Path:
    path = folder / "oracle.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def by_hand(given: list[np.ndarray[Any, Any]], tokens: list[int]) -> np.ndarray[Any, Any]:
    """Log-probabilities along a sequence, by the published equations, a gate at a time."""
    p = dict(zip(NAMES, (a.astype(np.float64) for a in given), strict=True))
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    h, c, rows = np.zeros(H), np.zeros(H), []
    for token in [0, *tokens[:-1]]:
        x = p["embedding"][token]
        i, f, o = (sigmoid(x @ p[f"W_{g}"] + h @ p[f"U_{g}"] + p[f"b_{g}"]) for g in "ifo")
        c = f * c + i * np.tanh(x @ p["W_c"] + h @ p["U_c"] + p["b_c"])
        h = o * np.tanh(c)
        logits = h @ p["W_output"] + p["b_output"]
        rows.append(logits - np.log(np.exp(logits).sum()))
    return np.array(rows)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_a_published_pickle_is_the_lstm_that_its_equations_say(
    tmp_path: Path, protocol: int
) -> None:
    path = written(tmp_path, arrays(), protocol)
    oracle = Generator(V, 5, embedding=E, hidden=H, dtype=torch.float64)
    found = read_arrays(path)
    assert sizes(found, path) == (V, E, H)
    load_into(oracle, found, path)
    tokens = [3, 0, 11, 7, 2]
    log_probs = oracle.log_probs(torch.tensor([tokens]))[0].detach().numpy()
    np.testing.assert_allclose(log_probs, by_hand(arrays(), tokens), atol=1e-6)


@pytest.mark.parametrize("named", [True, False])
def test_an_npz_says_the_same(tmp_path: Path, named: bool) -> None:
    path = tmp_path / "oracle.npz"
    if named:
        np.savez(path, **dict(zip(NAMES, arrays(), strict=True)))
    else:
        np.savez(path, *arrays())
    for a, b in zip(read_arrays(path), arrays(), strict=True):
        np.testing.assert_array_equal(a, b)


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch estbench-was-here",)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (Evil(), "system"),
        ([Evil()] * 15, "system"),
        ([np.array([Evil()], dtype=object)] * 15, "system"),
        (list(range(15)), "embedding is no array"),
        (arrays()[:14], "15 arrays"),
        ({"embedding": 1}, "15 arrays"),
        ([*arrays()[:14], np.zeros(V + 1, dtype=np.float32)], r"b_output has shape \[13\]"),
        ([*arrays()[:14], np.full(V, np.nan, dtype=np.float32)], "not finite"),
        ([*arrays()[:14], np.array(["a"] * V)], "not of numbers"),
        ([np.zeros((V, E, 1), dtype=np.float32), *arrays()[1:]], r"must be \[V, E\]"),
    ],
)
def test_anything_else_is_refused_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, content)
    with pytest.raises(UserError, match=says) as caught:
        sizes(read_arrays(path), path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "estbench-was-here").exists()


def zipped(entry: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(entry, pickle.dumps(arrays()))
    return content.getvalue()


def tarred() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("oracle.pkl"))
    return content.getvalue()


def saved_by_torch(new: bool) -> bytes:
    content = io.BytesIO()
    torch.save({"w": torch.zeros(3)}, content, _use_new_zipfile_serialization=new)
    return content.getvalue()


def safetensors() -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(4)


def one_array() -> bytes:
    content = io.BytesIO()
    np.save(content, np.zeros(3))
    return content.getvalue()


PICKLE = pickle.dumps(arrays(), protocol=2)
LINE_ENDS = "is a pickle whose line ends were converted (LF to CRLF): download it again in binary"
CONVERT = "load it and write its arrays with numpy.savez (docs/seqgan.md has the code)"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1334000\n"
OTHER_FILES = [
    *(
        (f"crlf-{n}.pkl", pickle.dumps(arrays(), protocol=n).replace(b"\n", b"\r\n"), LINE_ENDS)
        for n in (0, 1, 2, 3)
    ),
    ("utf8.pkl", PICKLE.decode("utf-8", "replace").encode(), "is a pickle that was saved as text"),
    ("latin.pkl", PICKLE.decode("latin-1").encode(), "is a pickle that was saved as text"),
    ("half.pkl", PICKLE[:200], "is a damaged or truncated pickle (200 bytes"),
    ("last.pkl", PICKLE[:-1], "is a damaged or truncated pickle"),
    ("empty.pkl", b"", "is empty: download it again"),
    ("page.pkl", b"\n<!DOCTYPE html>\n<html>", "is a web page (HTML): download the raw file"),
    ("pointer.pkl", LFS, "is a Git LFS pointer, which stands for a file that was not fetched: run"),
    ("error.pkl", b'<?xml version="1.0"?><Error/>', "is an XML document (perhaps a server's error"),
    ("text.pkl", b"404: Not Found\n", "is a text file: give a pickle or an .npz of 15 arrays"),
    ("a.json", b'{"embedding": [[1.0]]}', "is a JSON file: give a pickle or an .npz"),
    ("a.pkl.gz", gzip.compress(PICKLE), "is a gzip archive: unpack it and name the file inside"),
    ("a.pkl.bz2", bz2.compress(PICKLE), "is a bzip2 archive: unpack it"),
    ("a.pkl.xz", lzma.compress(PICKLE), "is an xz archive: unpack it"),
    ("a.tar", tarred(), "is a tar archive: unpack it"),
    ("a.zip", zipped("oracle.pkl"), "is a zip archive: unpack it"),
    ("half.npz", zipped("embedding.npy")[:-50], "is a damaged or truncated zip archive or .npz"),
    (
        "new.pt",
        saved_by_torch(new=True),
        f"is a torch checkpoint, and an oracle is a pickle or an .npz of 15 arrays: {CONVERT}",
    ),
    ("old.pt", saved_by_torch(new=False), "is a torch checkpoint"),
    ("tensors.pkl", pickle.dumps([torch.zeros(3)] * 15), "is a pickle of torch tensors"),
    ("a.safetensors", safetensors(), "is a safetensors file"),
    ("one.npy", one_array(), "is a single NumPy array (.npy)"),
    ("a.h5", b"\x89HDF\r\n\x1a\n" + bytes(9), "is an HDF5 file"),
    ("checkpoint", b'model_checkpoint_path: "a"\n', "is part of a TensorFlow checkpoint"),
    ("a.ckpt-3.data-00000-of-00001", b"\1\2\3", "is part of a TensorFlow checkpoint"),
    ("a.ckpt-3.index", bytes(9) + b"\x57\xfb\x80\x8b\x24\x75\x47\xdb", "TensorFlow checkpoint"),
]


@pytest.mark.parametrize(("name", "content", "says"), OTHER_FILES, ids=[f[0] for f in OTHER_FILES])
def test_a_file_of_another_kind_is_named_for_what_it_is(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(f"{path} ")) as caught:
        read_arrays(path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    damaged = tmp_path / "half.npz"
    np.savez(damaged, *arrays())
    content = bytearray(damaged.read_bytes())
    content[100:140] = bytes(40)
    damaged.write_bytes(bytes(content))
    lacking = tmp_path / "lacking.npz"
    np.savez(lacking, embedding=np.zeros((V, E)))
    for path, says in (
        (tmp_path / "nothing.pkl", "No such file"),
        (tmp_path, "is a directory: name the .pkl or .npz file itself"),
        (damaged, "damaged"),
        (lacking, "lacks W_i"),
    ):
        with pytest.raises(UserError, match=says):
            read_arrays(path)


class Lstm(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(V, E)
        self.lstm = torch.nn.LSTM(E, H, batch_first=True)
        self.output = torch.nn.Linear(H, V)


def test_the_page_converts_a_torch_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Path(__file__).parents[2] / "docs" / "seqgan.md"
    code = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    model = Lstm()
    torch.save(model.state_dict(), "oracle.pt")
    exec(code[0], {})
    oracle = Generator(V, 5, embedding=E, hidden=H)
    load_into(oracle, read_arrays(Path("oracle.npz")), Path("oracle.npz"))
    tokens = torch.tensor([[3, 0, 11, 7, 2]])
    after, _ = model.lstm(model.embedding(torch.tensor([[0, 3, 0, 11, 7]])))
    torch.testing.assert_close(oracle.log_probs(tokens), model.output(after).log_softmax(dim=2))


@given(st.binary(max_size=400), st.booleans())
@settings(max_examples=300, deadline=None)
def test_no_bytes_do_more_than_be_refused(
    tmp_path_factory: Any, noise: bytes, inside: bool
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "oracle.pkl"
    whole = pickle.dumps(arrays())
    path.write_bytes(whole[: len(noise)] + noise + whole[2 * len(noise) :] if inside else noise)
    try:
        found = read_arrays(path)
    except UserError:
        return
    assert len(found) == len(NAMES)


def test_the_task_takes_the_file_and_checks_its_size(tmp_path: Path) -> None:
    path = written(tmp_path, arrays())
    chosen = {"vocabulary": V, "length": 6, "oracle_width": H, "quality_sequences": 50}
    with pytest.raises(UserError, match="embedding 3 and LSTM 4"):
        tasks.task_class("oracle").check(
            tasks.info("oracle"), oracle_weights=str(path), oracle_seed=0, **chosen
        )
    square = arrays()
    rng = np.random.default_rng(1)
    square[0] = rng.standard_normal((V, H)).astype(np.float32)
    square[1:13:3] = [rng.standard_normal((H, H)).astype(np.float32) for _ in range(4)]
    path = written(tmp_path, square)
    task = tasks.make("oracle", 0, 30, oracle_weights=str(path), **chosen)
    assert task.train.shape == (30, 6)
    other = tasks.make("oracle", 0, 30, **chosen)
    assert not torch.equal(task.train, other.train)

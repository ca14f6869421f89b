"""TOML files, corpora, plugins and remembered verdicts from elsewhere."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from estbench.cli import main
from estbench.config import presets
from estbench.config.experiment import Experiment
from estbench.config.validation import parse_seeds
from estbench.core.errors import UserError
from estbench.meter.bias import BiasResult
from estbench.meter.blocks import Look
from estbench.proof import gate
from estbench.proof.judging import BiasFinding
from estbench.tasks import corpus

from .conftest import replaced
from .mutations import DEEP, NAMES, NUMBERS, damaged, documents
from .rule import answer, check_line, in_time, inputs, tally

TOML = """
preset = "bench"
name = "mine"
description = "two lines"
tasks = ["expressions-3", "oracle-small"]
estimators = ["reinforce", "relax"]
also_measured = ["rloo"]
seeds = "0-4,7"
device = "cpu"

[training]
batches = 10
generator_learning_rate = 1e-3
reward = "log_p"
data = "poems.txt"

[per_task.oracle-small]
batches = 20

[snapshots]
sequences = 512

[timing]
rounds = 2
seconds = 3.5
"""

VALUES = st.one_of(
    st.sampled_from([n for n in NUMBERS if n == n]).map(str),
    st.sampled_from(NAMES).map(lambda text: json.dumps(text.encode("utf-8", "replace").decode())),
    st.sampled_from(["nan", "inf", "-inf", "0x" + "f" * 9000, "9" * 6000, "1e999", "true", "[]"]),
    st.sampled_from(["{}", "[[1]]", '["a", 1]', "1979-05-27", '"""x\ny"""', '"0-9999," * 3']),
    st.just("[" * DEEP + "]" * DEEP),
    st.just('"' + "0-9999," * 3000 + '1"'),
)


@st.composite
def toml(draw: st.DrawFn) -> bytes:
    """A valid file with a few values replaced, or with damaged bytes."""
    lines = TOML.strip().splitlines()
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(lines) - 1))
        key, equals, _ = lines[at].partition(" = ")
        if equals:
            lines[at] = f"{key} = {draw(VALUES)}"
        elif draw(st.booleans()):
            name = draw(st.sampled_from(NAMES)).encode("utf-8", "replace").decode()
            lines[at] = f"[per_task.{json.dumps(name)}]"
    content = "\n".join(lines).encode()
    return draw(damaged(content)) if draw(st.integers(0, 3)) == 0 else content


@inputs(200)
@given(content=toml())
def test_a_toml_file_is_an_experiment_or_a_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "mine.toml"
    path.write_bytes(content)
    found = answer("TOML", lambda: presets.read(path))
    if isinstance(found, UserError):
        assert str(path) in str(found)
    else:
        assert isinstance(found, Experiment)
        assert not any("/" in name for name in (*found.tasks, *found.measured, *found.per_task))


@pytest.mark.parametrize(
    "content", [TOML.encode(), b"\xff\xfe", b"a = " + b"[" * DEEP, b"\x1b[2J=1"]
)
def test_the_command_line_says_one_line_that_steers_no_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("\x1b[31mevil.toml").write_bytes(content.replace(b"relax", b"rel\\u001b[31max"))
    with in_time():
        assert main(["run", "\x1b[31mevil.toml"]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "\x1b" not in said
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "large"])
def test_what_is_no_file_is_refused_as_toml_and_as_plugin(
    tmp_path: Path, capsys: Any, kind: str
) -> None:
    path = tmp_path / "thing"
    {
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "device": lambda: path.symlink_to("/dev/zero"),
        "large": lambda: path.write_bytes(b"#" * (2 << 20)),
    }[kind]()
    for words in (["run", str(path)], ["list", "estimators", "--plugin", str(path)]):
        with in_time():
            assert main(words) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


PLUGINS = [
    *(b"", b"\xff\xfe\x00", b"a\0b", b"(" * DEEP, b"x = " + b"-" * DEEP + b"1", b"def f(:\n"),
    *(b"# coding: nonsense\n", b"raise SystemExit(3)\n", b"1/0\n", b"import estbench.nowhere\n"),
    b"import estbench\nestbench.register(3)\n",
]


@pytest.mark.parametrize("content", PLUGINS)
def test_a_broken_plugin_is_one_line(tmp_path: Path, capsys: Any, content: bytes) -> None:
    path = tmp_path / "mine.py"
    path.write_bytes(content)
    for words in (["list", "estimators", "--plugin"], ["check", "--plugin"]):
        with in_time():
            assert main([*words, str(path)]) == 2
        said = capsys.readouterr()
        assert len(said.err.splitlines()) == 1
        check_line(said.err)


@inputs(200)
@given(text=st.text(alphabet="0123456789,-  a٣²\0", max_size=40))
def test_seeds_are_a_list_or_a_line(text: str) -> None:
    found = answer("seeds", lambda: parse_seeds(text, "--seeds"))
    assert isinstance(found, UserError) or all(type(seed) is int for seed in found)


LINES = ("the cat sat on the mat\n" * 3 + "a dog ran to the tree\n" * 4 + "é “q” 語\n" * 5).encode()


@inputs(150)
@given(content=damaged(LINES), level=st.sampled_from(["words", "characters"]))
def test_a_corpus_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, level: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "corpus.txt"
    path.write_bytes(content)
    found = answer("corpora", lambda: corpus.load(str(path), level))
    if not isinstance(found, UserError):
        assert len(found.sequences) >= 10
        assert found.sequences.max() < found.vocabulary


@pytest.mark.parametrize("name", [*NAMES[2:], "/dev/zero", "/dev/tty", "~" * 300, "~nobody/x"])
def test_no_name_of_a_corpus_is_more_than_refused(name: str) -> None:
    assert isinstance(answer("corpora", lambda: corpus.load(name)), UserError)


CONFIGURATION = gate.Configuration("rloo", "p", 0, 0)


def test_a_remembered_verdict_is_believed_or_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    look = Look(24_576, 0.004, 0.0, 0.011, 0.012, 1.003, 0.4, {"norm": 0.3, "gradient": 0.5})
    findings = {}
    for name in gate._cases(CONFIGURATION):
        plan = gate.plan_of(CONFIGURATION, name)
        result = BiasResult("unbiased", "", (look,), plan.margin, plan.alpha)
        findings[name] = BiasFinding(name, "fresh", result, 1.0)
    proof = gate.Proof(CONFIGURATION, "unbiased", "", gate.key_of(CONFIGURATION), findings=findings)
    gate.remember(proof)
    (path,) = tmp_path.rglob("*.json")
    known = gate.remembered(CONFIGURATION)
    assert known is not None
    assert known.verdict == "unbiased"

    @inputs(150)
    @given(content=documents(json.loads(path.read_bytes())))
    def run(content: bytes) -> None:
        tally["verdicts"] += 1
        with replaced(path, content), in_time():
            found = gate.remembered(CONFIGURATION)
        if found is None:
            tally["verdicts refused"] += 1
        else:
            assert found.configuration == CONFIGURATION
            json.dumps(found.as_dict(), allow_nan=False).encode()
            assert isinstance(found.detail, str)

    run()
    path.unlink()
    os.mkfifo(path)
    with in_time():
        assert gate.remembered(CONFIGURATION) is None

"""The gate: what is not proven is not run, verdicts are kept, and what slips past is marked."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from estbench import presets
from estbench.cli import main
from estbench.estimators import base
from estbench.proof import gate
from estbench.proof.gate import Configuration, Proof

RLOO = Configuration("rloo", "p", 0, 0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "estbench" / "proofs"


def test_every_configuration_of_an_experiment_once() -> None:
    experiment = presets.preset(
        "bench", {"tasks": ["expressions-3", "oracle-small"], "estimators": ["rloo", "relax"]}
    )
    found = gate.configurations(experiment)
    assert len(found) == len(set(found)) == len(experiment.measured)
    assert RLOO in found
    own = {"oracle-small": {"rollouts": 4}}
    found = gate.configurations(replace(experiment, per_task=own))
    assert Configuration("rloo", "p", 4, 0) in found
    assert len(found) == 2 * len(experiment.measured)


@pytest.mark.parametrize("transform", ["p", "log_p", "logit", "exp_p"])
def test_leave_one_out_is_proven_with_every_reward(transform: str) -> None:
    proof = gate.prove(replace(RLOO, reward=transform))
    assert proof.verdict == "unbiased", proof.detail
    assert proof.ranked
    assert proof.passes


def test_rollouts_are_part_of_what_is_proven() -> None:
    proof = gate.prove(Configuration("reinforce-ema", "p", 2, 0))
    assert proof.verdict == "unbiased", proof.detail


@pytest.mark.parametrize(
    "given", [Configuration("biased-joint", "p", 0, 0), Configuration("rloo", "p", 0, 2)]
)
def test_declared_bias_is_believed_and_not_ranked(given: Configuration) -> None:
    proof = gate.prove(given)
    assert proof.verdict == "declared biased"
    assert proof.passes
    assert not proof.ranked
    assert proof.detail


def proof_of(given: Configuration, verdict: str = "unbiased") -> Proof:
    return Proof(given, verdict, "a test's", gate.key_of(given))


def test_a_verdict_is_kept_until_what_it_depends_on_changes(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gate.remembered(RLOO) is None
    gate.remember(proof_of(RLOO))
    assert gate.remembered(RLOO) == proof_of(RLOO)
    assert gate.remembered(replace(RLOO, rollouts=2)) is None

    monkeypatch.setattr("torch.__version__", "0.0")
    assert gate.remembered(RLOO) is None
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(own_cache.parents[1]))
    assert gate.remembered(RLOO)
    monkeypatch.setattr(gate, "_code", lambda: "another")
    assert gate.remembered(RLOO) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"configuration": 3}', "null"])
def test_a_damaged_memory_is_none(own_cache: Path, text: str) -> None:
    gate.remember(proof_of(RLOO))
    (path,) = own_cache.glob("*.json")
    path.write_text(text)
    assert gate.remembered(RLOO) is None


def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    gate.remember(proof_of(RLOO))
    assert gate.remembered(RLOO) is None


def test_only_what_is_not_remembered_is_proven() -> None:
    gate.remember(proof_of(RLOO))
    told: list[str] = []
    wanted = [RLOO, Configuration("biased-joint", "p", 0, 0)]
    proofs = gate.proven(wanted, workers=1, tell=lambda p, done, of: told.append(p.verdict))
    assert [p.configuration for p in proofs] == wanted
    assert [p.verdict for p in proofs] == ["unbiased", "declared biased"]
    assert told == ["declared biased"]


WRONG = """
    from dataclasses import replace
    import estbench
    from estbench.estimators.score_function import Reinforce

    @estbench.register
    class Wrong(Reinforce):
        def __init__(self):
            super().__init__("wrong", "none")

        def surrogate(self, *given):
            found = super().surrogate(*given)
            return replace(found, weights=0.9 * found.weights)
"""
SMALL = """
    preset = "smoke"
    tasks = ["expressions-3"]
    estimators = ["wrong"]
    also_measured = ["reinforce-ema"]
    seeds = 1
    [timing]
    rounds = 0
"""


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An estimator that is biased by a tenth and says it is not."""
    path = tmp_path_factory.mktemp("plugin") / "wrong.py"
    path.write_text(textwrap.dedent(WRONG))
    yield path
    base._REGISTRY.pop("wrong", None)


@pytest.fixture
def wrong(plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A run of it, small."""
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(textwrap.dedent(SMALL))
    return ["run", "small.toml", "--plugin", str(plugin), "--jobs", "1"]


def test_what_is_not_proven_is_not_run(
    wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(wrong) == 1
    said = capsys.readouterr().err
    assert "estbench: wrong (reward p) is biased: " in said
    assert "relative bias" in said
    assert "--no-gate" in said
    assert not list(Path("results").rglob("*.json"))


def test_an_open_gate_lets_it_pass_and_marks_it(
    wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*wrong, "--no-gate"]) == 0
    printed = capsys.readouterr().out
    assert "wrong ‡" in printed
    proofs = json.loads(Path("results/small/proofs.json").read_text())
    assert {p["configuration"]["estimator"]: p["verdict"] for p in proofs} == {
        "wrong": "not proven",
        "reinforce-ema": "not proven",
    }
    page = Path("results/small/report.html").read_text()
    assert "wrong is not ranked: it was never proven unbiased" in page
    assert "‡" in page
    captions = json.loads(Path("results/small/figures/captions.json").read_text())
    assert any("‡ not ranked: " in entry["caption"] for entry in captions.values())

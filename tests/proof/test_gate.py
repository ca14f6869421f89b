"""The gate: what is not proven is not run, verdicts are kept, and what slips past is marked."""

from __future__ import annotations

import json
import os
import stat
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from estbench.cli import main
from estbench.config import presets
from estbench.core.registry import ESTIMATORS
from estbench.estimators.base import Surrogate
from estbench.estimators.score_function import Reinforce
from estbench.meter.bias import BiasResult
from estbench.meter.blocks import Look
from estbench.proof import gate
from estbench.proof.gate import Configuration, Proof
from estbench.proof.judging import ALPHA, BiasFinding
from estbench.store.private import distrusted

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


LOOK = Look(24_576, 0.004, 0.0, 0.011, 0.012, 1.003, 0.4, {"norm": 0.3, "gradient": 0.5})
NAMES = tuple(gate._cases(RLOO))
RESULT = BiasResult(
    "unbiased", "", (LOOK,), gate.PLAN.margin, gate.plan_of(RLOO, "autoregressive").alpha
)
WRONG_LOOK = Look(24_576, 2.0, 1.99, 2.01, 2.02, 3.0, 0.4, {"norm": 5e-7, "gradient": 0.0})
WRONG_RESULT = replace(RESULT, verdict="biased", found_by="gradient", looks=(WRONG_LOOK,))


def proof_of(given: Configuration, result: BiasResult = RESULT, detail: str = "") -> Proof:
    detail = detail or (
        "autoregressive < 1.20%, expressions-3 < 1.20%, 8 of independent tokens < 1.20%"
    )
    findings = {name: BiasFinding(name, "fresh", result, 1.0) for name in NAMES}
    reach = "V up to 5, T up to 3, without end token or prompts"
    return Proof(given, result.verdict, detail, gate.key_of(given), reach, findings)


def test_a_verdict_is_kept_until_what_it_depends_on_changes(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gate.remembered(RLOO) is None
    gate.remember(proof_of(RLOO))
    found = gate.remembered(RLOO)
    assert found == proof_of(RLOO)
    assert found.findings == proof_of(RLOO).findings
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


def test_a_user_without_a_home_has_no_cache_and_that_is_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    gate.remember(proof_of(RLOO))
    assert gate.remembered(RLOO) is None


def test_only_what_is_not_remembered_is_proven() -> None:
    gate.remember(proof_of(RLOO))
    told: list[str] = []
    wanted = [RLOO, Configuration("biased-joint", "p", 0, 0)]
    proofs = gate.proven(wanted, workers=1, tell=lambda p, done, of: told.append(p.verdict))
    assert [p.configuration for p in proofs] == wanted
    assert [p.verdict for p in proofs] == ["unbiased", "declared biased"]
    assert told == [], "a declaration is believed at once"


def test_what_went_wrong_is_not_remembered() -> None:
    failed = BiasFinding("autoregressive", "fresh", None, 1.0, error="MemoryError")
    proof = Proof(
        RLOO, "undecided", "MemoryError", gate.key_of(RLOO), "", {"autoregressive": failed}
    )
    gate.remember(proof)
    assert gate.remembered(RLOO) is None


def test_a_bias_that_was_found_is_remembered_with_where_it_was_found() -> None:
    gate.remember(proof_of(RLOO, WRONG_RESULT))
    found = gate.remembered(RLOO)
    assert found is not None
    assert found.verdict == "biased"
    assert found.detail.startswith("autoregressive: biased: relative bias 200.00%")


def planted(own_cache: Path, edit: Callable[[dict[str, Any]], object]) -> Proof | None:
    """What is remembered after somebody has edited an honest memory of a wrong estimator."""
    gate.remember(proof_of(RLOO, WRONG_RESULT))
    (path,) = own_cache.glob("*.json")
    document = json.loads(path.read_bytes())
    edit(document)
    path.write_text(json.dumps(document))
    return gate.remembered(RLOO)


def verdicts(document: dict[str, Any], **figures: object) -> None:
    """Call every finding unbiased, with some other figures."""
    for finding in document["findings"].values():
        finding["result"] |= {"verdict": "unbiased", "found_by": ""}
        finding["result"]["looks"][0] |= figures


HIGH = {"norm": 0.5, "gradient": 0.5}


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(lambda d: d.update(verdict="unbiased"), id="a verdict beside the figures"),
        pytest.param(verdicts, id="the verdict alone"),
        pytest.param(lambda d: verdicts(d, p_values=HIGH), id="no test rejects"),
        pytest.param(lambda d: verdicts(d, p_values=HIGH, upper=0.01), id="and a low limit"),
        pytest.param(
            lambda d: verdicts(d, p_values=HIGH, upper=0.01, low=0.0, high=0.01, relative_bias=0.0),
            id="and no bias, yet a projection of three",
        ),
        pytest.param(lambda d: d.update(findings={}), id="no findings"),
        pytest.param(
            lambda d: [f["result"].update(margin=3.0) for f in d["findings"].values()],
            id="a margin of three",
        ),
        pytest.param(
            lambda d: [f["result"].update(alpha=1e-9) for f in d["findings"].values()],
            id="a test that never rejects",
        ),
        pytest.param(
            lambda d: [f["result"].update(looks=[]) for f in d["findings"].values()],
            id="no looks",
        ),
    ],
)
def test_a_planted_verdict_is_not_believed_where_its_figures_are_three_times_off(
    own_cache: Path, edit: Callable[[dict[str, Any]], object]
) -> None:
    found = planted(own_cache, edit)
    assert found is None or found.verdict == "biased"


def test_one_problem_of_two_is_no_proof(own_cache: Path) -> None:
    gate.remember(proof_of(RLOO))
    (path,) = own_cache.glob("*.json")
    document = json.loads(path.read_bytes())
    del document["findings"]["expressions-3"]
    path.write_text(json.dumps(document))
    assert gate.remembered(RLOO) is None


def test_a_verdict_of_another_source_is_not_believed(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.remember(proof_of(RLOO))
    monkeypatch.setattr("estbench.core.plugins.source_hash", lambda name: "another source")
    assert gate.remembered(RLOO) is None


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_cache_that_others_may_write_to_is_not_used_and_a_line_says_so(
    own_cache: Path, mode: int
) -> None:
    gate.remember(proof_of(RLOO))
    (path,) = own_cache.glob("*.json")
    assert not distrusted()
    for place in (path, own_cache, own_cache.parent):
        before = place.stat().st_mode
        place.chmod(mode)
        assert gate.remembered(RLOO) is None
        if place != path:
            assert "others may write to it" in distrusted()
            assert str(place) in distrusted()
        place.chmod(before)
    assert gate.remembered(RLOO)


def test_a_cache_of_somebody_else_is_not_used(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.remember(proof_of(RLOO))
    monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)
    assert gate.remembered(RLOO) is None
    assert "belongs to somebody else" in distrusted()
    (path,) = own_cache.glob("*.json")
    before = path.read_bytes()
    gate.remember(proof_of(RLOO, WRONG_RESULT))
    assert path.read_bytes() == before


def test_the_cache_is_for_the_user_alone(own_cache: Path) -> None:
    before = os.umask(0o000)
    try:
        gate.remember(proof_of(RLOO))
    finally:
        os.umask(before)
    (path,) = own_cache.glob("*.json")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for folder in (own_cache, own_cache.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_cache_lies_in_no_folder_that_depends_on_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", ".")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    gate.remember(proof_of(RLOO))
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


class Spoiled(Reinforce):
    """REINFORCE whose weights something is done to; it declares itself unbiased."""

    def __init__(self, spoil: Callable[[Surrogate], Surrogate]) -> None:
        super().__init__("spoiled", "none")
        self.spoil = spoil

    def surrogate(self, *given: Any) -> Surrogate:
        return self.spoil(super().surrogate(*given))


def discounted(found: Surrogate) -> Surrogate:
    """A discount of .99, as if the reward came at the last token."""
    T = found.weights.shape[1]
    powers = 0.99 ** torch.arange(T - 1, -1, -1, dtype=found.weights.dtype)
    return replace(found, weights=powers * found.weights)


def clipped(found: Surrogate) -> Surrogate:
    return replace(found, weights=found.weights.clamp(-1, 1))


def with_entropy(found: Surrogate) -> Surrogate:
    """A bonus of .001 on the entropy of each sequence."""
    bonus = -0.001 * found.log_probs.detach().sum(dim=1, keepdim=True)
    return replace(found, weights=found.weights + bonus)


@pytest.mark.parametrize("spoil", [discounted, clipped, with_entropy])
def test_small_faults_are_found(spoil: Callable[[Surrogate], Surrogate], own: None) -> None:
    ESTIMATORS.entries["spoiled"] = partial(Spoiled, spoil)
    proof = gate.prove(replace(RLOO, estimator="spoiled"))
    assert proof.verdict == "biased", proof.detail
    assert not proof.reach


@pytest.fixture
def own() -> Iterator[None]:
    yield
    ESTIMATORS.entries.pop("spoiled", None)


def test_a_proof_says_what_it_was_proven_for_and_all_its_tests_share_the_error_rate() -> None:
    proof = gate.prove(RLOO)
    assert proof.reach == "V up to 5, T up to 3, without end token or prompts"
    results = [found.result for found in proof.findings.values() if found.result]
    assert len(results) == 10
    assert sum(result.alpha for result in results) == pytest.approx(ALPHA)
    assert "reach" in proof.as_dict()
    binary = gate.prove(replace(RLOO, estimator="arm"))
    assert binary.reach.startswith("V up to 2, T up to 4")


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
    ESTIMATORS.entries.pop("wrong", None)


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

"""The pages on estimators name what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from estbench import estimators
from estbench.checks import check
from estbench.index import FILES, index
from estbench.proof.checking import by_name, started

PAGES = Path(__file__).parents[2] / "docs" / "estimators"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_is_generated_is_up_to_date(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == FILES[path](), "type: python -m estbench.index"


def test_every_estimator_stands_in_the_table_once() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|", index(), flags=re.MULTILINE)
    own = [
        name
        for name in estimators.names()
        if type(estimators.make(name)).__module__.startswith("estbench.estimators.")
    ]
    assert sorted(rows) == sorted(own)


def test_every_relaxed_and_control_estimator_is_described() -> None:
    for page, modules in (("relaxed.md", ["relaxed"]), ("controls.md", ["perturbation", "exact"])):
        text = (PAGES / page).read_text()
        for name in estimators.names():
            if type(estimators.make(name)).__module__.rpartition(".")[2] in modules:
                assert f"`{name}`" in text, f"{page} lacks {name}"


def test_all_that_is_wrong_on_purpose_declares_itself_a_control() -> None:
    """Of the published ones REINFORCE is unbiased, and nothing to be found out."""
    for name in estimators.names():
        method = estimators.make(name)
        module = type(method).__module__.rpartition(".")[2]
        wrong = module.startswith(("controls", "coupled_controls", "published"))
        assert method.info.control == (wrong and name != "reinforce-published"), name
        assert not (method.info.control and method.info.unbiased), name
    controls = index().split("## [Wrong on purpose")[1]
    assert "`relax-published`" in controls
    assert "`reinforce-published`" not in controls


@pytest.mark.parametrize(
    ("name", "code"),
    [
        *((name, 1) for name in estimators.names() if estimators.info(name).control),
        ("rebar-published@joint", 1),
        ("relax-published@sign+untrained", 1),
        # Their bias may be too small to be found; the lagging copy of a policy that stands still
        # does not even lag.
        ("seqgan-rollouts-lagged", 0),
        ("evolution-strategies", 0),
        ("grpo", 0),
    ],
)
def test_a_control_that_is_not_found_biased_fails_the_check(
    name: str, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    result = started(by_name(name))
    assert result.verdict == "not found"
    monkeypatch.setattr("estbench.proof.running.check_many", lambda *_, **__: [(name, result)])
    assert check([name], out=tmp_path, as_json=True) == code
    lost = "a negative control, and no bias was found: the test has lost its power"
    assert result.complaints() == [lost] * code

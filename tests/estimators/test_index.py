"""The pages on estimators name what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from estbench import estimators
from estbench.cli.checks import check
from estbench.cli.index import FILES, index
from estbench.core.registry import ESTIMATORS
from estbench.estimators.base import Section
from estbench.proof.checking import by_name, started

FAULTY = ("rebar-published", "relax-published")
PAGES = Path(__file__).parents[2] / "docs" / "estimators"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_is_generated_is_up_to_date(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == FILES[path](), "type: make index"


def test_every_estimator_stands_in_the_table_once() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|", index(), flags=re.MULTILINE)
    own = [
        name
        for name in estimators.names()
        if type(estimators.make(name)).__module__.startswith("estbench.estimators.")
    ]
    assert sorted(rows) == sorted(own)


@pytest.mark.parametrize("name", ESTIMATORS.own_names())
def test_every_estimator_says_its_equation(name: str) -> None:
    written = [kind.__doc__ or "" for kind in type(estimators.make(name)).__mro__]
    assert any(re.search(r"\bg(_k)? = ", text) for text in written)


@pytest.mark.parametrize("section", [Section.RELAXED, Section.WITHOUT_DERIVATIVE])
def test_every_member_of_a_section_is_described_on_its_page(section: Section) -> None:
    text = (PAGES / section.value[1]).read_text()
    for name in estimators.names():
        if estimators.make(name).section == section:
            assert f"`{name}`" in text, f"{section.value[1]} lacks {name}"


def test_all_that_is_wrong_on_purpose_declares_itself_a_control() -> None:
    for name in estimators.names():
        info = estimators.info(name)
        assert not (info.control and info.unbiased), name
        assert info.control == (name.startswith("biased-") or name in FAULTY), name
    controls = index().split("## [Wrong on purpose")[1]
    assert all(f"`{name}`" in controls for name in FAULTY)


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

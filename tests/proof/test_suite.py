"""parametrize_with_checks: the check as pytest cases of a user's own suite."""

from __future__ import annotations

import sys

import pytest

import estbench

pytest_plugins = "pytester"

OWN = """
import estbench

def right(rewards):
    return rewards - (rewards.sum() - rewards) / (len(rewards) - 1)

def wrong(rewards):
    return rewards - rewards.mean()

def costly():
    made = estbench.Recipe(advantages=right, group=2, name="costly")
    made.info = estbench.EstimatorInfo("costly", "", "", group=2, hard_evals="3")
    return made

@estbench.parametrize_with_checks([
    estbench.Recipe(advantages=right, group=2),
    estbench.Recipe(advantages=wrong, group=2),
    costly,
    "biased-joint",
    "grpo-2",
])
def test_mine(estimator, check):
    check(estimator)
"""


@pytest.mark.sentinel
def test_every_rule_and_problem_is_a_case_with_a_name(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(OWN)
    found = pytester.inline_run("--collect-only", "-p", "no:cacheprovider")
    names = {item.name for call in found.getcalls("pytest_itemcollected") for item in [call.item]}
    assert {
        "test_mine[right-alone-or-beside-others]",
        "test_mine[right-autoregressive-fresh]",
        "test_mine[costly-variance-on-autoregressive]",
        "test_mine[biased-joint-bias]",
    } <= names
    assert not any(name.startswith("test_mine[grpo-2-bernoulli") for name in names)


@pytest.mark.sentinel
def test_a_case_passes_fails_or_is_skipped(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(OWN)
    chosen = (
        "right-contract or right-learns or right-bernoulli-.5-.45 or wrong-bernoulli-.5-.45 "
        "or costly-declared-cost"
    )
    done = pytester.runpytest("-p", "no:cacheprovider", "-k", chosen, "-rs")
    done.assert_outcomes(passed=2, failed=2, skipped=1)
    done.stdout.fnmatch_lines_random(
        [
            "bernoulli-.5-.45, fresh: biased: relative bias 5*",
            "declared cost: it declares 3 hard reward evaluations a draw, which is 3 *",
            "SKIPPED*nothing is learned",
        ]
    )


def test_a_controls_bias_has_to_be_found(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(OWN)
    done = pytester.runpytest("-p", "no:cacheprovider", "-k", "biased-joint-bias")
    done.assert_outcomes(passed=1)


@pytest.mark.sentinel
def test_without_pytest_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytest", None)
    with pytest.raises(estbench.UserError, match="pip install pytest"):
        estbench.parametrize_with_checks(["rloo"])


@pytest.mark.sentinel
def test_estimators_come_in_a_list() -> None:
    with pytest.raises(estbench.UserError, match="takes a list"):
        estbench.parametrize_with_checks("rloo")

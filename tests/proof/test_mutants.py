"""Faults seeded in copies of every family are found, with settings fixed beforehand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from estbench.estimators.base import Estimator
from estbench.proof.judging import cases, judge, plan_for
from estbench.proof.problems import problems_for
from estbench.proof.rules import RULES, conduct
from estbench.proof.variance import judge_variance

from .coupled_mutants import COUPLED
from .mutants import KINDS, MUTANTS, OTHER, Mutant, family, spoiled
from .trainer_mutants import TRAINERS

# Not the whole check, for time: the problems on which most faults show, then conduct and variance,
# then a penalty in the reward and the paper's own networks.
PROBLEMS = ("autoregressive", "autoregressive-binary", "categorical-rough")
LAST = ("kl", "expressions-3-float32")
ALL = (*MUTANTS, *COUPLED, *TRAINERS)
CASES = [(mutant, name) for mutant in ALL for name in mutant.estimators]
FIRST = {mutant.kind: (mutant, name) for mutant, name in reversed(CASES)}
"""One fault of each kind."""


@pytest.mark.parametrize(
    ("mutant", "name"),
    [
        pytest.param(
            *case,
            id=f"{case[1]}: {case[0].fault}",
            marks=[pytest.mark.sentinel] if case in FIRST.values() else [],
        )
        for case in CASES
    ],
)
def test_a_fault_is_found(mutant: Mutant, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    assert found_by(spoiled(mutant, monkeypatch)[name], mutant.unseen, said), "\n".join(said)


def found_by(make: Callable[[], Estimator], unseen: bool, said: list[str]) -> str:
    """Return the part of the check that finds a fault, or ""; what was seen is added to ``said``.

    A fault that raises an error is none: it would be found by anybody.
    """
    # Tests of bias go through all their draws before they call anything unbiased.
    if unseen and broken_rule(make, said):
        return "conduct"
    if found_biased(make, PROBLEMS, said):
        return "bias"
    if not unseen and broken_rule(make, said):
        return "conduct"
    variance = judge_variance(make, PROBLEMS[0])
    said.append(f"variance: {variance}")
    if variance and not variance.error and not variance.agrees:
        return "variance"
    return "bias" if found_biased(make, LAST, said) else ""


def broken_rule(make: Callable[[], Estimator], said: list[str]) -> bool:
    for rule in RULES:
        (found,) = conduct(make, [rule])
        if found.kept is False:
            said.append(f"{rule}: {found.detail}")
            return True
    return False


def found_biased(make: Callable[[], Estimator], problems: Sequence[str], said: list[str]) -> bool:
    plan = plan_for(0.02, 20)
    asked = [name for name in problems_for(make()) if name in problems]
    for problem, how in reversed(cases(make(), asked)):
        found = judge(make, problem, how, plan)
        said.append(f"{problem}, {how}: {found.result or found.error}")
        assert not found.error, found.error
        if found.result and found.result.verdict == "biased":
            return True
    return False


def test_every_family_has_five_kinds_of_faults() -> None:
    kinds: dict[str, set[str]] = {}
    for mutant, name in CASES:
        kinds.setdefault(family(name), set()).add(mutant.kind)
    assert set(kinds) == {
        "score function",
        "baselines and critics",
        "RLOO",
        "rollouts",
        "sums over actions",
        "sets",
        "MuProp",
        "trainers",
        "coupled tokens",
        "Stein operators and slopes",
        "REBAR, form A",
        "REBAR, form B",
        "RELAX",
    }
    for name, found in kinds.items():
        assert len(found & set(KINDS)) >= 5, f"{name}: {found}"
    assert {mutant.kind for mutant in ALL} <= {*KINDS, OTHER}

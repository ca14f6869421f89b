"""Faults seeded in copies of every family are found, with settings fixed beforehand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from estbench.estimators.base import Estimator
from estbench.proof.conduct import conduct
from estbench.proof.judging import cases, judge, plan_for

from .mutants import MUTANTS, Mutant, spoiled

# Not the whole check, for time: the problems on which most faults show, then conduct, then the
# paper's own networks.
PROBLEMS = ("autoregressive", "categorical-rough")
LAST = ("expressions-3-float32",)
CASES = [(mutant, name) for mutant in MUTANTS for name in mutant.estimators]


@pytest.mark.parametrize(
    ("mutant", "name"), CASES, ids=[f"{name}: {mutant.fault}" for mutant, name in CASES]
)
def test_a_fault_is_found(mutant: Mutant, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make = spoiled(mutant, monkeypatch)[name]
    said: list[str] = []
    if found_biased(make, PROBLEMS, said):
        return
    if any(found.kept is False for found in conduct(make)):
        return
    assert found_biased(make, LAST, said), "\n".join(said)


def found_biased(make: Callable[[], Estimator], problems: Sequence[str], said: list[str]) -> bool:
    plan = plan_for(0.02, 20)
    for problem, how in reversed(cases(make(), problems)):
        found = judge(make, problem, how, plan)
        said.append(f"{problem}, {how}: {found.result or found.error}")
        if found.error or (found.result and found.result.verdict == "biased"):
            return True
    return False


def test_every_family_has_five_kinds_of_faults() -> None:
    kinds = Counter(name.split("-")[0] for _, name in CASES)
    assert set(kinds) == {"reinforce", "rloo", "seqgan", "rebar", "relax"}
    faults = {
        family: {mutant.fault for mutant, name in CASES if name.split("-")[0] == family}
        for family in ("reinforce", "rloo", "rebar", "relax")
    }
    assert all(len(found) >= 5 for found in faults.values()), faults

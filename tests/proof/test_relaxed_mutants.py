"""Faults of estimators that are biased as they are: found by closed forms and by conduct."""

from __future__ import annotations

import pytest

from estbench import estimators
from estbench.proof.judging import judge, plan_for
from estbench.proof.rules import conduct
from tests.estimators import test_perturbation, test_relaxed

from .mutants import Mutant, spoiled
from .relaxed_mutants import BIAS, CONDUCT, FOUND_BY

CASES = [(mutant, by, name) for mutant, by in FOUND_BY for name in mutant.estimators]


@pytest.mark.parametrize(
    ("mutant", "by", "name"), CASES, ids=[f"{name}: {mutant.fault}" for mutant, _, name in CASES]
)
def test_a_fault_is_found(
    mutant: Mutant, by: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = spoiled(mutant, monkeypatch)[name]
    if by == BIAS:
        found = judge(make, "autoregressive", "fresh", plan_for(0.02, 1))
        assert found.result is not None, found.error
        assert found.result.verdict == "biased", str(found.result)
        return
    if by == CONDUCT:
        (rule,) = conduct(make, [CONDUCT])
        assert rule.kept is False, rule.detail
        return
    real = estimators.make
    monkeypatch.setattr(estimators, "make", lambda n: make() if n == name else real(n))
    method = make()
    if by == "test_the_mean_is_the_slope_of_the_smoothed_objective":
        monkeypatch.setattr(test_perturbation, "Perturbation", type(method))
        with pytest.raises(AssertionError):
            test_perturbation.test_the_mean_is_the_slope_of_the_smoothed_objective(
                method.law,  # type: ignore[attr-defined]
                1.0,
            )
    elif hasattr(test_perturbation, by):
        monkeypatch.setattr(test_perturbation, "Perturbation", type(method))
        with pytest.raises(AssertionError):
            getattr(test_perturbation, by)()
    else:
        with pytest.raises(AssertionError):
            _run(by, name)


def _run(by: str, name: str) -> None:
    """Call a test of the relaxed family for one member, with all that it is parametrised by."""
    test = getattr(test_relaxed, by)
    if by.startswith(("test_st_gumbels", "test_gumbel_softmax_is", "test_gumbel_rao_has")):
        test()
    elif by.startswith("test_straight_through_is_exact"):
        test(name, "categorical-quadratic" if name == "reinmax" else "categorical-linear")
    elif by.startswith("test_hard_members"):
        test(name, None)
    else:
        test(name)

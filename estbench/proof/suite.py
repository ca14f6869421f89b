"""All that the check tries, as cases of a user's own pytest suite."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from estbench.core.errors import UserError
from estbench.estimators.base import Estimator
from estbench.proof.checking import Unit, collect, started, units
from estbench.proof.interface import maker
from estbench.proof.rules import EXCUSED, RULES
from estbench.proof.setting import Make

__all__ = ["parametrize_with_checks"]

Given = str | Estimator | Callable[[], Estimator]

VARIANCE = "variance on "

BIAS = "bias"
"""The case of a control, which passes if its bias is found on one of the problems."""


def parametrize_with_checks(estimators: Iterable[Given]) -> Any:
    """Return a decorator that makes a pytest case of every rule, problem and variance.

    As in scikit-learn, the test takes an estimator and a check, and calls the one on the other::

        @estbench.parametrize_with_checks(["rloo", MyEstimator, MyEstimator(decay=0.9)])
        def test_estimators(estimator, check):
            check(estimator)

    A case is called ``NAME-rule``, ``NAME-problem-state`` or ``NAME-variance-on-problem``; ``-k``
    picks some, and pytest-xdist runs them in parallel. An estimator takes half a minute or so
    altogether. What does not apply to it is skipped, with the reason. An estimator that declares
    itself biased has no cases on problems; a control has one, ``NAME-bias``.

    Args:
      estimators: Names, instances, classes, or functions that make one.

    Raises:
      UserError: pytest is not installed, or there is no estimator of a name, or none is made.
    """
    try:
        import pytest
    except ImportError:
        raise UserError(
            "parametrize_with_checks needs pytest: python -m pip install pytest"
        ) from None
    if isinstance(estimators, str | Estimator) or not isinstance(estimators, Iterable):
        raise UserError("parametrize_with_checks takes a list of estimators: put it in [ ]")
    found = []
    for given in estimators:
        make = maker(given)
        name = make().info.name
        found += [
            pytest.param(given, _Check(label), id=f"{name}-{_hyphened(label)}")
            for label in _labels(make)
        ]
    return pytest.mark.parametrize(("estimator", "check"), found)


@dataclass(frozen=True)
class _Check:
    """One case; called with what was given for the estimator.

    Attributes:
      label: What is tried.
    """

    label: str

    def __call__(self, given: Given) -> None:
        """Try it.

        Raises:
          AssertionError: It does not hold; the text says how.
        """
        import pytest

        make = maker(given)
        result = started(make)
        result.info = replace(result.info, control=self.label == BIAS)
        for unit in _tried(make, self.label):
            collect(result, *unit())
            if result.verdict == "found":
                break
        if self.label in EXCUSED and result.broken:
            for unit in _bias_units(make):  # a mean that is right may excuse it
                collect(result, *unit())
        if failed := result.complaints():
            pytest.fail("\n".join(failed), pytrace=False)
        if not (result.bias or result.conduct or result.variance):
            pytest.skip("there is no exact variance to compare with")
        for finding in result.conduct:
            if finding.kept is None:
                pytest.skip(finding.detail)


def _labels(make: Make) -> list[str]:
    """Return what is tried on an estimator, the quickest first."""
    info = make().info
    found = list(RULES)
    if info.unbiased:
        found += [unit.label for unit in reversed(_bias_units(make))]
    elif info.control:
        found.append(BIAS)
    return found + [unit.label for unit in _units(make) if unit.label.startswith(VARIANCE)]


def _tried(make: Make, label: str) -> list[Unit]:
    """Return what a case tries."""
    if label == BIAS:
        return _bias_units(make)
    return [unit for unit in _units(make) if unit.label == label]


def _bias_units(make: Make) -> list[Unit]:
    every = _units(make)
    return [u for u in every if u.label not in RULES and not u.label.startswith(VARIANCE)]


def _units(make: Make) -> list[Unit]:
    return units(make().info.name, make)


def _hyphened(label: str) -> str:
    return label.replace(",", "").replace(" ", "-")

"""The check from Python: a name, an estimator, or whatever makes one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial

from estbench.errors import UserError, unknown_name
from estbench.estimators import make as make_by_name
from estbench.estimators.base import Estimator
from estbench.meter import notices
from estbench.proof.checking import CheckResult, Make, check_one
from estbench.proof.judging import MARGIN
from estbench.proof.problems import PROBLEMS

__all__ = ["check"]


def check(
    estimator: str | Estimator | Callable[[], Estimator],
    *,
    margin: float = MARGIN,
    problems: Sequence[str] | None = None,
) -> CheckResult:
    """Prove one estimator: its bias, its conduct, its variance where that is known exactly.

    Half a minute or so on one core. ``print`` the result for a verdict and what does not hold;
    ``result.holds`` is the verdict as a bool, ``result.frame()`` all findings as a table.

    Args:
      estimator: A name, an instance (a copy of it is used, as it is), or a class or function that
        makes one.
      margin: Bias, as a part of the gradient's norm, from which on one is found or excluded.
      problems: Names out of ``estbench.proof.problems.PROBLEMS``; all of them if None.

    Raises:
      UserError: There is no estimator or problem of that name, or no estimator is made.
    """
    if not 0 < margin < 1:
        raise UserError(f"margin = {margin!r}: must be between 0 and 1; .02 means 2 %")
    for name in problems or ():
        if name not in PROBLEMS:
            raise unknown_name("problem", name, PROBLEMS)
    with notices.listening(lambda slow: notices.warn(slow.line(slow.per_thousand()))):
        return check_one(_maker(estimator), margin, problems)


def _maker(given: str | Estimator | Callable[[], Estimator]) -> Make:
    if isinstance(given, str):
        make_by_name(given)  # raises now for a name that does not exist
        return partial(make_by_name, given)
    if isinstance(given, Estimator):
        return partial(copy.deepcopy, given)
    if not callable(given):
        raise UserError(f"{given!r} is no estimator: give a name, an Estimator or its class")
    made = given()
    if not isinstance(made, Estimator):
        raise UserError(
            f"{getattr(given, '__name__', given)} makes {type(made).__name__}, no estimator: "
            "inherit from estbench.Estimator"
        )
    return given

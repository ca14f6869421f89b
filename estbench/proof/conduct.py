"""Whether an estimator keeps the rules of conduct, rule by rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from estbench.core.processes import described, is_stop
from estbench.estimators.base import Estimator
from estbench.proof.rules import RULES, BrokenRuleError, NotApplicableError

__all__ = ["ConductFinding", "conduct"]


@dataclass(frozen=True)
class ConductFinding:
    """Whether a rule was kept.

    Attributes:
      rule: Its name in ``RULES``.
      kept: Whether it was kept; None where it does not apply.
      detail: What was seen where it was not kept, or why it does not apply.
    """

    rule: str
    kept: bool | None
    detail: str = ""


def conduct(
    make: Callable[[], Estimator], rules: Sequence[str] | None = None
) -> list[ConductFinding]:
    """Return a finding for every rule; never raises.

    Args:
      make: Makes the estimator.
      rules: Names of rules; all if None.
    """
    found = []
    for name in rules or RULES:
        try:
            RULES[name](make)
            found.append(ConductFinding(name, True))
        except NotApplicableError as reason:
            found.append(ConductFinding(name, None, str(reason)))
        except BrokenRuleError as reason:
            found.append(ConductFinding(name, False, str(reason)))
        except BaseException as error:  # whatever a user's estimator raises is a finding about it
            if is_stop(error):
                raise
            found.append(ConductFinding(name, False, described(error)))
    return found

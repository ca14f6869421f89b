"""Is an estimator unbiased on all problems? One test of bias for each problem and state.

The probability of calling an unbiased estimator biased is .001 over everything that is tried on it:
looks, directions, problems and states. (Within a look by Holm; looks, problems and states share the
.001 equally, because each of them has to be able to stop early.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from estbench.estimators.base import Estimator
from estbench.meter.bias import BiasResult, Plan, bias_test
from estbench.processes import described, is_stop
from estbench.proof.problems import AUTOREGRESSIVE, SIZES, Problem, named, problems_for
from estbench.proof.states import learned
from estbench.proof.suspects import suspect
from estbench.seeding import stream

__all__ = [
    "ALPHA",
    "FIRST",
    "GROWTH",
    "LOOKS",
    "MARGIN",
    "PILOT",
    "BiasFinding",
    "Verdict",
    "cases",
    "judge",
    "left_out",
    "plan_for",
    "verdict_on",
]

Verdict = Literal["unbiased", "biased", "undecided", "found", "not found"]

MARGIN = 0.02
ALPHA = 0.001
FIRST = 24_576  # sequences at the first look, for a margin of 2 %
PILOT = 2_048  # sequences that say how many draws the noise asks for
LOOKS = 3
GROWTH = 6  # so that the last look leaves hardly anything undecided: 884,736 sequences


@dataclass(frozen=True)
class BiasFinding:
    """What the test said on one problem, in one state of what is learned.

    Attributes:
      problem: Its name.
      state: "fresh", "arbitrary" or "trained".
      result: What the test said; None where it failed.
      cpu_s: CPU seconds of training and test.
      suspect: Which term is to blame, where that can be told.
      error: Why there is no result, or "".
    """

    problem: str
    state: str
    result: BiasResult | None
    cpu_s: float
    suspect: str = ""
    error: str = ""


def cases(method: Estimator, problems: Sequence[str] | None = None) -> list[tuple[str, str]]:
    """Return the (problem, state) pairs that an estimator is tried on.

    What learns is tried before it has learned and after; with coefficients and networks that are
    nowhere near what training would make of them ("arbitrary") on the autoregressive problem.
    Problems that it does not fit are left out; see ``left_out``.
    """
    found = []
    unfit = left_out(method, problems)
    for name in problems or problems_for(method):
        if name in unfit:
            continue
        found.append((name, "fresh"))
        if method.info.learned:
            if name in AUTOREGRESSIVE:
                found.append((name, "arbitrary"))
            found.append((name, "trained"))
    return found


def left_out(method: Estimator, problems: Sequence[str] | None = None) -> dict[str, str]:
    """Return the problems that an estimator does not fit, each with the reason in a line."""
    reasons = {name: method.refusal(*SIZES[name]) for name in problems or problems_for(method)}
    return {name: " ".join(reason.split()) for name, reason in reasons.items() if reason}


def plan_for(margin: float, tests: int) -> Plan:
    """Return the plan of one test out of so many; draws grow as the margin's inverse square."""
    first = int(FIRST * max(1.0, (MARGIN / margin) ** 2))
    return Plan(
        first=first, growth=GROWTH, looks=LOOKS, pilot=PILOT, margin=margin, alpha=ALPHA / tests
    )


def judge(
    make: Callable[[], Estimator], problem: str | Problem, how: str, plan: Plan, name: str = ""
) -> BiasFinding:
    """Return the finding on one problem and state; never raises.

    Args:
      make: Makes the estimator anew: nothing learned elsewhere may come along.
      problem: The problem, or its name.
      how: State of what is learned.
      plan: Looks, margin and error rates.
      name: The problem's name, where the problem itself is given.
    """
    started = time.process_time()
    label = problem if isinstance(problem, str) else name
    try:
        given = named(problem) if isinstance(problem, str) else problem
        method = make()
        state = learned(method, given, how)
        rng = stream("proof", method.info.name, label, how)
        result = bias_test(method, given.policy, given.reward, given.gradient, rng, state, plan)
    except BaseException as error:  # whatever a user's estimator raises is a finding about it
        if is_stop(error):
            raise
        cpu_s = time.process_time() - started
        return BiasFinding(label, how, None, cpu_s, error=described(error))
    blamed = _suspect(make, given, how, plan) if result.verdict == "biased" else ""
    return BiasFinding(label, how, result, time.process_time() - started, suspect=blamed)


def _suspect(make: Callable[[], Estimator], problem: Problem, how: str, plan: Plan) -> str:
    """Return ``suspect``; "" where the estimator fails while its terms are tried one by one."""
    try:
        return suspect(make, problem, how, plan)
    except BaseException as error:
        if is_stop(error):
            raise
        return ""


def verdict_on(unbiased: bool, findings: Sequence[BiasFinding]) -> Verdict:
    """Return what all findings together say about what was declared."""
    verdicts = [f.result.verdict if f.result else "undecided" for f in findings]
    if not unbiased:
        return "found" if "biased" in verdicts else "not found"
    for worst in ("biased", "undecided"):
        if worst in verdicts:
            return worst
    return "unbiased" if verdicts else "undecided"

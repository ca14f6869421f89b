"""Is an estimator unbiased on all problems? One test of bias for each problem and state.

The probability of calling an unbiased estimator biased is .001 over everything that is tried on it:
looks, directions, problems and states. (Within a look by Holm; looks, problems and states share the
.001 equally, because each of them has to be able to stop early.)
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from estbench.core.seeding import stream
from estbench.estimators.base import Estimator
from estbench.meter.bias import BiasResult, Plan, bias_test
from estbench.proof.conditions import CONDITIONS
from estbench.proof.problems import AUTOREGRESSIVE, SIZES, Problem, named, problems_for, size_of
from estbench.proof.setting import Make, attempt
from estbench.proof.states import MOVED, prepared
from estbench.proof.suspects import suspect

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
    "margin_on",
    "plan_for",
    "verdict_on",
]

STATES_ON: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(AUTOREGRESSIVE, ("fresh", "arbitrary")),
    **{name: ("arbitrary",) for name in CONDITIONS if name != "long"},
}
"""States of what is learned on each problem; elsewhere it is trained.

That is where nothing learned yet would only leave noise, or arbitrary networks would add too much.
On the autoregressive problem it is trained before the policy moves.
"""

Verdict = Literal["unbiased", "biased", "undecided", "found", "not found"]

MARGIN = 0.02
ALPHA = 0.001
FIRST = 24_576  # sequences at the first look, for a margin of 2 %
FEWEST = 4_096  # the same for a large margin: each of the blocks needs some draws
LOOSER = 2.5  # times the margin, on ``LOOSE`` and what is drawn at random
LOOSE = (*CONDITIONS, "expressions-3")
PILOT = 2_048  # sequences that say how many draws the noise asks for
LOOKS = 3
GROWTH = 6  # so that the last look leaves hardly anything undecided: 884,736 sequences


@dataclass(frozen=True)
class BiasFinding:
    """What the test said on one problem, in one state of what is learned.

    Attributes:
      problem: Its name.
      state: "fresh", "arbitrary", "trained" or "moved".
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


def cases(
    method: Estimator, problems: Sequence[str] | None = None, seed: int | None = None
) -> list[tuple[str, str]]:
    """Return the (problem, state) pairs that an estimator is tried on.

    What learns is tried before it has learned and after, or with coefficients and networks that
    are nowhere near what training would make of them ("arbitrary"); see ``STATES_ON``. Everything
    is tried after the policy of the autoregressive problem has moved. Problems that it does not fit
    are left out; see ``left_out``.

    Args:
      method: The estimator.
      problems: Names; all if None.
      seed: Of the problem that is drawn at random, if ``problems`` is None; None for no such one.
    """
    found = []
    unfit = left_out(method, problems, seed)
    for name in problems or problems_for(method, seed):
        if name in unfit:
            continue
        states: Sequence[str] = ("fresh",)
        if method.info.learned:
            states = STATES_ON.get(name, ("trained",))
        if name in AUTOREGRESSIVE:
            states = (*states, MOVED)
        found += [(name, state) for state in states]
    return found


def left_out(
    method: Estimator, problems: Sequence[str] | None = None, seed: int | None = None
) -> dict[str, str]:
    """Return the problems that an estimator does not fit, each with the reason in a line."""
    reasons = {name: refusal(method, name) for name in problems or problems_for(method, seed)}
    return {name: " ".join(reason.split()) for name, reason in reasons.items() if reason}


def refusal(method: Estimator, problem: str) -> str:
    """Return why an estimator does not fit a problem; "" where it does."""
    contexts = method.without_contexts if problem == "prompts" else ""
    return contexts or method.refusal(*size_of(problem))


def margin_on(problem: str, margin: float) -> float:
    """Return the bias below which an estimator passes on a problem, where ``margin`` is asked for.

    What goes wrong under the conditions of a problem goes far wrong there (see docs/check.md), and
    its draws are expensive. ``expressions-3-float32`` has the margin for both precisions.
    """
    return margin if problem in SIZES and problem not in LOOSE else LOOSER * margin


def plan_for(margin: float, tests: int) -> Plan:
    """Return the plan of one test out of so many; draws grow as the margin's inverse square.

    A wider margin does not make the last look smaller: it may ask for what the noise needs.
    """
    return Plan(
        first=max(FEWEST, int(FIRST * (MARGIN / margin) ** 2)),
        growth=GROWTH,
        looks=LOOKS,
        pilot=PILOT,
        most=FIRST * GROWTH ** (LOOKS - 1),
        margin=margin,
        alpha=ALPHA / tests,
    )


def judge(make: Make, problem: str | Problem, how: str, plan: Plan, name: str = "") -> BiasFinding:
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

    def tested() -> BiasFinding:
        given = named(problem) if isinstance(problem, str) else problem
        method = make()
        rng = stream("proof", method.info.name, label, how)
        moved, state = prepared(method, given, how)
        result = bias_test(method, moved.policy, moved.reward, moved.gradient, rng, state, plan)
        blamed = ""
        if result.verdict == "biased":  # it may fail while its terms are tried one by one
            blamed = attempt(lambda: suspect(make, given, how, plan), lambda why: "")
        return BiasFinding(label, how, result, 0.0, suspect=blamed)

    found = attempt(tested, lambda why: BiasFinding(label, how, None, 0.0, error=why))
    return replace(found, cpu_s=time.process_time() - started)


def verdict_on(unbiased: bool, findings: Sequence[BiasFinding]) -> Verdict:
    """Return what all findings together say about what was declared."""
    verdicts = [f.result.verdict if f.result else "undecided" for f in findings]
    if not unbiased:
        return "found" if "biased" in verdicts else "not found"
    for worst in ("biased", "undecided"):
        if worst in verdicts:
            return worst
    return "unbiased" if verdicts else "undecided"

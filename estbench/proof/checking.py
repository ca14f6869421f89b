"""Everything that is tried on an estimator, and whether what it declares holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from estbench.estimators import make as make_by_name
from estbench.estimators.base import EstimatorInfo
from estbench.meter.bias import BiasResult
from estbench.proof.independence import OWN_REWARD
from estbench.proof.judging import (
    MARGIN,
    BiasFinding,
    Verdict,
    cases,
    judge,
    left_out,
    margin_on,
    plan_for,
    verdict_on,
)
from estbench.proof.problems import PROBLEMS, new_seed
from estbench.proof.rules import EXCUSED, FROM_POLICY, RULES, ConductFinding, kept
from estbench.proof.setting import Make
from estbench.proof.states import MOVED, STATES
from estbench.proof.variance import VARIANCE_PROBLEMS, VarianceFinding, judge_variance

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "CheckResult",
    "Finding",
    "Make",
    "Unit",
    "by_name",
    "check_one",
    "collect",
    "in_order",
    "started",
    "units",
]

Finding = BiasFinding | ConductFinding | VarianceFinding | None


@dataclass(frozen=True)
class Unit:
    """One thing that is tried on one estimator, in whatever process.

    Attributes:
      estimator: The estimator's name.
      label: What is tried, for people.
      function: Does it; returns the finding.
      failed: Returns the finding where nothing came back, from the reason.
    """

    estimator: str
    label: str
    function: Callable[[], Finding]
    failed: Callable[[str], Finding]

    def __call__(self) -> tuple[Finding, float]:
        """Return the finding and the CPU seconds that it took."""
        started = time.process_time()
        return self.function(), time.process_time() - started


@dataclass
class CheckResult:
    """What was found out about one estimator.

    Attributes:
      info: What it declares.
      margin: Relative bias from which on one is found or excluded; a smaller one may pass.
      bias: Findings of the test of bias.
      conduct: Findings on its conduct.
      variance: The meter's variance beside the exact one, where there is one.
      cpu_s: CPU seconds that all of it took, of whatever processes.
      remembered: How many findings an earlier check made.
      left_out: Problems that it does not fit, each with the reason.
      seed: Of the problem that was drawn at random; None where there was none.
    """

    info: EstimatorInfo
    margin: float = MARGIN
    bias: list[BiasFinding] = field(default_factory=list)
    conduct: list[ConductFinding] = field(default_factory=list)
    variance: list[VarianceFinding] = field(default_factory=list)
    cpu_s: float = 0.0
    remembered: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    seed: int | None = None

    @property
    def name(self) -> str:
        """The estimator's name."""
        return self.info.name

    @property
    def verdict(self) -> Verdict:
        """What the tests of bias say together."""
        return verdict_on(self.info.unbiased, self.bias)

    @property
    def holds(self) -> bool:
        """Whether everything that the estimator declares holds."""
        wanted = {"unbiased"} if self.info.unbiased else {"found", "not found"}
        if self.info.control:
            wanted = {"found"}
        return self.verdict in wanted and not self.broken and all(f.agrees for f in self.variance)

    @property
    def broken(self) -> list[ConductFinding]:
        """Findings on rules that were broken, but for those that its verdict excuses."""
        return [f for f in self.conduct if f.kept is False and not self.excuses(f)]

    def excuses(self, finding: ConductFinding) -> bool:
        """Return whether the mean is right although a rule was broken that only serves the mean.

        Where a bias is declared, the mean says nothing about what the tokens come from.
        """
        if finding.rule not in EXCUSED:
            return False
        proven = self.verdict == "unbiased"
        return proven or (not self.info.unbiased and finding.rule == FROM_POLICY)

    @property
    def worst(self) -> BiasFinding | None:
        """The finding that decides: of those that rejected, the one with the largest bias; else
        the one with the highest upper limit, where the margin is smallest."""
        with_result = [f for f in self.bias if f.result]
        rejected = [f for f in with_result if f.result and f.result.verdict == "biased"]
        if rejected:
            return max(rejected, key=lambda f: f.result.last.relative_bias if f.result else 0.0)
        smallest = min((f.result.margin for f in with_result if f.result), default=0.0)
        strict = [f for f in with_result if f.result and f.result.margin == smallest]
        return max(strict, key=lambda f: f.result.last.upper if f.result else 0.0, default=None)

    def __str__(self) -> str:
        """Return the verdict and what does not hold, a line each."""
        declared = "unbiased" if self.info.unbiased else "biased"
        head = f"{self.name}: declared {declared}, {self.verdict}"
        worst = self.worst
        if worst and worst.result:
            look = worst.result.last
            size = f"below {look.upper:.2%}"
            if worst.result.verdict == "biased":
                size = f"{look.relative_bias:.1%} [{look.low:.1%}, {look.high:.1%}]"
            head += f" (relative bias {size} on {worst.problem}, {worst.state})"
        if any(OWN_REWARD in f.detail for f in self.broken):
            head += f"; {OWN_REWARD}"
        if self.holds:
            head += "; everything that it declares holds"
            return "\n".join([head, *(f"  {line}" for line in self.remarks())])
        return "\n".join([head, *(f"  {line}" for line in (*self.complaints(), *self.remarks()))])

    def frame(self) -> pd.DataFrame:
        """Return a row for every finding; see ``estbench.proof.records.as_frame``."""
        from estbench.proof.records import as_frame

        return as_frame([self])

    def remarks(self) -> list[str]:
        """Return what was not tried, a line each reason, and what should be declared."""
        reasons: dict[str, list[str]] = {}
        for problem, reason in self.left_out.items():
            reasons.setdefault(reason, []).append(problem)
        said = [f"not tried on {', '.join(names)}: {why}" for why, names in reasons.items()]
        return said + [
            f"{f.detail}; declare what it draws from: EstimatorInfo(sampler=...)"
            for f in self.conduct
            if f.rule == FROM_POLICY and f.kept is False and self.excuses(f)
        ]

    def complaints(self) -> list[str]:
        """Return what does not hold, a line each."""
        lines = [self.complaint(finding) for finding in self.bias]
        if self.info.control and self.verdict != "found":
            lines.append("a negative control, and no bias was found: the test has lost its power")
        lines += [self.complaint(finding) for finding in self.broken]
        lines += [self.complaint(finding) for finding in self.variance]
        return [line for line in lines if line]

    def complaint(self, finding: Finding) -> str:
        """Return what a finding says against what is declared; "" where it says nothing."""
        if isinstance(finding, BiasFinding):
            where, result = f"{finding.problem}, {finding.state}", finding.result
            if finding.error and (self.info.unbiased or self.info.control):
                return f"{where}: {finding.error}"
            if result and self.info.unbiased and result.verdict != "unbiased":
                told = [str(result), finding.suspect, self._remedy(result)]
                return f"{where}: {'; '.join(filter(None, told))}"
        elif isinstance(finding, ConductFinding):
            if finding.kept is False:
                return f"{finding.rule}: {finding.detail}"
        elif finding is not None:
            where = f"variance on {finding.problem}"
            if finding.error:
                return f"{where}: {finding.error}"
            if not finding.agrees:
                return (
                    f"{where}: the meter says {finding.measured:.4g} [{finding.low:.4g}, "
                    f"{finding.high:.4g}], enumeration {finding.exact:.4g}"
                )
        return ""

    def _remedy(self, result: BiasResult) -> str:
        """Return what to do about noise that left a test undecided; "" elsewhere."""
        if result.verdict != "undecided":
            return ""
        group = self.info.group
        return result.remedy(plan_for(result.margin, 1).largest(group), group)


def units(
    name: str,
    make: Make,
    margin: float = MARGIN,
    problems: Sequence[str] | None = None,
    seed: int | None = None,
) -> list[Unit]:
    """Return everything that is tried on an estimator, the cheapest tests of bias first.

    Args:
      name: The estimator's name.
      make: Makes it.
      margin: Relative bias below which it passes.
      problems: Names; all if None.
      seed: Of the problem that is drawn at random, if ``problems`` is None; None for no such one.
    """
    method = make()
    tried = cases(method, problems, seed)
    found = [
        Unit(
            name,
            f"{problem}, {how}",
            partial(judge, make, problem, how, plan_for(margin_on(problem, margin), len(tried))),
            partial(_no_bias, problem, how),
        )
        for problem, how in tried
    ]
    found += [
        Unit(name, rule, partial(kept, make, rule), partial(ConductFinding, rule, False))
        for rule in RULES
    ]
    found += [
        Unit(
            name,
            f"variance on {problem}",
            partial(judge_variance, make, problem),
            partial(_no_variance, problem),
        )
        for problem in VARIANCE_PROBLEMS
        if problem not in left_out(method, VARIANCE_PROBLEMS)
    ]
    return found


def _no_bias(problem: str, how: str, reason: str) -> BiasFinding:
    return BiasFinding(problem, how, None, 0.0, error=reason)


def _no_variance(problem: str, reason: str) -> VarianceFinding:
    return VarianceFinding(problem, error=reason)


def collect(result: CheckResult, finding: Finding, cpu_s: float) -> None:
    """Put a finding where it belongs."""
    result.cpu_s += cpu_s
    if isinstance(finding, BiasFinding):
        result.bias.append(finding)
    elif isinstance(finding, ConductFinding):
        result.conduct.append(finding)
    elif finding is not None:
        result.variance.append(finding)


def started(make: Make, margin: float = MARGIN, seed: int | None = None) -> CheckResult:
    """Return a result that holds nothing yet."""
    method = make()
    return CheckResult(method.info, margin, left_out=left_out(method, seed=seed), seed=seed)


def check_one(
    make: Make, margin: float = MARGIN, problems: Sequence[str] | None = None
) -> CheckResult:
    """Return everything that can be found out about one estimator, in this process."""
    seed = new_seed() if problems is None else None
    result = started(make, margin, seed)
    for unit in units(result.name, make, margin, problems, seed):
        collect(result, *unit())
    return in_order(result)


def in_order(result: CheckResult) -> CheckResult:
    """Sort findings as problems and rules stand in their tables, whatever order they came in."""
    every = [(problem, state) for problem in PROBLEMS for state in (*STATES, MOVED)]
    order = {case: i for i, case in enumerate(every)}
    result.bias.sort(key=lambda f: order.get((f.problem, f.state), len(order)))
    rules = list(RULES)
    result.conduct.sort(key=lambda f: rules.index(f.rule))
    result.variance.sort(key=lambda f: VARIANCE_PROBLEMS.index(f.problem))
    return result


def by_name(name: str, rollouts: int = 0, truncation: int = 0) -> Make:
    """Return what makes the estimator of a name, in any process."""
    return partial(make_by_name, name, rollouts=rollouts, truncation=truncation)

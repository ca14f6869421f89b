"""Does the meter measure an estimator's variance as it is? Against enumeration, where it applies.

A score-function estimator's draw is a function of the sequence that was drawn, so its variance is a
sum over all sequences. Leave-one-out has a closed form. Both are tried first: the draw must depend
on its tokens alone, and the sum over the policy's probabilities must be the exact gradient. Where
it is not (importance weights, a second sequence as a baseline, any bias), there is no exact
variance to compare with.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from estbench.core.seeding import stream
from estbench.estimators.base import Estimator, Surrogate
from estbench.meter.cost import replaced
from estbench.meter.exact import enumerate_sequences
from estbench.meter.gradients import Tape
from estbench.meter.measuring import measure
from estbench.meter.moments import Reference
from estbench.models.policy import Policy, at_tokens
from estbench.proof.problems import Problem, named
from estbench.proof.rewards import rng
from estbench.proof.setting import Make, attempt
from estbench.proof.states import learned

__all__ = ["VARIANCE_PROBLEMS", "VarianceFinding", "agree", "exact_variance", "judge_variance"]

VARIANCE_PROBLEMS = ("autoregressive", "expressions-3-float32")
SEQUENCES = 65_536
GROUPS = 16  # that leave-one-out is tried on
SIGNIFICANT = 5.0  # standard errors
ROUNDING = 1e-12


@dataclass(frozen=True)
class VarianceFinding:
    """Measured total variance of a draw beside the exact one.

    Attributes:
      problem: Name of the problem.
      measured: What the meter says.
      low: Lower end of its 95 % interval.
      high: Upper end.
      exact: By enumeration.
      agrees: Whether they agree within five standard errors.
      error: Why there is no result, or "".
    """

    problem: str
    measured: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    exact: float = float("nan")
    agrees: bool = False
    error: str = ""


def judge_variance(make: Make, problem: str) -> VarianceFinding | None:
    """Return the finding on a problem; None where there is no exact variance. Never raises."""
    return attempt(lambda: _judged(make, problem), lambda why: VarianceFinding(problem, error=why))


def _judged(make: Make, problem: str) -> VarianceFinding | None:
    method, given = make(), named(problem)
    state = method.initial_state(given.policy, rng(3))
    if exact_variance(method, given, state) is None:
        return None  # before minutes are spent on training it
    if method.info.learned:
        state = learned(method, given, "trained")
    exact = exact_variance(method, given, state)
    if exact is None:
        return None  # a control variate that was nothing before it learned
    reference = Reference(given.gradient, 0.0)
    noise = stream("variance", method.info.name, problem)
    row = measure(method, given.policy, given.reward, SEQUENCES, noise, state, reference)
    measured, low, high = (
        float(row[key]) for key in ("total_variance", "variance_low", "variance_high")
    )
    # Nothing varies where both are no more than rounding.
    nothing = abs(measured - exact) <= ROUNDING * given.exact.squared_norm
    agrees = nothing or agree(measured, low, high, exact)
    return VarianceFinding(problem, measured, low, high, exact, agrees)


def agree(measured: float, low: float, high: float, exact: float) -> bool:
    """Return whether a measurement, with its 95 % interval, is the exact variance, noise aside."""
    error = (high - low) / 2 / 1.96
    return abs(measured - exact) <= SIGNIFICANT * error + 1e-6 * exact


def exact_variance(method: Estimator, problem: Problem, state: dict[str, object]) -> float | None:
    """Return tr Cov of one draw by enumeration; None where a draw is more than its sequences."""
    info = method.info
    if info.sampler != "policy":
        return None  # its law is not known
    plain = info.hard_evals == str(info.group) and not info.learned
    if info.baseline == "leave-one-out" and plain:
        known = _is_leave_one_out(method, problem, state)
        return problem.exact.leave_one_out_variance(info.group) if known else None
    # What is relaxed for each draw is relaxed with noise; what serves all draws of a call is not.
    relaxed = info.needs_relaxed_reward and "/n" not in info.relaxed_evals
    if info.group != 1 or relaxed:
        return None
    policy = problem.policy
    sequences = enumerate_sequences(policy.vocabulary, policy.length)
    rows = _of_tokens(method, problem, state, sequences)
    if rows is None:
        return None
    with torch.no_grad():
        log_p = at_tokens(policy.log_probs(sequences), sequences).sum(dim=1)
    p = log_p.double().softmax(dim=0)
    mean = p @ rows
    if not _near(mean, torch.cat([g.double().flatten() for g in problem.gradient]), policy.dtype):
        return None
    return float(p @ rows.square().sum(dim=1) - mean.square().sum())


def _of_tokens(
    method: Estimator, problem: Problem, state: dict[str, object], sequences: Tensor
) -> Tensor | None:
    """Return the draws ``[n, P]`` of given sequences; None where they are not functions of them.

    They must stay what they are with other noise, and in other company.
    """
    group, policy = method.info.group, problem.policy
    n = len(sequences) // group
    rows = []
    for seed, given in enumerate(
        (sequences, torch.cat([sequences, sequences[:group].repeat(n, 1)]))
    ):
        with _drawing(policy, given), Tape(policy) as tape:
            found = method.surrogate(policy, problem.reward, len(given) // group, rng(seed), state)
        if not torch.equal(found.tokens, given.view(-1, group, policy.length)):
            return None  # it draws its sequences in some way of its own
        rows.append(torch.cat(list(tape.differentiate(found).chunks())).double())
    alone, beside = rows
    return alone if _near(beside[:n], alone, policy.dtype) else None


def _is_leave_one_out(method: Estimator, problem: Problem, state: dict[str, object]) -> bool:
    """Return whether draws are the mean of (f - mean f of the others) grad log p over a group."""
    K, policy = method.info.group, problem.policy
    tokens = policy.sample(GROUPS * K, rng(5))
    rows = _of_tokens(method, problem, state, tokens)
    if rows is None:
        return False
    with Tape(policy) as tape:
        rewards = problem.reward(tokens).view(GROUPS, K)
        log_probs = at_tokens(policy.log_probs(tokens), tokens).view(GROUPS, -1)
        weights = (rewards - rewards.mean(dim=1, keepdim=True)) / (K - 1)
        weights = weights.repeat_interleave(policy.length, dim=1)
        known = Surrogate(log_probs, weights, tokens.view(GROUPS, K, -1), rewards)
    expected = torch.cat(list(tape.differentiate(known).chunks())).double()
    return _near(rows, expected, policy.dtype)


def _near(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    """Return whether tensors are the same but for rounding."""
    tolerance = 1e4 * torch.finfo(dtype).eps
    return float((found - expected).norm()) <= tolerance * float(expected.norm())


def _drawing(policy: Policy, sequences: Tensor) -> AbstractContextManager[None]:
    """Make the policy "draw" the given sequences, whatever it is asked to draw by.

    As many as they are: what is drawn beside a sequence, such as rollouts, is drawn as ever.
    """

    def given(kind: str) -> Callable[[int, Any], Tensor]:
        own = getattr(policy, kind)
        return lambda n, by: sequences if n == len(sequences) else own(n, by)

    return replaced(policy, {kind: given(kind) for kind in ("sample_by", "sample")})

"""The check from Python: a name, an estimator, or whatever makes one."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from estbench.core.errors import UserError, unknown_name
from estbench.estimators import make as make_by_name
from estbench.estimators.base import Estimator
from estbench.estimators.recipes import Recipe
from estbench.meter import notices
from estbench.meter.blocks import Look
from estbench.proof.checking import CheckResult, check_one
from estbench.proof.judging import MARGIN
from estbench.proof.problems import PROBLEMS, exists, named
from estbench.proof.setting import Make

__all__ = ["RecipeResult", "check", "maker", "shape"]


def check(
    estimator: str | Estimator | Callable[[], Estimator] | None = None,
    *,
    advantages: Callable[..., Any] | None = None,
    loss: Callable[..., Any] | None = None,
    group: int | tuple[int, int] = 8,
    staleness: int = 0,
    margin: float = MARGIN,
    problems: Sequence[str] | None = None,
) -> CheckResult:
    """Prove one estimator: its bias, its conduct, its variance where that is known exactly.

    Half a minute or so on one core. ``print`` the result for a verdict and what does not hold;
    ``result.holds`` is the verdict as a bool, ``result.frame()`` all findings as a table.

    A trainer's loss, or the function that turns its rewards into advantages, can be checked as it
    is written; see ``estbench.Recipe``, which says what they are given, and docs/trainer-losses.md.

    Args:
      estimator: A name, an instance (a copy of it is used, as it is), or a class or function that
        makes one.
      advantages: In place of an estimator: maps rewards ``[K]`` to advantages ``[K]``, or
        ``[P, K]`` to ``[P, K]``.
      loss: In place of an estimator: maps log_probs, old_log_probs ``[B, T]``, rewards ``[B]`` and
        mask ``[B, T]`` to the number that the trainer minimises.
      group: Of a loss or advantages: sequences K in a call, or (prompts P, sequences K of each).
      staleness: Of a loss or advantages: optimiser steps between the sampler and the policy.
      margin: Bias, as a part of the gradient's norm, from which on one is found or excluded.
      problems: Names out of ``estbench.proof.problems.PROBLEMS``, or ``drawn-SEED``; all of them,
        and one with a new seed, if None.

    Raises:
      UserError: There is no estimator or problem of that name, or no estimator is made, or the loss
        or the advantages cannot be used.
    """
    if not 0 < margin < 1:
        raise UserError(f"margin = {margin!r}: must be between 0 and 1; 0.02 means 2 %")
    for name in problems or ():
        if not exists(name):
            raise unknown_name("problem", name, PROBLEMS)
    functions = advantages is not None or loss is not None
    if functions == (estimator is not None):
        raise UserError("give one of: an estimator, advantages=, loss=")
    if estimator is None:
        estimator = Recipe(advantages=advantages, loss=loss, group=group, staleness=staleness)
    elif (group, staleness) != (8, 0):
        raise UserError("group and staleness are for loss= and advantages= alone")
    make = maker(estimator)
    with notices.listening(lambda slow: notices.warn(slow.line(slow.per_thousand()))):
        found = check_one(make, margin, problems)
    if isinstance(estimator, Recipe):
        return RecipeResult(**vars(found), conditions=estimator.conditions)
    return found


def maker(given: str | Estimator | Callable[[], Estimator]) -> Make:
    """Return what makes the estimator that was given, in whatever form.

    Raises:
      UserError: There is no estimator of that name, or none is made.
    """
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


@dataclass
class RecipeResult(CheckResult):
    """As ``CheckResult``, printed problem by problem.

    Attributes:
      conditions: The size of a group, and how stale the sampler is.
    """

    conditions: str = ""

    def __str__(self) -> str:
        """Return the verdict, a line for each problem, and what else does not hold."""
        lines = [f"{self.name} ({self.conditions}): {self.verdict}"]
        if self.verdict == "biased":
            lines.append("  (length and cosine are the mean draw's, beside the exact gradient)")
        for found in self.bias:
            said = found.error or (found.result and _said(found.result.verdict, found.result.last))
            state = "" if found.state == "fresh" else f", {found.state}"
            lines.append(f"  {described(found.problem)}{state}: {said}")
        broken = [f"  {f.rule}: {f.detail}" for f in self.broken]
        return "\n".join([*lines, *broken])


def described(problem: str) -> str:
    """Return a problem's name with the lengths and prompts of its sequences."""
    policy = named(problem).policy
    T = policy.length
    size = f"{T} token{'s' if T > 1 else ''}" if policy.end is None else f"1 to {T} tokens"
    M = policy.fewest_rows
    return f"{problem} ({size}{f', {M} prompts' if M > 1 else ''})"


def _said(verdict: str, look: Look) -> str:
    """Return what one test found: the size of the bias, and how the mean draw differs."""
    if verdict != "biased":
        return f"{verdict}, below {look.upper:.1%}"
    size = f"biased by {look.relative_bias:.1%} [{look.low:.1%}, {look.high:.1%}]"
    length, cosine = shape(look)
    return f"{size}, length {length:.2f}, cosine {cosine:.2f}"


def shape(look: Look) -> tuple[float, float]:
    """Return the length of the mean draw over the gradient's, and the cosine between the two."""
    across = max(look.relative_bias**2 - (look.projection - 1) ** 2, 0.0)
    length = math.sqrt(look.projection**2 + across)
    return length, look.projection / length if length else math.nan

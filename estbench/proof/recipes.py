"""What a check says of a trainer's loss: on which problems it is biased, and by how much."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from estbench.estimators.recipes import Recipe
from estbench.meter.blocks import Look
from estbench.proof.checking import CheckResult, Make, check_one
from estbench.proof.problems import named

__all__ = ["RecipeResult", "check_recipe"]


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


def check_recipe(
    recipe: Recipe, make: Make, margin: float, problems: Sequence[str] | None
) -> RecipeResult:
    """Return all that is found out about a recipe, in this process."""
    found = check_one(make, margin, problems)
    return RecipeResult(**vars(found), conditions=recipe.conditions)


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

"""Measures the losses of docs/trainer-losses.md, and prints the tables of that page.

``python benchmarks/trainer_losses.py`` reads the page: its code is run, and its tables say which
losses are measured, how stale the sampler is and which problems there are. ``--write`` puts the
figures into the page. Some minutes on one core.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from estbench.core.seeding import stream
from estbench.estimators.recipes import Recipe
from estbench.meter.bias import BiasResult, Plan, bias_test
from estbench.meter.exact import exact
from estbench.proof.conditions import possible_sequences
from estbench.proof.interface import shape
from estbench.proof.judging import plan_for
from estbench.proof.problems import Problem, named

PAGE = Path(__file__).parents[1] / "docs" / "trainer-losses.md"
GROUP = (4, 8)
ROW = re.compile(r"\| `(\w+)` \| (\d+) \|.*\| (\w+) ?([\d/T]*) \|")


@dataclass(frozen=True)
class Case:
    """A row of a table.

    Attributes:
      name: The loss.
      staleness: Optimiser steps between the sampler and the policy.
      problems: What it is measured on.
      verdict: "unbiased", "biased" or "factor".
      factor: What the gradient is scaled by, as text in T; "" for 1.
    """

    name: str
    staleness: int
    problems: tuple[str, ...]
    verdict: str
    factor: str

    def recipe(self) -> Recipe:
        """Return the loss as an estimator."""
        return Recipe(loss=losses()[self.name], group=GROUP, staleness=self.staleness)

    def scale(self, problem: Problem) -> float:
        """Return the factor on a problem."""
        first, *divisors = self.factor.split("/") if self.factor else ["1"]
        found = Fraction(first)
        for divisor in divisors:
            found /= problem.policy.length if divisor == "T" else int(divisor)
        return float(found)


@cache
def losses() -> dict[str, Callable[..., Tensor]]:
    """Return what the page's code defines, by name."""
    found: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(block, found)
    return found


def cases() -> Iterator[Case]:
    """Yield the rows of the page's tables."""
    problems: tuple[str, ...] = ()
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("<!-- table: "):
            problems = tuple(line.split()[2:-1])
        elif row := ROW.match(line):
            yield Case(row[1], int(row[2]), problems, row[3], row[4])


@cache
def problem(name: str) -> Problem:
    """Return a problem of the check, or ``kl``: that of ``ends`` with E R - 0.5 KL as objective."""
    if name != "kl":
        return named(name)
    plain = named("ends")
    policy, beta = plain.policy, losses()["BETA"]

    def with_penalty(tokens: Tensor) -> Tensor:
        log_p = policy.log_probs(tokens).gather(2, tokens.unsqueeze(2)).squeeze(2)
        # After the end token a log-probability is exactly 0, and the reference has no say.
        k1 = (log_p - losses()["REFERENCE"]) * scored(tokens)
        return plain.reward(tokens) - beta * k1.sum(dim=1)

    def scored(tokens: Tensor) -> Tensor:
        ended = (tokens == policy.end).cumsum(dim=1) - (tokens == policy.end).long()
        return (ended == 0).to(policy.dtype)

    truth = exact(policy, with_penalty, sequences=possible_sequences(policy))  # type: ignore[arg-type]
    return Problem(policy, plain.reward, truth)


def measured(case: Case, name: str, plan: Plan) -> BiasResult:
    """Return the test of a loss on a problem, against the gradient times the row's factor."""
    given, method = problem(name), case.recipe()
    gradient = [g * case.scale(given) for g in given.gradient]
    rng = stream("trainer losses", case.name, str(case.staleness), name)
    state = method.initial_state(given.policy, rng)
    return bias_test(method, given.policy, given.reward, gradient, rng, state, plan)


def cell(result: BiasResult, scale: float) -> str:
    """Return what is said of one problem: of the bias from the gradient itself."""
    if result.verdict != "biased":
        return (
            f"< {100 * result.last.upper:.1f} %"
            if scale == 1
            else f"{100 * (1 - scale):.1f} %, 1.00"
        )
    look = result.last
    return f"{100 * look.relative_bias:.0f} %, {shape(look)[1]:.2f}"


def row(case: Case) -> str:
    """Return a row of the table, measured."""
    plan = plan_for(0.02, len(case.problems))
    results = {name: measured(case, name, plan) for name in case.problems}
    cells = [cell(result, case.scale(problem(name))) for name, result in results.items()]
    verdict = f"{case.verdict} {case.factor}".strip()
    said = {result.verdict for result in results.values()}
    right = "biased" in said if case.verdict == "biased" else said == {"unbiased"}
    wrong = "" if right else f"  (measured: {', '.join(sorted(said))})"
    return f"| {' | '.join([f'`{case.name}`', str(case.staleness), *cells, verdict])} |{wrong}"


def main() -> None:
    """Print the rows, or write them into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the figures into the page")
    write = parser.parse_args().write
    torch.set_num_threads(1)
    text = PAGE.read_text(encoding="utf-8")
    for case in cases():
        found = row(case)
        print(found, flush=True)
        start = f"| `{case.name}` | {case.staleness} |"
        text = re.sub(rf"^{re.escape(start)}.*$", found, text, flags=re.MULTILINE)
    if write:
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

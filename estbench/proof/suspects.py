"""Which term of a biased estimator is to blame, where that can be told.

A draw is a score term plus terms whose mean must be zero. Each is tried without the others; what
passes is cleared, and what is left is suspect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from estbench.core.seeding import stream
from estbench.estimators.base import Direct, Draws, Estimator, Learned, Reward, Surrogate
from estbench.meter.bias import BiasResult, Plan, bias_test
from estbench.models.policy import Policy
from estbench.proof.problems import Problem
from estbench.proof.states import MOVED, learned, prepared

__all__ = ["suspect"]


class Part(Estimator):
    """An estimator of whose surrogate only some terms are kept.

    Args:
      method: The whole.
      keep: Makes the surrogate's part of the surrogate.
    """

    def __init__(self, method: Estimator, keep: Callable[[Surrogate], Surrogate]) -> None:
        self.method = method
        self.keep = keep
        self.info = method.info

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: Learned
    ) -> Draws:
        found = self.method.surrogate(policy, reward, draws, rng, state)
        return found if isinstance(found, Direct) else self.keep(found)


def suspect(make: Callable[[], Estimator], problem: Problem, how: str, plan: Plan) -> str:
    """Return a sentence on which term is suspect; "" where no term can be cleared.

    Args:
      make: Makes the estimator.
      problem: Where it was found biased.
      how: The state it was in.
      plan: The plan of the test that found it.
    """
    method = make()
    given, state = prepared(method, problem, how)
    sample = method.surrogate(
        given.policy,
        given.reward,
        2 * given.policy.fewest_rows,
        stream("suspect", method.info.name),
        state,
    )

    def tried(part: Estimator, state: Learned, given: Problem = given) -> BiasResult:
        rng = stream("suspects", method.info.name, how)
        return bias_test(part, given.policy, given.reward, given.gradient, rng, state, plan)

    said = []
    if how != "fresh":
        other = make()
        before = tried(other, learned(other, problem, "fresh"), problem)
        if before.verdict == "unbiased" and how == MOVED:
            return (
                "unbiased until the policy moved: suspect what is kept of an earlier policy or "
                "batch"
            )
        if before.verdict == "unbiased":
            said.append(f"unbiased before anything was learned: suspect {_learned(method)}")
    if isinstance(sample, Direct):
        pass  # a gradient that is given whole has no terms
    elif sample.components:
        said += _components(method, sample, lambda part: tried(part, state))
    elif sample.pathwise is not None and bool(sample.weights.any()):
        alone = tried(Part(method, lambda s: replace(s, pathwise=None)), state)
        if alone.verdict == "unbiased":
            said.append("the score term alone is unbiased: suspect the pathwise terms")
        else:
            said.append(
                "score and pathwise terms do not make up for each other: the score term alone "
                f"projects on the gradient as {alone.last.projection:.2f}, with the pathwise terms "
                f"{tried(method, state).last.projection:.2f} (1 is right)"
            )
    elif not method.info.learned:
        said.append("there is only a score term: suspect its weights, or what drew the tokens")
    return "; ".join(said)


def _components(
    method: Estimator, sample: Surrogate, tried: Callable[[Estimator], BiasResult]
) -> list[str]:
    """Try the score term alone, then with each other component at coefficient 1."""
    names = [component.name for component in sample.components]
    if tried(Part(method, _keeping(0))).verdict == "biased":
        return [f"the {names[0]} term alone is biased: suspect reward, baseline or score"]
    guilty = [
        name
        for i, name in enumerate(names)
        if i and tried(Part(method, _keeping(0, i))).verdict == "biased"
    ]
    if guilty:
        return [f"the {names[0]} term is unbiased, and the mean of {_listed(guilty)} is not zero"]
    return ["each term passes alone: suspect coefficients that depend on the draws they multiply"]


def _keeping(*kept: int) -> Callable[[Surrogate], Surrogate]:
    def keep(whole: Surrogate) -> Surrogate:
        parts = [whole.components[i] for i in kept]
        weights = sum((part.weights for part in parts[1:]), parts[0].weights)
        paths = [part.pathwise for part in parts if part.pathwise is not None]
        pathwise = sum(paths[1:], paths[0]) if paths else None
        return replace(whole, weights=weights, pathwise=pathwise, tensor_terms=())

    return keep


def _learned(method: Estimator) -> str:
    return f"what is learned ({_listed(method.info.learned)})"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)

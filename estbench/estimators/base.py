"""The contract of an estimator, and the registry of those that exist."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from estbench.errors import unknown_name
from estbench.models.policy import Policy

__all__ = [
    "Component",
    "Estimator",
    "EstimatorInfo",
    "PerDrawGradients",
    "Reward",
    "Surrogate",
    "info",
    "make",
    "names",
    "register",
]


class Reward(Protocol):
    """A black-box reward that counts its evaluations, hard and relaxed apart."""

    hard_evals: int
    relaxed_evals: int

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return rewards ``[n]`` of sequences int64 ``[n, T]``."""
        ...

    def relaxed(self, weights: Tensor) -> Tensor:
        """Return rewards ``[n]`` of relaxed sequences ``[n, T, V]``, differentiable in them."""
        ...


@dataclass(frozen=True)
class EstimatorInfo:
    """What an estimator declares about itself.

    Attributes:
      name: Its name, everywhere.
      summary: One line.
      unbiased: Whether E[draw] is the exact gradient.
      why_biased: The reason where it is not; empty otherwise.
      baseline: "none", "moving average", "critic", "constant" or "leave-one-out": what is
        subtracted from the reward. Variances are compared at equal baseline.
      group: Sequences that make one draw.
      needs_relaxed_reward: Whether the reward must accept relaxed tokens.
      learned: What is tuned or trained on past draws.
      hard_evals: Hard reward evaluations a draw, as a formula in T and N.
      relaxed_evals: Relaxed reward evaluations a draw.
      source: Paper and equation.
      version: Raised whenever the numbers it produces change; part of every record's key.
    """

    name: str
    summary: str
    source: str
    unbiased: bool = True
    why_biased: str = ""
    baseline: str = "none"
    group: int = 1
    needs_relaxed_reward: bool = False
    learned: tuple[str, ...] = ()
    hard_evals: str = "1"
    relaxed_evals: str = "0"
    version: int = 1


@dataclass(frozen=True)
class Component:
    """One term of a surrogate that is linear in a coefficient: weights, and perhaps a path.

    Attributes:
      name: What its coefficient is called.
      weights: Weights ``[n, m]`` on the surrogate's log-probabilities.
      pathwise: Terms ``[n]``, or None.
      scale: ``[n]`` where each draw of it is a multiple of the ``constant`` component's, which
        saves a backward pass.
    """

    name: str
    weights: Tensor
    pathwise: Tensor | None = None
    scale: Tensor | None = None


@dataclass(frozen=True)
class Surrogate:
    """n draws of a gradient, as functions of the policy's parameters.

    Attributes:
      log_probs: Log-probabilities ``[n, m]`` of the policy, with their graph.
      weights: What multiplies them, ``[n, m]``; keeps the graph of what is learned, none of the
        policy's.
      pathwise: Terms ``[n]`` that are differentiated as they are, or None.
      tokens: The sequences drawn, int64 ``[n, K, T]``.
      rewards: Their rewards ``[n, K]``.
      components: The terms whose coefficients are tuned on past draws; empty where none is.
      info: Numbers worth showing, such as the coefficients used.
      cache: What ``adapt`` reads again.
    """

    log_probs: Tensor
    weights: Tensor
    tokens: Tensor
    rewards: Tensor
    pathwise: Tensor | None = None
    components: tuple[Component, ...] = ()
    info: dict[str, float] = field(default_factory=dict)
    cache: dict[str, Any] = field(default_factory=dict)

    @property
    def values(self) -> Tensor:
        """``[n]``: the gradient of value i with respect to the policy's parameters is draw i."""
        score = (self.log_probs * self.weights.detach()).sum(dim=1)
        return score if self.pathwise is None else score + self.pathwise


class PerDrawGradients(Protocol):
    """What training a learned part may ask of the draws that were just used."""

    def gram(self, surrogate: Surrogate, components: Sequence[Component]) -> Tensor:
        """Return inner products ``[n, k, k]`` between the draws' gradients of k components."""
        ...

    def mean_squared_norm(
        self, surrogate: Surrogate, weights: Tensor, pathwise: Tensor | None
    ) -> Tensor:
        """Return the mean of the draws' squared norms, differentiable in ``weights``' graph."""
        ...


class Estimator:
    """Base class: turns a policy and a reward into draws of the gradient of E[reward].

    What is learned lives in the state that ``initial_state`` makes, is fixed while draws are made,
    and is trained by ``adapt`` afterwards, on draws that have been used.
    """

    info: EstimatorInfo

    def initial_state(self, policy: Policy, rng: torch.Generator) -> dict[str, Any]:
        """Return what is learned, before anything was; ``rng`` initialises it."""
        return {}

    def surrogate(
        self,
        policy: Policy,
        reward: Reward,
        draws: int,
        rng: torch.Generator,
        state: dict[str, Any],
    ) -> Surrogate:
        """Return ``draws`` independent draws."""
        raise NotImplementedError

    def adapt(
        self,
        policy: Policy,
        surrogate: Surrogate,
        gradients: PerDrawGradients,
        state: dict[str, Any],
    ) -> None:
        """Train what is learned on draws that have been used; changes ``state``."""

    def without_control(self, surrogate: Surrogate, state: dict[str, Any]) -> Surrogate | None:
        """Return the same draws with the control variates left out and the constant tuned alone.

        What an estimator's control variates are worth is the ratio of the two variances. None
        where there are none.
        """
        return None


_REGISTRY: dict[str, Callable[..., Estimator]] = {}


def register(factory: Callable[..., Estimator]) -> None:
    """Add an estimator: a callable that returns one, and takes ``rollouts`` by keyword."""
    _REGISTRY[factory().info.name] = factory


def names() -> list[str]:
    """Return the names of all estimators, in the order of the catalogue."""
    return list(_REGISTRY)


def make(name: str, rollouts: int = 0, truncation: int = 0) -> Estimator:
    """Return an estimator by name.

    Args:
      name: Its name.
      rollouts: Monte-Carlo rollouts a position that replace the terminal reward; 0 for none.
      truncation: Where the policy cuts backpropagation through time; anything but 0 makes the
        estimator biased, and its ``info`` says so.

    Raises:
      UserError: There is none of that name.
    """
    if name not in _REGISTRY:
        raise unknown_name("estimator", name, _REGISTRY, "(see: estbench list estimators)")
    made = _REGISTRY[name](rollouts=rollouts)
    if truncation and made.info.unbiased:
        why = f"backpropagation through time is cut every {truncation} steps"
        made.info = replace(made.info, unbiased=False, why_biased=why)
    return made


def info(name: str, truncation: int = 0) -> EstimatorInfo:
    """Return what the estimator of that name declares about itself."""
    return make(name, truncation=truncation).info

"""The contract of an estimator, and the registry of those that exist."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from inspect import signature
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from estbench.errors import UserError, printable, unknown_name
from estbench.models.policy import Policy

__all__ = [
    "Component",
    "Direct",
    "Draws",
    "Estimator",
    "EstimatorInfo",
    "PerDrawGradients",
    "Reward",
    "Surrogate",
    "TensorTerm",
    "check_name",
    "family",
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
      control: Whether it is wrong on purpose (a negative control): the check fails unless it finds
        the bias.
      baseline: "none", "moving average", "critic", "constant", "leave-one-out" or "group mean", or
        what else is subtracted from the reward. Variances are compared at equal baseline.
      group: Sequences that make one draw.
      any_group: Whether ``NAME-K`` is the same estimator with a group of K sequences, for any K of
        at least 2. ``make`` sets it, for a factory that takes ``group``.
      sampler: What its tokens are drawn from: "policy", or other words such as "a stale copy" if
        its weights correct for that. The check tests tokens only if they should be the policy's.
      needs_relaxed_reward: Whether the reward must accept relaxed tokens.
      straight_through: Whether its pathwise terms are differentiated by another Jacobian than
        their own, on purpose; then finite differences say nothing about them.
      learned: What is tuned or trained on past draws.
      hard_evals: Hard reward evaluations a draw, as a formula in T, V and K (the group), and in n
        where a call evaluates once for its n draws. Where it is "0", the rewards that draws report
        may be those of their relaxed sequences.
      relaxed_evals: Relaxed reward evaluations a draw.
      tuning_evals: Evaluations a draw, hard and relaxed together, that ``adapt`` makes beyond
        these, as a mean over many batches.
      source: Paper and equation.
      switches: What can be turned on and off by name: ``NAME@a+b`` has a and b alone, ``NAME@none``
        has none of them, ``NAME`` all.
      version: Raised whenever the numbers it produces change; part of every record's key.
    """

    name: str
    summary: str
    source: str
    unbiased: bool = True
    why_biased: str = ""
    control: bool = False
    baseline: str = "none"
    group: int = 1
    any_group: bool = False
    sampler: str = "policy"
    needs_relaxed_reward: bool = False
    straight_through: bool = False
    learned: tuple[str, ...] = ()
    hard_evals: str = "1"
    relaxed_evals: str = "0"
    tuning_evals: str = "0"
    switches: tuple[str, ...] = ()
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
class TensorTerm:
    """A term whose coefficient differs from one of the policy's tensors to another.

    Attributes:
      component: The term.
      coefficients: What multiplies it, by the parameter's name; 0 where a name is missing.
    """

    component: Component
    coefficients: Mapping[str, float]


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
      tensor_terms: Terms that are added with a coefficient for each of the policy's tensors; no
        number has such a gradient, so that ``values`` knows nothing of them.
      info: Numbers worth showing, such as the coefficients used.
      cache: What ``adapt`` reads again.
    """

    log_probs: Tensor
    weights: Tensor
    tokens: Tensor
    rewards: Tensor
    pathwise: Tensor | None = None
    components: tuple[Component, ...] = ()
    tensor_terms: tuple[TensorTerm, ...] = ()
    info: dict[str, float] = field(default_factory=dict)
    cache: dict[str, Any] = field(default_factory=dict)

    @property
    def values(self) -> Tensor:
        """``[n]``: the gradient of value i with respect to the policy's parameters is draw i."""
        score = (self.log_probs * self.weights.detach()).sum(dim=1)
        return score if self.pathwise is None else score + self.pathwise


@dataclass(frozen=True)
class Direct:
    """n draws of a gradient that are no graph of the policy, made whole, some at a time.

    Attributes:
      draws: Their number n.
      gradients: Maps (start, stop) to the draws from start up to stop: a tensor
        ``[stop - start, *shape]`` for each of the policy's parameters that require gradients, in
        their order. The same draws whenever it is asked, in whatever parts.
      tokens: The sequences drawn, int64 ``[n, K, T]``.
      rewards: Their rewards ``[n, K]``.
      info: Numbers worth showing.
      cache: What ``adapt`` reads again.
    """

    draws: int
    gradients: Callable[[int, int], Sequence[Tensor]]
    tokens: Tensor
    rewards: Tensor
    info: dict[str, float] = field(default_factory=dict)
    cache: dict[str, Any] = field(default_factory=dict)


Draws = Surrogate | Direct
"""What an estimator's ``surrogate`` may return."""


class PerDrawGradients(Protocol):
    """What training a learned part may ask of the draws that were just used."""

    def gram(self, surrogate: Surrogate, components: Sequence[Component]) -> Tensor:
        """Return inner products ``[n, k, k]`` between the draws' gradients of k components."""
        ...

    def gram_by_tensor(
        self, surrogate: Surrogate, components: Sequence[Component]
    ) -> dict[str, Tensor]:
        """Return the same for each of the policy's tensors alone, by the parameter's name."""
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
    ) -> Draws:
        """Return ``draws`` independent draws: a ``Surrogate``, or a ``Direct``."""
        raise NotImplementedError

    without_contexts: str = ""
    """Why it is for policies without contexts only; "" where it takes any."""

    def refusal(self, vocabulary: int, length: int) -> str:
        """Return "" where the estimator fits a problem of V tokens and T positions.

        Else one line with the number that says why, such as "all-action needs V T = 100,000
        evaluations a draw, more than 20,000".
        """
        return ""

    def adapt(
        self,
        policy: Policy,
        surrogate: Any,
        gradients: PerDrawGradients,
        state: dict[str, Any],
    ) -> None:
        """Train what is learned on draws that have been used; changes ``state``.

        ``surrogate`` is what this estimator's ``surrogate`` returned.
        """

    def without_control(self, surrogate: Surrogate, state: dict[str, Any]) -> Surrogate | None:
        """Return the same draws with the control variates left out and the constant tuned alone.

        What an estimator's control variates are worth is the ratio of the two variances. None
        where there are none.
        """
        return None


_REGISTRY: dict[str, Callable[..., Estimator]] = {}

Factory = TypeVar("Factory", bound=Callable[..., Estimator])

SAFE_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?")
RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{p}{i}" for p in ("COM", "LPT") for i in range(1, 10))}
"""Names that some systems keep for themselves."""


def register(factory: Factory) -> Factory:
    """Add an estimator; may stand over a class or a function as a decorator.

    One that is registered again, as when a cell of a notebook is run twice, takes its own place.

    Args:
      factory: Returns the estimator when it is called without arguments. It may take ``rollouts``
        by keyword, and ``group``, the number of sequences that make one draw: then ``NAME-K`` is
        the estimator with ``group=K``. One whose ``info`` declares switches takes ``switches`` by
        keyword as well: those that are on, or None for all of them.

    Returns:
      What was given.

    Raises:
      UserError: It makes no estimator, or one without a name that is free and fit for a folder.
    """
    made = factory()
    called = getattr(factory, "__qualname__", None) or type(made).__qualname__
    if not isinstance(made, Estimator):
        raise UserError(
            f"{called} makes {type(made).__name__}, no estimator: inherit from estbench.Estimator"
        )
    declared = getattr(made, "info", None)
    if not isinstance(declared, EstimatorInfo):
        raise UserError(
            f"{called} has no info: set info = estbench.EstimatorInfo(name=..., summary=..., "
            "source=...)"
        )
    if type(made).surrogate is Estimator.surrogate:
        raise UserError(f"{called} has no method surrogate, which makes its draws")
    name = declared.name
    if not isinstance(name, str) or not SAFE_NAME.fullmatch(name) or name.upper() in RESERVED:
        raise UserError(
            f"the name {name!r} cannot be a folder's: use letters, digits, '-', '_' and '.', "
            "at most 64, and begin with a letter or digit"
        )
    for taken, other in _REGISTRY.items():
        # Folders of some systems make no difference between a and A.
        if taken.casefold() == name.casefold():
            theirs, mine = _origin(other), _origin(factory)
            if taken != name or theirs != mine:
                whose = getattr(sys.modules.get(theirs[0]), "__file__", theirs[0])
                if theirs[0].startswith("estbench."):
                    whose = "estbench's own"
                raise UserError(f"the name {name!r} is taken ({whose}): choose another")
    head, size = _sized(name.casefold())
    if size and _origin(_REGISTRY[head])[0].startswith("estbench."):
        raise UserError(f"the name {name!r} is taken ({head} in groups of {size}): choose another")
    _REGISTRY[name] = factory
    return factory


def _origin(factory: Any) -> tuple[str, ...]:
    """Return where a factory was written; what is the same is one thing, registered again."""
    if isinstance(factory, partial):
        options = sorted(factory.keywords.items())
        return (*_origin(factory.func), repr(factory.args), repr(options))
    return (getattr(factory, "__module__", ""), getattr(factory, "__qualname__", repr(factory)))


def _discover() -> None:
    """Let installed packages register what they offer."""
    from estbench import plugins

    plugins.load_entry_points()


def names() -> list[str]:
    """Return the names of all estimators, in the order of the catalogue.

    They are without switches; of those that exist in groups of any size, it is the bare name.
    """
    _discover()
    return list(_REGISTRY)


def check_name(name: str) -> None:
    """Check that a name, with or without switches, is an estimator's.

    Raises:
      UserError: There is none of that name, or it has no such switch.
    """
    _parse(name)


def family(name: str) -> str:
    """Return the name in ``names()`` behind one with a size or switches: ``rloo`` of ``rloo-4``.

    Raises:
      UserError: As for ``check_name``.
    """
    return _parse(name)[0]


def make(name: str, rollouts: int = 0, truncation: int = 0, staleness: int = 1) -> Estimator:
    """Return an estimator by name.

    Args:
      name: Its name, perhaps with a size or with switches; see ``EstimatorInfo``.
      rollouts: Monte-Carlo rollouts a position that replace the terminal reward; 0 for none, or for
        the estimator's own number where it is made of rollouts.
      truncation: Where the policy cuts backpropagation through time; anything but 0 makes the
        estimator biased, and its ``info`` says so.
      staleness: Optimiser steps between the policy and the older one that an off-policy estimator
        draws from; others have none.

    Raises:
      UserError: There is none of that name, or it has no such switch, or no rollouts; or their
        number is negative.
    """
    if rollouts < 0:
        raise UserError(f"rollouts = {rollouts}: must be a whole number, at least 0")
    plain, options = _parse(name)
    named = bool(options)
    if _takes(_REGISTRY[plain], "staleness"):
        options["staleness"] = staleness
    made = _made(plain, rollouts, **options)
    if named:
        made.info = replace(made.info, name=name)
    if _takes(_REGISTRY[plain], "group"):
        made.info = replace(made.info, any_group=True)
    if truncation and made.info.unbiased:
        why = f"backpropagation through time is cut every {truncation} steps"
        made.info = replace(made.info, unbiased=False, why_biased=why)
    return made


def _made(plain: str, rollouts: int, **options: Any) -> Estimator:
    factory = _REGISTRY[plain]
    takes = signature(factory).parameters.values()
    if _takes(factory, "rollouts") or any(p.kind is p.VAR_KEYWORD for p in takes):
        return factory(rollouts=rollouts, **options)
    if rollouts:
        raise UserError(
            f"{plain} takes no rollouts: set rollouts = 0, or let its __init__ take `rollouts`"
        )
    return factory(**options)


def _takes(factory: Callable[..., Estimator], option: str) -> bool:
    """Return whether a factory names an option that may be given by keyword."""
    found = signature(factory).parameters.get(option)
    return found is not None and found.kind is not found.POSITIONAL_ONLY


def info(name: str, truncation: int = 0) -> EstimatorInfo:
    """Return what the estimator of that name declares about itself."""
    return make(name, truncation=truncation).info


def _sized(name: str) -> tuple[str, str]:
    """Return family and K of a name such as ``rloo-4``; the name and "" where it is none."""
    head, _, size = name.rpartition("-")
    if re.fullmatch("[0-9]+", size) and head in _REGISTRY and _takes(_REGISTRY[head], "group"):
        return head, size
    return name, ""


def _parse(name: str) -> tuple[str, dict[str, Any]]:
    """Return the name in the registry, and what the rest of the name says: ``group``, ``switches``.

    Names with a size or with switches are understood here and nowhere else.
    """
    _discover()
    plain, at, given = name.partition("@")
    options: dict[str, Any] = {}
    if plain not in _REGISTRY:
        plain, size = _sized(plain)
        if not size:
            raise _unknown(plain)
        if not re.fullmatch("[1-9][0-9]{0,5}", size) or size == "1":
            raise UserError(
                f"no estimator {plain}-{printable(size[:20])}: K in {plain}-K is a whole number "
                f"from 2 to 999999, such as {plain}-4"
            )
        options["group"] = int(size)
    if not at:
        return plain, options
    existing = _REGISTRY[plain]().info.switches
    if not existing:
        raise UserError(
            f"unknown estimator {name!r}: {plain} has no switches, write it without '@'"
        )
    switches = () if given == "none" else tuple(given.split("+"))
    for switch in switches:
        if switch not in existing:
            raise UserError(
                f"unknown switch {switch!r} in {name!r}: {plain} has {', '.join(existing)}; "
                "join them with '+', or write @none"
            )
    if len(set(switches)) < len(switches):
        raise UserError(f"{name!r} names a switch twice: {plain} has {', '.join(existing)}")
    return plain, options | {"switches": switches}


ALIASES = {
    "remax": "reinforce-greedy",
    "reinforce-plus-plus": "reinforce-standardised",
    "bnpo": "dapo",
    "vargrad": "rloo",
    "log-variance": "rloo",
    "importance-decision": "importance-sequence",
    "zgr": "reinmax",
}
"""Other names of the same thing, where the reward comes at the end and nothing is clipped."""


def _unknown(name: str) -> UserError:
    """Return the error for a name that does not exist; "rlo-16" is near to "rloo-16"."""
    if name in ALIASES:
        return UserError(f"{name} is {ALIASES[name]} here: write {ALIASES[name]}")
    known, size = list(_REGISTRY), name.rpartition("-")[2]
    if re.fullmatch("[1-9][0-9]{0,5}", size):
        known += [f"{one}-{size}" for one in _REGISTRY if _takes(_REGISTRY[one], "group")]
    return unknown_name("estimator", name, known, "(see: estbench list estimators)")

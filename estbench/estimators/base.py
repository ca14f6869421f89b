"""The contract of an estimator, and the registry of those that exist."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from inspect import signature
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from estbench.core.errors import UserError, printable
from estbench.core.registry import ESTIMATORS, Registry, register
from estbench.models.policy import Policy

__all__ = [
    "Component",
    "Direct",
    "Draws",
    "Estimator",
    "EstimatorInfo",
    "Learned",
    "PerDrawGradients",
    "Reward",
    "Section",
    "Surrogate",
    "TensorTerm",
    "check_name",
    "family",
    "info",
    "make",
    "names",
    "partner",
    "register",
]


class Section(Enum):
    """The parts of the catalogue in their order: heading, and the page that describes it."""

    SCORE_FUNCTIONS = "Score functions", "score-function.md"
    TRAINERS = "Trainers of language models", "trainers.md"
    CONTROL_VARIATES = "Control variates that see a relaxed token", "control-variates.md"
    COUPLED = "Coupled tokens, Stein operators, double control variates", "coupled-and-stein.md"
    RELAXED = "Relaxed, biased by design", "relaxed.md"
    WITHOUT_DERIVATIVE = "Without a derivative, and without noise", "controls.md"
    WRONG = "Wrong on purpose: the check has to find them", "../check.md"
    OTHER = "Others", ""


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
      plain: Whether it is nothing but its baseline: the partner that estimators with the same
        baseline are compared with.
      partner: The partner's name, if it is not the plain estimator with the same baseline.
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
    plain: bool = False
    partner: str = ""
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

    @classmethod
    def of(
        cls,
        log_probs: Tensor,
        weights: Tensor,
        tokens: Tensor,
        rewards: Tensor,
        group: int = 1,
        **more: Any,
    ) -> Surrogate:
        """Return the surrogate of sequences, of which K that are consecutive make a draw.

        Args:
          log_probs: ``[n K, ...]``.
          weights: In the same order, ``[n K, ...]``.
          tokens: int64 ``[n K, T]``.
          rewards: ``[n K]``.
          group: K.
          more: The other fields, as they are.
        """
        n = len(tokens) // group
        parts = (log_probs.reshape(n, -1), weights.reshape(n, -1))
        return cls(*parts, tokens.reshape(n, group, -1), rewards.reshape(n, group), **more)

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


Learned = dict[str, Any]
"""What an estimator tunes and trains, by name: tensors, modules, optimisers, numbers."""

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

    Attributes:
      info: What it declares about itself.
      section: Where the catalogue lists it; negative controls have a section of their own.
      hue: The family of colours that it is drawn in, if its name does not begin with one.
    """

    registry: ClassVar[Registry] = ESTIMATORS
    section: ClassVar[Section] = Section.OTHER
    hue: ClassVar[str] = ""

    info: EstimatorInfo

    def initial_state(self, policy: Policy, rng: torch.Generator) -> Learned:
        """Return what is learned, before anything was; ``rng`` initialises it."""
        return {}

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: Learned
    ) -> Draws:
        """Return ``draws`` independent draws: a ``Surrogate``, or a ``Direct``."""
        raise NotImplementedError

    contexts: int = 1
    """Contexts that a draw holds, where those of a policy may be mixed: a batch of prompts."""

    without_penalty: str = ""
    """Why it is of no use where the reward has no penalty; "" where it is."""

    without_contexts: str = ""
    """Why it is for policies without contexts only; "" where it takes any."""

    def refusal(self, vocabulary: int, length: int) -> str:
        """Return "" where the estimator fits a problem of V tokens and T positions.

        Else one line with the number that says why, such as "all-action needs V T = 100,000
        evaluations a draw, more than 20,000".
        """
        return ""

    def adapt(
        self, policy: Policy, surrogate: Any, gradients: PerDrawGradients, state: Learned
    ) -> None:
        """Train what is learned on draws that have been used; changes ``state``.

        ``surrogate`` is what this estimator's ``surrogate`` returned.
        """

    def without_control(self, surrogate: Surrogate, state: Learned) -> Surrogate | None:
        """Return the same draws with the control variates left out and the constant tuned alone.

        What an estimator's control variates are worth is the ratio of the two variances. None
        where there are none.
        """
        return None


def _declared(factory: Callable[..., Estimator]) -> Iterator[tuple[str, int, Any]]:
    """Yield what a factory registers; see ``Registry.read``."""
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
    head, size = _sized(str(declared.name).casefold())
    if size and head in ESTIMATORS.own:
        raise UserError(
            f"the name {declared.name!r} is taken ({head} in groups of {size}): choose another"
        )
    section = Section.WRONG if declared.control else made.section
    yield declared.name, 2 * list(Section).index(section) + (not declared.plain), factory


ESTIMATORS.read = _declared
ESTIMATORS.info = lambda factory: info(factory().info.name)


def names() -> list[str]:
    """Return the names of all estimators, in the order of the catalogue.

    The names have no switches and no group size: ``rloo`` stands for every ``rloo-K``.
    """
    return ESTIMATORS.names()


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
      rollouts: Monte-Carlo rollouts a position that replace the terminal reward, unless the name
        says how many (``seqgan-rollouts@16``); 0 for none, or for the estimator's own number where
        it is made of rollouts.
      truncation: Where the policy cuts backpropagation through time; anything but 0 makes the
        estimator biased, and its ``info`` says so.
      staleness: Optimiser steps between the policy and the older one that an off-policy estimator
        draws from, unless its name says so (``ppo-clip@4``); others have none.

    Raises:
      UserError: There is none of that name, or it has no such switch, or no rollouts; or their
        number is negative.
    """
    if rollouts < 0:
        raise UserError(f"rollouts = {rollouts}: must be a whole number, at least 0")
    plain, options = _parse(name)
    named = bool(options)
    if _takes(ESTIMATORS[plain], "staleness"):
        options.setdefault("staleness", staleness)
    made = _made(plain, **{"rollouts": rollouts, **options})
    if named:
        made.info = replace(made.info, name=name)
    if _takes(ESTIMATORS[plain], "group"):
        made.info = replace(made.info, any_group=True)
    if truncation and made.info.unbiased:
        why = f"backpropagation through time is cut every {truncation} steps"
        made.info = replace(made.info, unbiased=False, why_biased=why)
    return made


def _made(plain: str, rollouts: int, **options: Any) -> Estimator:
    factory: Callable[..., Estimator] = ESTIMATORS[plain]
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


def partner(name: str) -> str:
    """Return the plain estimator with the same baseline, in groups of the same size; or "".

    A control variate is compared with its partner, because the baseline does not differ. Plain
    estimators have none, and neither have estimators whose baseline no plain estimator has.
    """
    own = info(name)
    if own.plain:
        return ""
    others = (info(one) for one in ESTIMATORS.own)
    plain = own.partner or next(
        (other.name for other in others if other.plain and other.baseline == own.baseline), ""
    )
    if not plain or own.group in (1, info(plain).group):
        return plain
    return f"{plain}-{own.group}" if info(plain).any_group else plain


def _sized(name: str) -> tuple[str, str]:
    """Return family and K of a name such as ``rloo-4``; the name and "" where it is none."""
    head, _, size = name.rpartition("-")
    if (
        re.fullmatch("[0-9]+", size)
        and head in ESTIMATORS.entries
        and _takes(ESTIMATORS.entries[head], "group")
    ):
        return head, size
    return name, ""


def _parse(name: str) -> tuple[str, dict[str, Any]]:
    """Return the name in the registry, and what the rest of the name says about its options.

    Names with a size or with switches are understood here and nowhere else.
    """
    ESTIMATORS.load()
    plain, at, given = name.partition("@")
    options: dict[str, Any] = {}
    if plain not in ESTIMATORS.entries:
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
    if _takes(ESTIMATORS[plain], "staleness") and re.fullmatch("[0-9]{1,3}", given):
        return plain, options | {"staleness": int(given)}
    usual = ESTIMATORS[plain]()
    if getattr(usual, "rollouts", 0):
        if not re.fullmatch("[1-9][0-9]{0,2}", given):
            raise UserError(
                f"no estimator {plain}@{printable(given[:20])}: N in {plain}@N is a number of "
                f"rollouts from 1 to 999, such as {plain}@16"
            )
        return plain, options | {"rollouts": int(given)}
    existing = usual.info.switches
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
    size = name.rpartition("-")[2]
    sized: list[str] = []
    if re.fullmatch("[1-9][0-9]{0,5}", size):
        takers = (one for one, made in ESTIMATORS.entries.items() if _takes(made, "group"))
        sized = [f"{one}-{size}" for one in takers]
    return ESTIMATORS.unknown(name, sized)

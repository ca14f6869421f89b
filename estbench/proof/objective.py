"""Does what is learned receive the gradient of what it is trained on? By finite differences.

A control variate is trained on the mean squared norm of the draws, which is a function of its
parameters at fixed noise. A loss that is detached somewhere, or weights that carry a part of its
graph, train it on something else: nothing fails, the mean stays right, and the variance is not what
it could be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from estbench.estimators.base import Component, Surrogate
from estbench.meter.gradients import Tape
from estbench.proof.rewards import rng
from estbench.proof.setting import BrokenRuleError, Make, NotApplicableError, Setting, ensure

__all__ = ["learned_gradients"]

SEQUENCES = 16
STEP = 1e-5
DIRECTIONS = 3
TOLERANCE = 1e-3

LATE, EARLY_ALONE, EARLY = (False, False), (True, True), (True, False)
MOVED = (LATE, EARLY_ALONE, EARLY)
"""When what is trained is moved, see ``_slopes``. Weights are either made again while training, or
kept from when the draws were made: the first asks about the former, the others about the latter.
"""

Tensors = dict[str, dict[str, Tensor]]
"""What is trained, by path in the state and name inside a module."""


def learned_gradients(make: Make) -> None:
    """What is trained on the draws' mean squared norm receives its gradient, at fixed noise.

    A multiple or a function of the mean squared norm may be minimised just as well (a half of it,
    its logarithm), and other terms beside it: what reaches a parameter *through* it is compared.
    """
    whole, without = _trial(make), _trial(make, share=0.0)
    if not whole.losses:
        raise NotApplicableError("nothing is trained on the draws' mean squared norm")
    if whole.losses != without.losses:
        raise NotApplicableError("two calls with equal seeds differ: there is no fixed noise")
    ensure(
        min(whole.factors, default=0.0) >= 0,
        "the draws' mean squared norm is made larger, not smaller: its sign is wrong",
    )
    compared = 0
    for path, tensors in whole.tensors.items():
        through = {
            name: whole.gradients[path, name] - without.gradients[path, name] for name in tensors
        }
        if any(bool((g != 0).any()) for g in through.values()):
            _compare(make, whole, path, through)
            compared += 1
            continue
        own = any(bool((without.gradients[path, name] != 0).any()) for name in tensors)
        if own or not any((path, name) in whole.stepped for name in tensors):
            continue  # it is trained on something else, or not at all
        move = [_direction(tensors, 0)]
        ensure(
            not any(any(_slopes(make, whole, path, move, *when)) for when in MOVED),
            f"the draws' mean squared norm moves with {path}, and no gradient of it gets there: "
            "is the loss detached?",
        )
    if not compared:
        raise NotApplicableError("no tensor of its state is trained on the mean squared norm")


def _compare(make: Make, whole: _Trial, path: str, through: dict[str, Tensor]) -> None:
    tensors = whole.tensors[path]
    moves = [_direction(tensors, k) for k in range(DIRECTIONS)]
    single = [{name: d} for name, d in _direction(tensors, 0).items()]
    worst = "nothing that it is made of moves the draws' mean squared norm"
    for when in MOVED:
        slopes = _slopes(make, whole, path, moves, *when)
        if _agree(_along(through, moves), slopes):
            return
        if any(slopes):
            right = _slopes(make, whole, path, single, *when)
            mine = _along(through, single)
            k = max(range(len(single)), key=lambda k: abs(mine[k] - right[k]))
            worst = (
                f"along a direction in {path}.{next(iter(single[k]))} it is {mine[k]:.3g}, and "
                f"finite differences say {right[k]:.3g}: a part of the weights is detached, or "
                "counted twice, or the gradient is scaled"
            )
    raise BrokenRuleError(
        f"{path} receives another gradient than that of the draws' mean squared norm; {worst}"
    )


def _agree(given: Sequence[float], slopes: Sequence[float]) -> bool:
    gap = sum((a - b) ** 2 for a, b in zip(given, slopes, strict=True))
    return gap <= TOLERANCE**2 * sum(b**2 for b in slopes) and any(slopes)


def _along(gradient: dict[str, Tensor], moves: Sequence[dict[str, Tensor]]) -> list[float]:
    return [sum(float((gradient[name] * d).sum()) for name, d in move.items()) for move in moves]


def _slopes(
    make: Make,
    whole: _Trial,
    path: str,
    moves: Sequence[dict[str, Tensor]],
    early: bool,
    solved: bool,
) -> list[float]:
    """Return the slopes of what is minimised along moves of a part of the state.

    Args:
      make: Makes the estimator.
      whole: The trial that nothing was moved in.
      path: The part.
      moves: Directions, a tensor for each name that is moved.
      early: Whether the draws are made by what was moved, or by what it was.
      solved: Whether coefficients that are solved for in between are those of the first trial;
        else they follow what was moved.
    """
    factors = whole.factors if any(whole.factors) else [1.0] * len(whole.losses)

    def at(move: dict[str, Tensor], sign: int) -> float:
        moved = {(path, name): sign * STEP * d for name, d in move.items()}
        grams = whole.grams if solved else []
        losses = _trial(make, moved=moved, early=early, grams=grams).losses
        if len(losses) != len(factors):
            raise NotApplicableError("how often it asks for the squares depends on what it learned")
        return sum(f * loss for f, loss in zip(factors, losses, strict=True))

    return [(at(move, 1) - at(move, -1)) / (2 * STEP) for move in moves]


def _direction(tensors: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    noise = rng(20 + seed)
    return {n: torch.randn(p.shape, generator=noise, dtype=p.dtype) for n, p in tensors.items()}


@dataclass
class _Trial:
    """One training on fixed draws, without the step.

    Attributes:
      tensors: What could be trained.
      losses: The mean squared norms that were asked for before the first step.
      factors: What each is multiplied by in the loss; 0 where no gradient flowed through it.
      grams: The matrices that coefficients were solved from.
      gradients: What every tensor had as its gradient when it was to be moved.
      stepped: Tensors that an optimiser was to move.
    """

    tensors: Tensors
    losses: list[float]
    factors: list[float]
    grams: list[Tensor]
    gradients: dict[tuple[str, str], Tensor]
    stepped: set[tuple[str, str]]


def _trial(
    make: Make,
    share: float = 1.0,
    moved: dict[tuple[str, str], Tensor] | None = None,
    early: bool = False,
    grams: Sequence[Tensor] = (),
) -> _Trial:
    """Train on fixed draws, and take the step back.

    Args:
      make: Makes the estimator; all is made anew, so that nothing is left of other trials.
      share: What the gradient through the mean squared norm is multiplied by.
      moved: What is added to tensors of the state.
      early: Whether that is done before the draws are made, or after.
      grams: Matrices that are given in place of the draws' own, as far as they go.
    """
    setting = Setting(make)
    setting.adapt(SEQUENCES, seed=7)  # what is built on first use is there now
    tensors = _tensors(setting.state)
    noise = rng(10)
    with torch.no_grad():
        for tensor in (p for part in tensors.values() for p in part.values()):
            # A network whose last layer begins at 0 would show nothing of the others.
            tensor += 0.1 * torch.randn(tensor.shape, generator=noise, dtype=tensor.dtype)
            tensor.grad = None

    def move() -> None:
        for (path, name), change in (moved or {}).items():
            # Behind the back of a graph that was kept: losses are read, its gradients are not.
            tensors[path][name].data.add_(change)

    if early:
        move()
    with Tape(setting.policy) as tape:
        surrogate = setting.surrogate(max(2, SEQUENCES // setting.method.info.group), seed=8)
    if not early:
        move()
    spy = _Spy(tape, share, grams)
    flat = {(path, name): p for path, part in tensors.items() for name, p in part.items()}
    before = {key: p.detach().clone() for key, p in flat.items()}
    with _taken_back(spy) as at_step:
        setting.method.adapt(setting.policy, surrogate, spy, setting.state)
    gradients = {}
    for key, p in flat.items():
        found = at_step.get(id(p), p.grad)
        if found is None and not torch.equal(before[key], p):
            raise NotApplicableError("something is trained without one of torch's optimisers")
        gradients[key] = torch.zeros_like(p) if found is None else found.detach()
    stepped = {key for key, p in flat.items() if id(p) in at_step}
    return _Trial(tensors, spy.losses, spy.factors, spy.grams, gradients, stepped)


class _Spy:
    """The draws' gradients, with an ear on the mean squared norm."""

    def __init__(self, tape: Tape, share: float, given: Sequence[Tensor]) -> None:
        self.tape = tape
        self.share = share
        self.given = given
        self.grams: list[Tensor] = []
        self.listening = True
        self.losses: list[float] = []
        self.factors: list[float] = []

    def gram(self, surrogate: Surrogate, components: Sequence[Component]) -> Tensor:
        k = len(self.grams)
        self.grams.append(self.tape.gram(surrogate, components))
        return self.given[k].clone() if k < len(self.given) else self.grams[k]

    def mean_squared_norm(
        self, surrogate: Surrogate, weights: Tensor, pathwise: Tensor | None
    ) -> Tensor:
        value = self.tape.mean_squared_norm(surrogate, weights, pathwise)
        k = len(self.losses) if self.listening else None
        if k is not None:
            self.losses.append(float(value.detach()))
            self.factors.append(0.0)
        if not value.requires_grad:
            return value

        def passed(grad: Tensor) -> Tensor:
            if k is not None:
                self.factors[k] += float(grad)
            return self.share * grad

        value.register_hook(passed)  # type: ignore[no-untyped-call]
        return value * 1.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tape, name)


@contextmanager
def _taken_back(spy: _Spy) -> Iterator[dict[int, Tensor | None]]:
    """Undo every optimiser's step; yield the gradients that it was to be made with, by tensor."""
    found: dict[int, Tensor | None] = {}
    before: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def tensors(optimiser: Optimizer) -> list[Tensor]:
        return [p for group in optimiser.param_groups for p in group["params"]]

    def pre(optimiser: Optimizer, args: Any, kwargs: Any) -> None:
        if len(args) > 1 or kwargs.get("closure"):
            raise NotApplicableError("an optimiser asks for gradients itself, by a closure")
        before[id(optimiser)] = [(p, p.detach().clone()) for p in tensors(optimiser)]
        if not spy.losses:
            return  # a step on something else
        spy.listening = False
        for p in tensors(optimiser):
            found.setdefault(id(p), None if p.grad is None else p.grad.detach().clone())

    def post(optimiser: Optimizer, args: Any, kwargs: Any) -> None:
        with torch.no_grad():
            for p, value in before.pop(id(optimiser)):
                p.copy_(value)

    hooks = register_optimizer_step_pre_hook(pre), register_optimizer_step_post_hook(post)
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _tensors(state: Any, path: str = "state") -> Tensors:
    """Return what can be trained in a state: parameters of modules, and tensors on their own."""
    if isinstance(state, nn.Module):
        found: dict[str, Tensor] = {n: p for n, p in state.named_parameters() if p.requires_grad}
        return {path: found} if found else {}
    if isinstance(state, Tensor):
        return {path: {"value": state}} if state.requires_grad and state.is_leaf else {}
    items: Sequence[tuple[Any, Any]] = ()
    if isinstance(state, dict):
        items = list(state.items())
    elif isinstance(state, list | tuple):
        items = list(enumerate(state))
    return {k: v for key, value in items for k, v in _tensors(value, f"{path}.{key}").items()}

"""Per-draw gradients from one batched backward pass, and the checks that they are what they say.

A ``Tape`` listens to the policy's layers while a surrogate is made. One backward pass then yields
each layer's (input, output gradient) pairs, and from them squared norms, inner products or whole
gradients of every draw, without a loop over draws. (The identity is that of Goodfellow 2015,
"Efficient per-example gradient computations", extended to layers that are used in several calls:
their records are joined along rows before anything is squared.)
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from estbench.core.processes import described
from estbench.estimators.base import Component, Direct, Draws, Surrogate
from estbench.meter import loop, notices
from estbench.meter.attention import time_first
from estbench.meter.diagnosis import Fault, as_fault, layer_of, remedy_for
from estbench.meter.factors import Factors, join
from estbench.meter.rules import UNROLLED, Rule, Unrolled, rule_of
from estbench.meter.streamed import GivenShapeError, Streamed
from estbench.meter.taps import Declined, Tap, at_least_float32

__all__ = ["CHECK_ROWS_EVERY", "DrawGradients", "MeterError", "Tape"]

# The order of rows is a matter of code, not of parameters: whoever differentiates again and again
# compares it now and then. It takes a third of a small call.
CHECK_ROWS_EVERY = 16
TOLERANCE = 1e-5
ROUNDING = 4  # the same in units of the coarsest type's precision, where that is more


class MeterError(Exception):
    """An estimator gave gradients that do not fit the policy; the text names the tensor."""


class Tape:
    """Records the policy's layers while it is active (a context manager).

    Args:
      policy: The policy whose parameters are differentiated.
      fault: The fault of an earlier tape on the same policy. A policy that once needed the loop
        needs it always, checked or not.

    Attributes:
      fault: Why measurements have to go draw by draw, or "".
      declined: For each layer (by name) that was used in a way its rule does not cover, that way.
    """

    def __init__(self, policy: nn.Module, fault: str = "") -> None:
        self.policy = policy
        self.names = [name for name, p in policy.named_parameters() if p.requires_grad]
        self.parameters = [p for p in policy.parameters() if p.requires_grad]
        self.taps: list[Tap] = []
        self.fault = fault
        self.declined: dict[str, str] = {}
        self._undo: list[Callable[[], None]] = []

    def __enter__(self) -> Tape:
        turned = time_first(self.policy)
        for name, module in self.policy.named_modules():
            rule, unrolled = rule_of(module), UNROLLED.get(type(module))
            if rule is not None:
                hook = self._hook(name, _turned(rule) if module in turned else rule)
                self._undo.append(module.register_forward_hook(hook, with_kwargs=True).remove)
            # A forward pass that its owner has replaced is not the layer's own.
            elif unrolled is not None and "forward" not in vars(module):
                module.forward = self._unroll(name, module, unrolled)
                self._undo.append(partial(delattr, module, "forward"))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for undo in self._undo:
            undo()
        self._undo.clear()

    def _record(self, tap: Tap) -> None:
        # Of a frozen layer nothing is asked: its gradient would be held for nothing.
        if tap.output.requires_grad and any(p.parameter.requires_grad for p in tap.parts):
            self.taps.append(tap)

    def _hook(self, name: str, rule: Rule) -> Callable[..., None]:
        def hook(
            module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any], output: Any
        ) -> None:
            if torch.is_grad_enabled():
                try:
                    self._record(rule(module, (*inputs, *keywords.values()), output))
                except Declined as reason:
                    self.declined[name] = str(reason)
                except Exception as error:  # a rule must not end what the layer itself can do
                    self.declined[name] = _failed(module, error)

        return hook

    def _unroll(self, name: str, module: nn.Module, unrolled: Unrolled) -> Callable[..., Any]:
        own = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            if torch.is_grad_enabled():
                try:
                    return unrolled(module, self._record, *args, **kwargs)
                except Declined as reason:
                    self.declined[name] = str(reason)
                except Exception as error:  # the layer's own forward pass says what is wrong
                    self.declined[name] = _failed(module, error)
            return own(*args, **kwargs)

        return forward

    def differentiate(
        self,
        surrogate: Draws,
        check: bool = True,
        check_rows: bool = True,
        retain_graph: bool = False,
    ) -> DrawGradients:
        """Return the gradients of a surrogate's draws, or those that are given as they are.

        Args:
          surrogate: Made while the tape was recording.
          check: Compare the sum of the draws with autograd's gradient, tensor by tensor. Where
            they disagree the loop takes over and ``fault`` says why.
          check_rows: Compare three draws with autograd's on their own as well, which costs a
            second backward pass.
          retain_graph: Keep the graph, for ``gram`` or ``mean_squared_norm`` after this.

        Raises:
          MeterError: Gradients that are given are of other shapes than the parameters', or others
            when they are asked for again.
        """
        if isinstance(surrogate, Direct):
            return self._given(surrogate, check and check_rows)
        if self.fault:
            return self._loop(surrogate)
        weights, pathwise = surrogate.weights.detach(), surrogate.pathwise
        # The loop, should it be needed, wants the graph as well.
        keep = retain_graph or check or bool(surrogate.tensor_terms)
        found = self._with_terms(
            surrogate, self._backward(surrogate, weights, pathwise, retain_graph=keep)
        )
        half = any(p.dtype != at_least_float32(p.dtype) for p in self.parameters)
        if check:
            try:
                with as_fault():
                    self._check_sums(found)
                    if check_rows or half:
                        self._check_three(found, surrogate)
            except Fault as fault:
                self._give_up(fault, surrogate)
                return self._loop(surrogate)
        if half:
            # Autograd adds up draws in the parameters' own type, where many of them lose most.
            found = replace(found, sums=found.factors.sums())
        return found

    def gram(self, surrogate: Surrogate, components: Sequence[Component]) -> Tensor:
        """See ``estbench.estimators.base.PerDrawGradients.gram``; the graph is kept."""
        if not self._covers(surrogate):
            return loop.gram(surrogate, components, self.parameters)
        labels = [c.name for c in components]
        has_base = "constant" in labels
        passes = [i for i, c in enumerate(components) if not (has_base and c.scale is not None)]
        factors = self._factors_of(surrogate, [components[i] for i in passes])
        if factors is None:
            return loop.gram(surrogate, components, self.parameters)
        found = factors[0].gram(factors)
        if len(passes) == len(components):
            return found
        # Each component is a multiple of one that went backward: rows and columns follow.
        base = passes.index(labels.index("constant"))
        source = [base if i not in passes else passes.index(i) for i in range(len(components))]
        matrix = found[:, source][:, :, source].clone()
        for i, component in enumerate(components):
            if i not in passes and component.scale is not None:
                matrix[:, i, :] *= component.scale.unsqueeze(1)
                matrix[:, :, i] *= component.scale.unsqueeze(1)
        return matrix

    def gram_by_tensor(
        self, surrogate: Surrogate, components: Sequence[Component]
    ) -> dict[str, Tensor]:
        """See ``estbench.estimators.base.PerDrawGradients.gram_by_tensor``; the graph is kept."""
        factors = self._factors_of(surrogate, components) if self._covers(surrogate) else None
        if factors is None:
            found = loop.gram_by_tensor(surrogate, components, self.parameters)
        else:
            found = factors[0].gram_by_tensor(factors)
        return dict(zip(self.names, found, strict=True))

    def mean_squared_norm(
        self, surrogate: Surrogate, weights: Tensor, pathwise: Tensor | None
    ) -> Tensor:
        if self._covers(surrogate):
            found = self._backward(
                surrogate, weights, pathwise, retain_graph=True, create_graph=True, with_sums=False
            )
            if found.fault is None:
                return found.squared_norms().mean()
            self._give_up(found.fault, surrogate)
        return loop.mean_squared_norm(surrogate, weights, pathwise, self.parameters)

    def _factors_of(
        self, surrogate: Surrogate, components: Sequence[Component]
    ) -> list[Factors] | None:
        """Return the factors of each component's draws; None where a pass has a fault."""
        grads = [
            self._backward(
                surrogate, c.weights.detach(), c.pathwise, retain_graph=True, with_sums=False
            )
            for c in components
        ]
        for found in grads:
            if found.fault is not None:
                self._give_up(found.fault, surrogate)
                return None
        return [found.factors for found in grads]

    def _covers(self, surrogate: Surrogate) -> bool:
        """Return whether every parameter that the draws depend on has been recorded."""
        if self.fault:
            return False
        recorded = {id(part.parameter) for tap in self.taps for part in tap.parts}
        rest = [p for p in self.parameters if id(p) not in recorded]
        if not rest:
            return True
        total = surrogate.values.sum()
        found = torch.autograd.grad(total, rest, retain_graph=True, allow_unused=True)
        missed = [p for p, g in zip(rest, found, strict=True) if g is not None]
        if missed:
            index = next(i for i, p in enumerate(self.parameters) if p is missed[0])
            self._give_up(self._missed(self.names[index]), surrogate)
        return not missed

    def _give_up(self, fault: Fault, surrogate: Surrogate) -> None:
        """Keep the fault, and say before the loop begins that it will, and why."""
        name, layer = layer_of(self.policy, fault.parameter)
        reason = "all rows share one call of it" if fault.kind == "shared" else fault.reason
        where = f"{name or fault.parameter} ({type(layer).__name__})".lstrip()
        remedy = remedy_for(self.policy, fault, self._declined_at(fault.parameter))
        self.fault = f"{fault}; layer {type(layer).__name__}; faster: {remedy}"
        notices.announce(where, reason, remedy, partial(self._seconds_of_one, surrogate))

    def _seconds_of_one(self, surrogate: Surrogate) -> float:
        value = surrogate.values[0]
        found = []
        for _ in range(4):  # the first times, torch sets things up
            started = time.perf_counter()
            torch.autograd.grad(value, self.parameters, retain_graph=True, allow_unused=True)
            found.append(time.perf_counter() - started)
        return min(found)

    def _backward(
        self,
        surrogate: Surrogate,
        weights: Tensor,
        pathwise: Tensor | None,
        retain_graph: bool = False,
        create_graph: bool = False,
        with_sums: bool = True,
    ) -> DrawGradients:
        outputs, sent = [surrogate.log_probs], [weights]
        if pathwise is not None:
            outputs.append(pathwise)
            sent.append(torch.ones_like(pathwise))
        wanted = [tap.output for tap in self.taps]
        grads = torch.autograd.grad(
            outputs,
            [*wanted, *(self.parameters if with_sums else [])],
            sent,
            retain_graph=retain_graph or create_graph,
            create_graph=create_graph,
            allow_unused=True,
        )
        found: list[Tensor | None] = list(grads[: len(self.taps)])
        draws = surrogate.log_probs.shape[0]
        fault = None
        try:
            factors = join(self.taps, found, draws, self.parameters, self.names)
        except Fault as error:
            factors, fault = Factors.empty(draws, self.parameters), error
        sums = [
            torch.zeros_like(p) if g is None else g
            for p, g in zip(self.parameters, grads[len(self.taps) :], strict=False)
        ]
        return DrawGradients(factors, sums, self.names, fault)

    def _with_terms(self, surrogate: Surrogate, found: DrawGradients) -> DrawGradients:
        """Return the gradients with the terms added that have a coefficient for each tensor."""
        for term in surrogate.tensor_terms:
            part = term.component
            more = self._backward(
                surrogate, part.weights.detach(), part.pathwise, retain_graph=True
            )
            fault = found.fault or more.fault
            if fault is not None:
                return replace(found, fault=fault)
            c = [term.coefficients.get(name, 0.0) for name in self.names]
            sums = [a + k * b for a, b, k in zip(found.sums, more.sums, c, strict=True)]
            pairs = zip(found.scales(), more.scales(), c, strict=True)
            parts = [math.hypot(a, k * b) for a, b, k in pairs]
            factors = found.factors.plus(more.factors, c)
            found = replace(found, factors=factors, sums=sums, parts=parts)
        return found

    def _given(self, draws: Direct, check_rows: bool) -> DrawGradients:
        """Return gradients that are given whole; three draws are asked for once more."""
        factors = Streamed(draws, self.parameters, self.names)
        try:
            found = DrawGradients(factors, factors.sums(), self.names)
            if not check_rows:
                return found
            for i in sorted({0, draws.draws // 2, draws.draws - 1}):
                among = factors.whole(torch.tensor([i]))
                alone = draws.gradients(i, i + 1)
                for name, a, b in zip(self.names, among, alone, strict=True):
                    if not float((a - b).norm()) <= TOLERANCE * (float(b.norm()) + 1e-30):
                        raise MeterError(f"{name}: draw {i} is another one when asked for alone")
        except GivenShapeError as error:
            raise MeterError(str(error)) from None
        return found

    def _check_sums(self, found: DrawGradients) -> None:
        if found.fault is not None:
            raise found.fault
        mine = found.factors.sums()
        scales = found.scales()
        terms = found.factors.terms()
        for name, a, b, size, m in zip(self.names, mine, found.sums, scales, terms, strict=True):
            if b.dtype != at_least_float32(b.dtype):
                continue  # three draws are compared: a long sum of half precision says nothing
            gap = float((a - b).norm())
            growth = max(_growth(m * found.draws), math.sqrt(found.draws / 256))
            if not gap <= self._tolerance() * growth * (float(b.norm()) + size):
                raise self._missed(name)

    def _tolerance(self) -> float:
        """Return the relative gap that rounding explains, in the coarsest type in use."""
        types = {t.dtype for t in (*self.parameters, *(tap.output for tap in self.taps))}
        return max(TOLERANCE, ROUNDING * max(torch.finfo(t).eps for t in types))

    def _missed(self, parameter: str) -> Fault:
        why = self._declined_at(parameter) or (
            "a layer the meter has no rule for, or one used in another way"
        )
        return Fault(parameter, f"the draws do not add up to its gradient ({why})")

    def _declined_at(self, parameter: str) -> str:
        """Return why a rule declined the layer that holds a parameter, or ""."""
        for layer, reason in self.declined.items():
            if parameter.startswith(f"{layer}." if layer else ""):
                return reason
        return ""

    def _check_three(self, found: DrawGradients, surrogate: Surrogate) -> None:
        n = found.draws
        picked = torch.tensor(sorted({0, n // 2, n - 1}))
        # Three draws in one pass: unequal multiples, so that no mix-up among them cancels. They are
        # powers of two, because others would round the weights again. Where a control variate fits
        # well, most of the weights cancels, and the rest is not large beside that rounding.
        multiples = torch.tensor([1.0, -2.0, 4.0], dtype=surrogate.log_probs.dtype)[: len(picked)]
        device = surrogate.log_probs.device

        def of(values: Tensor) -> tuple[Tensor, ...]:
            total = (values[picked.to(device)] * multiples.to(device)).sum()
            # The graph is kept: if this disagrees, the loop needs it.
            return torch.autograd.grad(
                total, self.parameters, retain_graph=True, allow_unused=True, materialize_grads=True
            )

        truth = of(surrogate.values)
        sizes = [float(b.norm()) for b in truth]  # of what is added up, part by part: it may cancel
        for term in surrogate.tensor_terms:
            part = term.component
            more = of(replace(surrogate, weights=part.weights, pathwise=part.pathwise).values)
            c = [term.coefficients.get(name, 0.0) for name in self.names]
            truth = tuple(a + k * b for a, b, k in zip(truth, more, c, strict=True))
            sizes = [s + abs(k) * float(b.norm()) for s, b, k in zip(sizes, more, c, strict=True)]
        whole, terms = found.factors.whole(picked.to(device)), found.factors.terms()
        for name, rows, b, added, m in zip(self.names, whole, truth, sizes, terms, strict=True):
            # Draws and log-probabilities may be of different types, as may the policy's layers.
            a = torch.tensordot(multiples.to(rows), rows, dims=1)
            size = float(rows.reshape(len(rows), -1).norm(dim=1).sum())
            if not float((a - b).norm()) <= self._tolerance() * _growth(m) * (added + size):
                raise Fault(
                    name,
                    "single draws differ from autograd's "
                    "(rows of a call are not draw-major, or rows influence each other)",
                    "rows",
                )

    def _loop(self, surrogate: Surrogate) -> DrawGradients:
        whole = loop.gradients(surrogate, self.parameters, self.names)
        factors = Factors.direct(whole)
        return DrawGradients(factors, factors.sums(), self.names)


def _growth(terms: int) -> float:
    """Return by how much the rounding of a long sum is larger than that of a short one.

    Rows of an embedding are added up one by one, and a draw may score hundreds of sequences.
    """
    return math.sqrt(max(1.0, terms / 4096))


def _failed(module: nn.Module, error: Exception) -> str:
    return f"the rule for {type(module).__name__} failed with {described(error)[:200]}"


def _turned(rule: Rule) -> Rule:
    """Return the rule for a layer that is called with rows second, ``[T, n, ...]``."""

    def turned(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tap:
        if output.dim() != 3:
            return rule(module, inputs, output)
        tap = rule(module, (inputs[0].transpose(0, 1),), output)
        return replace(tap, arrange=lambda d: d.transpose(0, 1))

    return turned


@dataclass(frozen=True)
class DrawGradients:
    """The gradients of n draws, factored by layer; nothing of size [n, parameters] is held.

    Attributes:
      factors: What the gradients are made of.
      sums: The sum over draws, a tensor for each parameter.
      names: The parameters' names.
      fault: Why the factors are unusable, or None.
      parts: Where they are sums of terms that may cancel, the size of those, for each parameter.
    """

    factors: Factors
    sums: list[Tensor]
    names: list[str]
    fault: Fault | None = None
    parts: list[float] | None = None

    @property
    def draws(self) -> int:
        """Number of draws n."""
        return self.factors.draws

    def scales(self) -> list[float]:
        """Return for each parameter the size that the rounding of its sum goes with."""
        return self.factors.scales() if self.parts is None else self.parts

    def mean(self) -> list[Tensor]:
        """Return the mean gradient, a tensor for each parameter."""
        return [s / self.draws for s in self.sums]

    def tensor(self, name: str) -> Tensor:
        """Return every draw's gradient of one parameter, ``[n, *shape]``."""
        return self.factors.tensor(self.names.index(name))

    def squared_norms(self) -> Tensor:
        """Return ``[n]`` squared norms."""
        return self.factors.squared_norms()

    def squared_norms_by_tensor(self) -> Tensor:
        """Return ``[parameters, n]`` squared norms."""
        return self.factors.squared_norms_by_tensor()

    def dots(self, direction: Sequence[Tensor]) -> Tensor:
        """Return ``[n]`` inner products with one direction, given a tensor for each parameter."""
        return self.factors.dots(direction)

    def inner(self, other: DrawGradients) -> Tensor:
        """Return ``[n]`` inner products, draw by draw, with gradients from the same tape."""
        return self.factors.inner(other.factors)

    def second_moments(self, draws: int) -> tuple[list[Tensor], list[Tensor]]:
        """Return the sum of the first draws, and of their elements' squares (float64).

        Both are a tensor for each parameter.
        """
        return self.factors.second_moments(draws)

    def chunks(self, size: int = 256) -> Iterator[Tensor]:
        """Yield whole gradients ``[<= size, parameters in all]``."""
        for start in range(0, self.draws, size):
            picked = torch.arange(start, min(start + size, self.draws), device=self.sums[0].device)
            yield torch.cat([g.reshape(len(g), -1) for g in self.factors.whole(picked)], dim=1)

    def block_sums(self, blocks: int) -> Tensor:
        """Return the sums of ``blocks`` equal groups of consecutive draws, ``[blocks, P]``."""
        return self.factors.block_sums(blocks)

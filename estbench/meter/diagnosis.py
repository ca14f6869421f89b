"""Which layer keeps the meter from its fast way, and the change of the policy that avoids it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from estbench.core.processes import described
from estbench.meter.rules import UNROLLED, rule_of

__all__ = ["Fault", "layer_of", "remedy_for"]

LAYERS = "nn.Linear, nn.Embedding, nn.LSTM, nn.GRU, nn.MultiheadAttention or nn.LayerNorm"


class Fault(Exception):  # noqa: N818  (no error: the loop takes over)
    """The fast way cannot take a parameter.

    Attributes:
      parameter: Its name; "" where it is none in particular.
      reason: Why.
      kind: "shared" (rows share a call), "rows" (draws are mixed up) or "missed".
    """

    def __init__(self, parameter: str, reason: str, kind: str = "missed") -> None:
        super().__init__(f"{parameter}: {reason}" if parameter else reason)
        self.parameter, self.reason, self.kind = parameter, reason, kind


@contextmanager
def as_fault(parameter: str = "") -> Iterator[None]:
    """Turn whatever is raised inside the block into a fault, so that the loop takes over.

    A rule, one of a user's own above all, must not end what a loop of backward passes can do.
    """
    try:
        yield
    except Fault:
        raise
    except Exception as error:
        text = described(error)[:200]
        reason = f"its calls do not make a gradient of its shape ({text})"
        raise Fault(parameter, reason) from error


def layer_of(policy: nn.Module, parameter: str) -> tuple[str, nn.Module]:
    """Return the name and the module that hold a parameter; "" is the policy itself."""
    name = parameter.rpartition(".")[0]
    return name, dict(policy.named_modules()).get(name, policy)


def remedy_for(policy: nn.Module, fault: Fault, declined: str = "") -> str:
    """Return the change that avoids a fault, a sentence.

    Args:
      policy: The policy.
      fault: The fault.
      declined: Why the layer's rule did not take its call, or "".
    """
    name, layer = layer_of(policy, fault.parameter)
    kind = type(layer)
    call = f"self.{name}" if name else "the layer"
    if fault.kind == "shared":
        if kind is nn.Embedding:
            return (
                f"look positions up for each of the n rows, {call}(torch.arange(t).expand(n, t)) "
                f"in place of {call}(torch.arange(t))"
            )
        return f"give {call} an input of all n rows, x.expand(n, *x.shape) in place of x"
    if fault.kind == "rows":
        return (
            "compute each row from that row alone (no batch normalisation, no mean over rows) and "
            "keep the rows of a draw together; indices of positions need a row each, "
            "torch.arange(t).expand(n, t)"
        )
    if declined:
        return f"use {call} as a layer that the meter can read (see the reason), in eval mode"
    if rule_of(layer) is not None or kind in UNROLLED:
        return f"call {call}(x) itself wherever its parameters are used, not a function of them"
    attribute = fault.parameter.rpartition(".")[2]
    own = dict(layer.named_parameters(recurse=False)).get(attribute)
    if kind.__module__.startswith("torch.") or own is None:
        return f"use {LAYERS} instead"
    place, prefix = f"self.{fault.parameter}", f"{name}." if name else ""
    partner, rank = _low_rank_partner(layer, own)
    if partner:
        names = sorted((attribute, partner))
        return (
            f"LoRA by Parameters: make {' and '.join(f'self.{prefix}{x}' for x in names)} layers, "
            f"nn.Linear(in, {rank}, bias=False) and nn.Linear({rank}, out, bias=False), and call "
            "the one on the other's output in place of multiplying matrices"
        )
    if own.dim() <= 1:
        return (
            f"make {place} a layer, nn.Linear(1, {own.numel()}, bias=False), and write "
            f"{place}(torch.ones(n, 1)) for n rows"
        )
    a, b = tuple(own.shape)[:2]
    return (
        f"make {place} a layer: nn.Linear({b}, {a}, bias=False), called on x, if it multiplies x; "
        f"nn.Embedding({a}, {b}), called on an index of each row, if it is looked up"
    )


def _low_rank_partner(layer: nn.Module, own: nn.Parameter) -> tuple[str, int]:
    """Return the name of the matrix that makes a product of low rank with ``own``, and the rank.

    "" and 0 where the layer has none.
    """
    if own.dim() != 2:
        return "", 0
    for name, other in layer.named_parameters(recurse=False):
        if other is own or other.dim() != 2:
            continue
        for a, b in ((own, other), (other, own)):
            rank = a.shape[1]
            if rank == b.shape[0] and rank < min(a.shape[0], b.shape[1]):
                return name, rank
    return "", 0

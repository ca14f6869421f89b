"""Sequences of many policies at once: one of each, by parameters that differ from row to row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from estbench.models.policy import Policy, inverse_cdf

__all__ = ["sample_each"]


@torch.no_grad()
def sample_each(policy: Policy, parameters: Sequence[Tensor], uniforms: Tensor) -> Tensor:
    """Return a sequence for each set of parameters, int64 ``[n, T]``.

    Args:
      policy: The policy; its own parameters are not looked at, and stay as they are.
      parameters: A tensor ``[n, *shape]`` for each parameter that requires gradients, in order.
      uniforms: Noise ``[n, T]``, one number a token: equal numbers make equal sequences of equal
        policies.
    """
    own = [p for p in policy.parameters() if p.requires_grad]

    def one(row: list[Tensor], u: Tensor) -> Tensor:
        with _in_place_of(policy, own, row):
            memory = policy.initial_state(1)
            previous: Tensor | None = None
            tokens = []
            for t in range(policy.length):
                log_probs, memory = policy.step(previous, memory)
                previous = inverse_cdf(log_probs.exp(), u[t : t + 1])
                tokens.append(previous)
            return torch.cat(tokens)

    each = list(parameters)
    try:
        tokens: Tensor = torch.vmap(one)(each, uniforms)
    except (RuntimeError, NotImplementedError):
        # Not every layer of a policy can be told to work on many sets of parameters.
        rows = [one([p[i] for p in each], uniforms[i]) for i in range(len(uniforms))]
        tokens = torch.stack(rows)
    return tokens


@contextmanager
def _in_place_of(policy: Policy, own: Sequence[Tensor], given: Sequence[Tensor]) -> Iterator[None]:
    """Have other tensors where a policy's parameters are, also where one is used twice."""
    by_id: Mapping[int, Tensor] = {id(p): g for p, g in zip(own, given, strict=True)}
    replaced: list[tuple[dict[str, Tensor | None], str, Tensor]] = []
    for module in policy.modules():
        held: dict[str, Tensor | None] = module._parameters  # type: ignore[assignment]
        for name, parameter in held.items():
            if parameter is not None and id(parameter) in by_id:
                replaced.append((held, name, parameter))
    for held, name, parameter in replaced:
        held[name] = by_id[id(parameter)]
    try:
        yield
    finally:
        for held, name, parameter in replaced:
            held[name] = parameter

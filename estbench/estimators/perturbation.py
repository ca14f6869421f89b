"""Gradients from the reward of policies with other parameters: no derivative is taken at all.

    g = [f(b(theta + sigma e, u)) - f(b(theta - sigma e, u))] / (2 sigma) e

with a random direction e over all parameters, both sequences b drawn by the same numbers u.
Evolution strategies take e normal, SPSA takes signs. The mean is the gradient of the objective
smoothed by sigma e: the antithetic pair leaves a bias of order sigma^2. The variance grows with the
number of parameters, for one number is learned about all of them: what a derivative is worth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from estbench.core import noise
from estbench.core.errors import UserError
from estbench.estimators.base import (
    Direct,
    Estimator,
    EstimatorInfo,
    Learned,
    Reward,
    Section,
    register,
)
from estbench.models.policy import Policy, inverse_cdf

__all__ = ["Perturbation", "sample_each"]

NUMBERS = 1 << 24  # of perturbed parameters at a time, 64 MB in float32
FEW = 256  # parameters whose directions are kept; those of more are drawn again when asked for
SEEDS = 2**53


class Perturbation(Estimator):
    """g = [f(b+) - f(b-)] / (2 sigma) e, with b+ drawn at theta + sigma e, b- at theta - sigma e.

    Both sequences of the pair are drawn with the same random numbers. Directions e over many
    parameters are not kept, but drawn again from their seeds.

    Args:
      name: Name in the catalogue.
      law: "normal" or "signs".
      scale: sigma, in the parameters' own unit.
      summary: One line for the catalogue.
      source: Paper and equation.
    """

    section = Section.WITHOUT_DERIVATIVE
    hue = "evolution"

    without_contexts = "it perturbs the parameters of one policy, not of one a context"

    def __init__(self, name: str, law: str, scale: float, summary: str, source: str) -> None:
        self.law = law
        self.scale = scale
        self.info = EstimatorInfo(
            name=name,
            summary=summary,
            source=source,
            unbiased=False,
            why_biased=f"it is the gradient of the objective smoothed over {scale:g}",
            group=2,
            hard_evals="2",
        )

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: Learned
    ) -> Direct:
        """A draw is two sequences, of the policies on either side."""
        if policy.contexts is not None:
            raise UserError(f"{self.info.name}: {self.without_contexts}")
        T = policy.length
        parameters = [p.detach() for p in policy.parameters() if p.requires_grad]
        count = sum(p.numel() for p in parameters)
        # Double precision: single has so few numbers that two draws would share a seed.
        u = noise.uniform(rng, (draws, T + (count if count <= FEW else 1)), torch.float64)
        uniforms = u[:, :T].to(policy.dtype)
        size = max(1, NUMBERS // count)
        pairs = []
        for start in range(0, draws, size):
            stop = min(start + size, draws)
            moves = self._directions(u[start:stop, T:], parameters)
            sides = []
            for sign in (1, -1):
                moved = [
                    p.unsqueeze(0) + sign * self.scale * e
                    for p, e in zip(parameters, moves, strict=True)
                ]
                sides.append(sample_each(policy, moved, uniforms[start:stop]))
            pairs.append(torch.stack(sides, dim=1))
        tokens = torch.cat(pairs)
        rewards = reward(tokens.flatten(0, 1)).reshape(draws, 2)
        slopes = (rewards[:, 0] - rewards[:, 1]) / (2 * self.scale)

        def gradients(start: int, stop: int) -> list[Tensor]:
            moves = self._directions(u[start:stop, T:], parameters)
            each = slopes[start:stop].to(policy.dtype)
            return [e * each.reshape(-1, *[1] * (e.dim() - 1)) for e in moves]

        return Direct(draws, gradients, tokens, rewards)

    def _directions(self, u: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Return the directions of some draws, ``[n, *shape]`` for each parameter.

        Args:
          u: A number for each parameter ``[n, P]``, or one that they are made from, ``[n, 1]``.
          parameters: The policy's.
        """
        sizes, first = [p.numel() for p in parameters], parameters[0]
        if sum(sizes) > FEW:
            generator = torch.Generator(device=first.device)
            rows = [
                noise.uniform(generator.manual_seed(seed), (sum(sizes),), first.dtype)
                for seed in (u[:, 0] * SEEDS).long().tolist()
            ]
            u = torch.stack(rows)
        e = torch.where(u < 0.5, -1.0, 1.0) if self.law == "signs" else noise.normal(u)
        parts = zip(torch.split(e.to(first.dtype), sizes, dim=1), parameters, strict=True)
        return [part.reshape(-1, *p.shape) for part, p in parts]


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


_evolution = "the reward's slope between two policies, along a normal direction over all parameters"
_salimans = "Salimans et al. 2017, algorithm 1; antithetic as in section 2.1"
register(partial(Perturbation, "evolution-strategies", "normal", 0.1, _evolution, _salimans))
_signs = "the reward's slope between two policies, all parameters moved by the same amount"
register(partial(Perturbation, "spsa", "signs", 0.1, _signs, "Spall 1992, equation 2.2"))

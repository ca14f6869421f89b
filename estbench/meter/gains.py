"""How far E[reward] rises when a policy's parameters move: J(theta + delta) - J(theta).

Sequences x are drawn once, at theta, with rewards f. With w = p(x; theta + delta) / p(x; theta),

    J(theta + delta) - J(theta) = E_theta[(w - 1) (f - b)]

for any b, because E_theta[w] = 1. A difference of two sample means would drown in the noise of f;
here the noise shrinks with the step. Where all sequences can be listed, they are, and nothing is
noisy. A reward that holds minus the policy's log-probability (an evidence bound) changes with the
policy: f' = f - log w. That adds E[-w log w], minus the Kullback-Leibler divergence, written as
-E[w log w - w + 1], whose integrand is of second order in the step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from estbench.estimators.base import Reward
from estbench.meter.cost import sequences_at_once
from estbench.models.enumeration import LARGEST, enumerate_sequences
from estbench.models.policy import Policy, at_tokens

__all__ = ["Gain", "Gains", "gradient_blocks", "moved", "parameters", "untouched"]

LEAST_EFFECTIVE = 0.5  # share of effective sequences; below it they are drawn again
BLOCKS = 16  # parts of a large sample, whose spread gives its noise


@dataclass(frozen=True)
class Gain:
    """A gain and what is not known of it.

    Attributes:
      value: J(theta + delta) - J(theta).
      error: Standard error of ``value`` beyond first order in the step, over the sequences; 0 where
        all are listed. The noise of the first order is that of ``Gains.gradient``.
      effective: Share of effective sequences, (E w)^2 / E w^2.
      drawn_again: Whether sequences were drawn at theta + delta; ``error`` is then of the whole.
    """

    value: float
    error: float
    effective: float
    drawn_again: bool = False


class Gains:
    """Judges steps from where a policy is now.

    Args:
      policy: The policy; the contexts that it has now are the data that J is a mean over.
      reward: The reward; its counters are left alone.
      sequences: How many to draw, where they cannot be listed; shared out among the contexts, at
        least two of each.
      rng: Draws them.
      listed: Whether they are listed where they can be.
    """

    def __init__(
        self,
        policy: Policy,
        reward: Reward,
        sequences: int,
        rng: torch.Generator,
        listed: bool = True,
    ) -> None:
        self.policy, self.reward = policy, reward
        self.contexts = None if policy.contexts is None else policy.contexts.values
        M = policy.fewest_rows
        self.listed = listed and M * policy.vocabulary**policy.length <= LARGEST
        self.stream = rng.get_state(), rng.device
        with untouched(policy, reward), torch.no_grad():
            if self.listed:
                every = enumerate_sequences(policy.vocabulary, policy.length)
                self.tokens = every.to(policy.device).repeat(M, 1)
            else:
                self.tokens = policy.sample(M * max(2, sequences // M), rng)
            self.rewards = reward(self.tokens).double()
            self.log_p = self._log_p()
        f, each = self.rewards.view(M, -1), len(self.tokens) // M
        if self.listed:
            p = self.log_p.view(M, -1).softmax(dim=1)
            self.weights = (p / M).flatten()
            self.centred = (f - (p * f).sum(dim=1, keepdim=True)).flatten()
        else:
            self.weights = torch.full_like(self.rewards, 1 / len(self.tokens))
            # Without the sequence itself, so that nothing leans towards zero.
            self.centred = ((f - f.mean(dim=1, keepdim=True)) * (each / (each - 1))).flatten()

    def __call__(self, delta: Tensor) -> Gain:
        """Return the gain of a step ``[P]``, away from where the policy is."""
        with moved(self.policy, delta), untouched(self.policy, self.reward), torch.no_grad():
            log_w = self._log_p() - self.log_p
            w = log_w.exp()
            rest = (torch.expm1(log_w) - log_w) * self.centred
            parts = torch.expm1(log_w) * self.centred
            if getattr(self.reward, "holds_log_prob", False):
                divergence = w * log_w - torch.expm1(log_w)
                rest, parts = rest - divergence, parts - divergence
            value = float((self.weights * parts).sum())
            effective = float((self.weights * w).sum() ** 2 / (self.weights * w**2).sum())
            if self.listed:
                return Gain(value, 0.0, effective)
            if effective < LEAST_EFFECTIVE:
                return self._drawn_again(effective)
        return Gain(value, float(rest.std()) / len(rest) ** 0.5, effective)

    def gradient(self) -> Tensor:
        """Return the gradient of J on these sequences, ``[P]``, float64."""
        total: Tensor | None = None
        chosen = [p for p in self.policy.parameters() if p.requires_grad]
        with untouched(self.policy, self.reward):
            for rows, log_p in self._parts():
                value = (log_p * (self.weights * self.centred)[rows]).sum()
                found = torch.autograd.grad(value, chosen, materialize_grads=True)
                flat = torch.cat([g.double().flatten() for g in found])
                total = flat if total is None else total + flat
        assert total is not None
        return total

    def _drawn_again(self, effective: float) -> Gain:
        """Return the gain from sequences of the moved policy, by the same noise as the first."""
        state, device = self.stream
        rng = torch.Generator(device=device)
        rng.set_state(state)
        with self._given(slice(None)):
            parts = self.reward(self.policy.sample(len(self.tokens), rng)).double() - self.rewards
        return Gain(float(parts.mean()), float(parts.std()) / len(parts) ** 0.5, effective, True)

    def _log_p(self) -> Tensor:
        return torch.cat([log_p for _, log_p in self._parts()])

    def _parts(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield which rows, and their log-probabilities, float64; whole contexts at a time."""
        n, M = len(self.tokens), 1 if self.contexts is None else len(self.contexts)
        at_once = sequences_at_once(self.policy, n)
        each = n // M
        size = at_once if M == 1 else max(1, at_once // each) * each
        for start in range(0, n, size):
            rows = slice(start, min(start + size, n))
            tokens = self.tokens[rows]
            with self._given(slice(rows.start // each, -(-rows.stop // each))):
                found = self.policy.log_probs(tokens)
            yield rows, at_tokens(found, tokens).double().sum(dim=1)

    @contextmanager
    def _given(self, which: slice) -> Iterator[None]:
        if self.policy.contexts is None or self.contexts is None:
            yield
            return
        with self.policy.contexts.given(self.contexts[which]):
            yield


def gradient_blocks(policy: Policy, reward: Reward, sequences: int, rng: torch.Generator) -> Tensor:
    """Return independent estimates ``[16, P]`` of grad J, or the exact one ``[1, P]``.

    Args:
      policy: The policy, with the contexts that J is a mean over.
      reward: The reward; its counters are left alone.
      sequences: In all, where they cannot be listed.
      rng: Draws them.
    """
    first = Gains(policy, reward, sequences // BLOCKS, rng)
    if first.listed:
        return first.gradient().unsqueeze(0)
    others = (Gains(policy, reward, sequences // BLOCKS, rng) for _ in range(BLOCKS - 1))
    return torch.stack([first.gradient(), *(other.gradient() for other in others)])


def parameters(policy: Policy) -> Tensor:
    """Return a copy of the parameters that are trained, as one vector ``[P]``."""
    return torch.cat([p.detach().flatten() for p in policy.parameters() if p.requires_grad])


@torch.no_grad()
def move_to(policy: Policy, vector: Tensor) -> None:
    """Set the parameters that are trained."""
    chosen = [p for p in policy.parameters() if p.requires_grad]
    parts = torch.split(vector, [p.numel() for p in chosen])
    for p, part in zip(chosen, parts, strict=True):
        p.copy_(part.view_as(p))


@contextmanager
def moved(policy: Policy, delta: Tensor) -> Iterator[None]:
    """Have the parameters a step ``[P]`` further inside the block."""
    here = parameters(policy)
    move_to(policy, here + delta.to(here))
    try:
        yield
    finally:
        move_to(policy, here)


@contextmanager
def untouched(policy: Policy, reward: Reward, whole: bool = True) -> Iterator[None]:
    """Leave all counters alone and, if ``whole``, do not truncate backpropagation."""
    evals, contexts = (reward.hard_evals, reward.relaxed_evals), policy.contexts
    generated = 0 if contexts is None else contexts.generated
    cut = getattr(policy, "truncation", 0) if whole else 0
    if cut:
        policy.truncation = 0
    try:
        yield
    finally:
        reward.hard_evals, reward.relaxed_evals = evals
        if contexts is not None:
            contexts.generated = generated
        if cut:
            policy.truncation = cut

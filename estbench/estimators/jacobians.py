"""What a relaxed token hands to the reward, and the Jacobian that its gradient goes back through.

With l the log-probabilities of a step, p = exp(l), z = l + Gumbel noise and D the one-hot of
argmax z, every member of the family is

    x = a value (D, or a softmax of z)        forward
    dx/dl = sum_k c_k (diag q_k - q_k q_k')   backward

with distributions q_k that are not differentiated themselves. diag q - q q' is the Jacobian of a
softmax whose value is q.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from estbench.estimators.gumbel import conditional, one_hot

__all__ = [
    "GAP",
    "Rule",
    "Step",
    "gapped",
    "gumbel_rao",
    "gumbel_softmax",
    "reinmax",
    "relaxed_token",
    "st_gumbel",
    "straight_through",
]


@dataclass(frozen=True)
class Step:
    """One step's draw, all of it without a graph.

    Attributes:
      log_probs: l, normalised, ``[n, V]``.
      z: l + Gumbel noise ``[n, V]``.
      tokens: argmax z, int64 ``[n]``.
      conditional: Noise ``[n, K, V]`` for further draws of z given the tokens; K may be 0.
    """

    log_probs: Tensor
    z: Tensor
    tokens: Tensor
    conditional: Tensor

    @property
    def hard(self) -> Tensor:
        """D ``[n, V]``."""
        return one_hot(self.tokens, self.z.shape[-1], self.z.dtype)


Terms = Sequence[tuple[float, Tensor]]
Rule = Callable[[Step, float], tuple[Tensor, Terms]]
"""(step, temperature) -> the value ``[n, V]`` and (c_k, q_k), q_k ``[n, V]`` or ``[n, K, V]``; over
K its Jacobian is averaged."""


def relaxed_token(rule: Rule, log_probs: Tensor, step: Step, temperature: float) -> Tensor:
    """Return x ``[n, V]`` with the rule's value and, for gradients, the rule's Jacobian.

    Args:
      rule: One of those below.
      log_probs: l ``[n, V]`` with its graph.
      step: The draw.
      temperature: Of the softmax.
    """
    with torch.no_grad():
        value, terms = rule(step, temperature)
    moved = torch.zeros_like(value)
    for c, q in terms:
        # Linear in l, with the Jacobian of the softmax at q.
        each = log_probs if q.dim() == 2 else log_probs.unsqueeze(1)
        linear = q * (each - (q * each).sum(dim=-1, keepdim=True))
        moved = moved + c * (linear if q.dim() == 2 else linear.mean(dim=1))
    return value + (moved - moved.detach())


def gumbel_softmax(step: Step, temperature: float) -> tuple[Tensor, Terms]:
    """x = softmax(z / tau) and its own Jacobian: the gradient is that of the relaxed objective."""
    x = (step.z / temperature).softmax(dim=-1)
    return x, [(1 / temperature, x)]


def straight_through(step: Step, temperature: float) -> tuple[Tensor, Terms]:
    """x = D, the Jacobian of softmax(l / tau); at tau = 1 that of the mean of D, which is p."""
    q = (step.log_probs / temperature).softmax(dim=-1)
    return step.hard, [(1 / temperature, q)]


def st_gumbel(step: Step, temperature: float) -> tuple[Tensor, Terms]:
    """x = D, the Jacobian of softmax(z / tau)."""
    return step.hard, [(1 / temperature, (step.z / temperature).softmax(dim=-1))]


def gumbel_rao(step: Step, temperature: float) -> tuple[Tensor, Terms]:
    """x = D, ST-Gumbel's Jacobian averaged over K draws of z given D."""
    K = step.conditional.shape[1]
    log_probs = step.log_probs.unsqueeze(1).expand(-1, K, -1)
    z, _ = conditional(log_probs, step.tokens.unsqueeze(1).expand(-1, K), step.conditional)
    return step.hard, [(1 / temperature, (z / temperature).softmax(dim=-1))]


def reinmax(step: Step, temperature: float) -> tuple[Tensor, Terms]:
    """x = D, 2 J((p_tau + D) / 2) - J(p) / 2: Heun's method, exact for quadratic rewards.

    At tau = 1 that is (diag p - D p' - p D' + D D') / 2, Gumbel-Rao's Jacobian in the limit of
    temperature 0 (ZGR: Shekhovtsov 2023): given D, a softmax of z moves only where another token v
    ties with D, and the gap to it has the density p_v at 0.
    """
    tempered = (step.log_probs / temperature).softmax(dim=-1)
    return step.hard, [(2.0, (tempered + step.hard) / 2), (-0.5, step.log_probs.exp())]


GAP = 1.0


def gapped(step: Step, temperature: float) -> tuple[Tensor, Terms]:
    """x = D, the Jacobian of softmax((l + m) / tau): D's logit is raised to the largest one, and
    every other one lowered until it is a gap below that.
    """
    largest = step.log_probs.amax(dim=-1, keepdim=True)
    others = torch.minimum(step.log_probs, largest - GAP)
    moved = torch.where(step.hard > 0, largest, others)
    return step.hard, [(1 / temperature, (moved / temperature).softmax(dim=-1))]

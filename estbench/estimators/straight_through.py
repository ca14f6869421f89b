"""Relaxed estimators, biased by design: the reward is differentiated at its tokens' place.

    g = d/dtheta f(x_1, ..., x_T),   x_t = D_t or a softmax, dx_t/dl_t a Jacobian of choice

The chain is differentiated throughout: through x_t into the reward, and through x_t into the state
that the later steps are computed from. Members differ in the Jacobian and in what is fed on:
whoever rewards one-hots feeds one-hots to the policy, so that its sequences are the policy's own,
and whoever rewards softmaxes feeds softmaxes. One evaluation of the relaxed reward and one pass of
the policy a draw, and little variance; but the mean is not the gradient, unless the reward is
linear in each token (straight-through) or quadratic in one (ReinMax).

Where a policy ends sequences, nothing is relaxed after a token that ends one: the rest is filled up
as in the policy's own sequences, and no gradient comes from there.

With l the log-probabilities of a step, p = exp(l), z = l + Gumbel noise and D the one-hot of
argmax z, the relaxed token of every member is

    x = a value (D, or a softmax of z)        forward
    dx/dl = sum_k c_k (diag q_k - q_k q_k')   backward

with distributions q_k that are not differentiated themselves. diag q - q q' is the Jacobian of a
softmax whose value is q.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from estbench.core import noise
from estbench.estimators.base import (
    Estimator,
    EstimatorInfo,
    Learned,
    Reward,
    Section,
    Surrogate,
    register,
)
from estbench.estimators.gumbel import conditional, one_hot
from estbench.models.policy import Policy, keep_ending

__all__ = ["Relaxed", "Rule", "Step", "relaxed_token"]

LARGEST = 5_000_000  # numbers of noise a draw; a batch holds a hundred times as many


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


class Relaxed(Estimator):
    """g = d/dtheta f(x_1, ..., x_T), with relaxed tokens x_t; see the module.

    Args:
      name: Name in the catalogue.
      rule: One of the functions above.
      temperature: Of its softmax; fixed.
      inner: Draws K of z given the token, for Gumbel-Rao.
      summary: One line for the catalogue.
      source: Paper and equation.
      why: The reason of the bias.
    """

    section = Section.RELAXED
    hue = "gumbel"

    def __init__(
        self,
        name: str,
        rule: Rule,
        temperature: float = 1.0,
        inner: int = 0,
        summary: str = "",
        source: str = "",
        why: str = "",
    ) -> None:
        self.rule = rule
        self.temperature = temperature
        self.inner = inner
        self.info = EstimatorInfo(
            name=name,
            summary=summary,
            source=source,
            unbiased=False,
            why_biased=why,
            needs_relaxed_reward=True,
            straight_through=rule is not gumbel_softmax,
            hard_evals="0",
            relaxed_evals="1",
        )

    def refusal(self, vocabulary: int, length: int) -> str:
        """See ``Estimator.refusal``: the noise of further draws has to fit in memory."""
        numbers = self.inner * vocabulary * length
        if numbers <= LARGEST:
            return ""
        return f"{self.info.name} needs K V T = {numbers:,} numbers a draw, more than {LARGEST:,}"

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: Learned
    ) -> Surrogate:
        """A draw is one sequence."""
        T, V = policy.length, policy.vocabulary
        shapes: dict[str, Sequence[int]] = {"gumbel": (T, V), "conditional": (T, self.inner, V)}
        u = noise.uniforms(rng, draws, shapes, policy.dtype)
        gumbel = noise.gumbel(u["gumbel"])
        memory = policy.initial_state(draws)
        ended = torch.zeros(draws, dtype=torch.bool, device=gumbel.device)
        previous: Tensor | None = None
        sequence, tokens, chosen = [], [], []
        for t in range(T):
            log_probs, memory = policy.step(previous, memory)
            if policy.end is not None:
                # A relaxed token does not end a sequence by itself.
                log_probs = keep_ending(log_probs, ended, policy.end)
            detached = log_probs.detach()
            z = detached + gumbel[:, t]
            token = z.argmax(dim=-1)
            step = Step(detached, z, token, u["conditional"][:, t])
            previous = relaxed_token(self.rule, log_probs, step, self.temperature)
            if policy.end is not None:
                ended = ended | (token == policy.end)
            sequence.append(previous)
            tokens.append(token)
            chosen.append(log_probs.gather(1, token.unsqueeze(1)))
        value = reward.relaxed(torch.stack(sequence, dim=1))
        log_p = torch.cat(chosen, dim=1)
        drawn, zeros = torch.stack(tokens, dim=1), torch.zeros_like(log_p)
        return Surrogate.of(log_p, zeros, drawn, value.detach(), pathwise=value)


def _relaxed(name: str, rule: Rule, **options: Any) -> None:
    register(partial(Relaxed, name, rule, **options))


_relaxed(
    "gumbel-softmax",
    gumbel_softmax,
    temperature=0.5,
    summary="softmax of the perturbed log-probabilities at temperature 1/2, rewarded and fed on",
    source="Jang et al. 2017, equation 2; Maddison et al. 2017",
    why="it is the gradient of a relaxed sequence's reward, not of a sequence's",
)
_relaxed(
    "straight-through",
    straight_through,
    summary="tokens forward, the Jacobian of their mean backward",
    source="Bengio et al. 2013, section 4",
    why="the reward is taken for linear in every token",
)
_relaxed(
    "st-gumbel",
    st_gumbel,
    temperature=0.5,
    summary="tokens forward, Gumbel-softmax backward at temperature 1/2",
    source="Jang et al. 2017, section 2.2",
    why="the reward is taken for linear between a token and its softmax",
)
_relaxed(
    "gumbel-rao",
    gumbel_rao,
    temperature=0.5,
    inner=10,
    summary="st-gumbel, averaged over 10 draws of the noise given the token",
    source="Paulus et al. 2021, equations 7 and 11",
    why="it has the mean of st-gumbel",
)
_relaxed(
    "reinmax",
    reinmax,
    summary="tokens forward, a second-order Jacobian backward",
    source="Liu et al. 2023, algorithm 2",
    why="the reward is taken for quadratic in every token, and tokens for independent",
)
_relaxed(
    "gapped-straight-through",
    gapped,
    summary="tokens forward, a softmax without noise that has the token in front backward",
    source="Fan et al. 2022, section 3.2",
    why="the reward is taken for linear between a token and its softmax",
)
_relaxed(
    "decoupled-straight-through",
    straight_through,
    temperature=2.0,
    summary="straight-through with a temperature of 2 in the backward pass alone",
    source="Shah et al. 2024 (arXiv 2410.13331)",
    why="the reward is taken for linear, and the softmax for flatter than the policy",
)

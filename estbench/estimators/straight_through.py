"""Relaxed estimators, biased by design: the reward is differentiated at its tokens' place.

    g = d/dtheta f(x_1, ..., x_T),   x_t = D_t or a softmax, dx_t/dl_t a Jacobian of choice

The chain is differentiated throughout: through x_t into the reward, and through x_t into the state
that the later steps are computed from. Members differ in the Jacobian alone (see ``jacobians``) and
in what is fed on: whoever rewards one-hots feeds one-hots to the policy, so that its sequences are
the policy's own, and whoever rewards softmaxes feeds softmaxes. One evaluation of the relaxed
reward and one pass of the policy a draw, and little variance; but the mean is not the gradient,
unless the reward is linear in each token (straight-through) or quadratic in one (ReinMax).

Where a policy ends sequences, nothing is relaxed after a token that ends one: the rest is filled up
as in the policy's own sequences, and no gradient comes from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from estbench.core import noise
from estbench.estimators import jacobians
from estbench.estimators.base import (
    Estimator,
    EstimatorInfo,
    Learned,
    Reward,
    Section,
    Surrogate,
    register,
)
from estbench.estimators.jacobians import Rule, Step, relaxed_token
from estbench.models.policy import Policy, keep_ending

__all__ = ["Relaxed"]

LARGEST = 5_000_000  # numbers of noise a draw; a batch holds a hundred times as many


class Relaxed(Estimator):
    """g = d/dtheta f(x_1, ..., x_T), with relaxed tokens x_t; see the module.

    Args:
      name: Name in the catalogue.
      rule: Name of one of the rules in ``jacobians``.
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
        rule: str,
        temperature: float = 1.0,
        inner: int = 0,
        summary: str = "",
        source: str = "",
        why: str = "",
    ) -> None:
        self.rule: Rule = getattr(jacobians, rule)
        self.temperature = temperature
        self.inner = inner
        self.info = EstimatorInfo(
            name=name,
            summary=summary,
            source=source,
            unbiased=False,
            why_biased=why,
            needs_relaxed_reward=True,
            straight_through=rule != "gumbel_softmax",
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
        return Surrogate(
            log_p,
            torch.zeros_like(log_p),
            torch.stack(tokens, dim=1).unsqueeze(1),
            value.detach().unsqueeze(1),
            pathwise=value,
        )


def _relaxed(name: str, rule: str, **options: Any) -> None:
    def factory() -> Estimator:
        return Relaxed(name, rule, **options)

    register(factory)


_relaxed(
    "gumbel-softmax",
    "gumbel_softmax",
    temperature=0.5,
    summary="softmax of the perturbed log-probabilities at temperature 1/2, rewarded and fed on",
    source="Jang et al. 2017, equation 2; Maddison et al. 2017",
    why="it is the gradient of a relaxed sequence's reward, not of a sequence's",
)
_relaxed(
    "straight-through",
    "straight_through",
    summary="tokens forward, the Jacobian of their mean backward",
    source="Bengio et al. 2013, section 4",
    why="the reward is taken for linear in every token",
)
_relaxed(
    "st-gumbel",
    "st_gumbel",
    temperature=0.5,
    summary="tokens forward, Gumbel-softmax backward at temperature 1/2",
    source="Jang et al. 2017, section 2.2",
    why="the reward is taken for linear between a token and its softmax",
)
_relaxed(
    "gumbel-rao",
    "gumbel_rao",
    temperature=0.5,
    inner=10,
    summary="st-gumbel, averaged over 10 draws of the noise given the token",
    source="Paulus et al. 2021, equations 7 and 11",
    why="it has the mean of st-gumbel",
)
_relaxed(
    "reinmax",
    "reinmax",
    summary="tokens forward, a second-order Jacobian backward",
    source="Liu et al. 2023, algorithm 2",
    why="the reward is taken for quadratic in every token, and tokens for independent",
)
_relaxed(
    "gapped-straight-through",
    "gapped",
    summary="tokens forward, a softmax without noise that has the token in front backward",
    source="Fan et al. 2022, section 3.2",
    why="the reward is taken for linear between a token and its softmax",
)
_relaxed(
    "decoupled-straight-through",
    "straight_through",
    temperature=2.0,
    summary="straight-through with a temperature of 2 in the backward pass alone",
    source="Shah et al. 2024 (arXiv 2410.13331)",
    why="the reward is taken for linear, and the softmax for flatter than the policy",
)

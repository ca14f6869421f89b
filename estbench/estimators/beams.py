"""Stochastic beam search: K distinct sequences, drawn without replacement in T steps.

Kool et al. 2019, "Stochastic beams and where to find them". Every sequence arrives after a time
that is exponential with its probability as rate; the first K to arrive are a sample without
replacement. (-log of a time is a perturbed log-probability, log p + Gumbel noise, and the paper's
top-down truncated Gumbels are these times.) A prefix arrives when the first of its sequences does.
Of its continuations, the first arrives with it and each of the others later, by the time that it
lies behind in a race among them: an exponential race has no memory.

All in float64, and in logarithms of times: a sequence of 20 tokens out of 5,000 has a probability
that float32 does not know, and what a set leaves of the whole is a small difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from estbench.core import noise
from estbench.models.policy import Policy
from estbench.models.trees import map_rows

__all__ = ["Beams", "beam_noise", "beam_search"]

RARE = -1_000.0
"""Log-probability of a single step below which a sequence cannot come: it goes on after its end."""


@dataclass(frozen=True)
class Beams:
    """K sequences of each draw, in the order of arrival.

    Where there are fewer than K, copies of the first fill up, with log-probability -inf.

    Attributes:
      tokens: int64 ``[n, K, T]``.
      log_p: Log-probabilities of whole sequences, float64 ``[n, K]``.
      log_times: Logarithms of the times of arrival, float64 ``[n, K]``; inf where there are fewer.
    """

    tokens: Tensor
    log_p: Tensor
    log_times: Tensor


def beam_noise(policy: Policy, beams: int) -> dict[str, Sequence[int]]:
    """Return the noise a draw needs, for ``noise.uniforms``; in float64."""
    return {"root": (), "beams": (policy.length, beams, policy.vocabulary)}


@torch.no_grad()
def beam_search(policy: Policy, uniforms: dict[str, Tensor], beams: int) -> Beams:
    """Return sequences drawn without replacement.

    Args:
      policy: The policy.
      uniforms: Blocks "root" ``[n]`` and "beams" ``[n, T, K, V]``, float64.
      beams: Sequences K a draw.
    """
    n, K, T, V = len(uniforms["root"]), beams, policy.length, policy.vocabulary
    race = noise.exponential(uniforms["beams"]).log()
    times = race.new_full((n, K), torch.inf)
    times[:, 0] = noise.exponential(uniforms["root"]).log()
    log_p = race.new_zeros(n, K)
    tokens = torch.zeros(n, K, T, dtype=torch.int64, device=policy.device)
    state, previous = policy.initial_state(n * K), None
    first_row = torch.arange(n, device=policy.device).unsqueeze(1) * K
    for t in range(T):
        log_probs, state = policy.step(previous, state)
        step = log_probs.double().log_softmax(dim=1).reshape(n, K, V)
        # Log times in units of the prefix's own probability, and how far each lies behind.
        alone = race[:, t] - step
        behind = alone + _log1mexp(alone - alone.amin(dim=2, keepdim=True))
        arrival = torch.logaddexp(times.unsqueeze(2), behind - log_p.unsqueeze(2))
        arrival = arrival.masked_fill(step < RARE, torch.inf).flatten(1)
        kept = arrival.topk(K, dim=1, largest=False, sorted=True)
        times, parent, token = kept.values, kept.indices // V, kept.indices % V
        log_p = (log_p.unsqueeze(2) + step).flatten(1).gather(1, kept.indices)
        tokens = tokens.gather(1, parent.unsqueeze(2).expand(n, K, T))
        tokens[:, :, t] = token
        rows = (first_row + parent).flatten()
        state = map_rows(state, partial(torch.index_select, dim=0, index=rows))
        previous = token.flatten()
    missing = times == torch.inf
    tokens = torch.where(missing.unsqueeze(2), tokens[:, :1], tokens)
    return Beams(tokens, log_p.masked_fill(missing, -torch.inf), times)


def _log1mexp(x: Tensor) -> Tensor:
    """Return log(1 - exp(-x)) for x >= 0; -inf at 0 (Maechler 2012)."""
    return torch.where(x > 0.693, torch.log1p(-torch.exp(-x)), torch.log(-torch.expm1(-x)))

"""Gradients from K distinct sequences: the unordered set estimator, and sampling with a threshold.

Both draw without replacement by stochastic beam search, and weigh each sequence so that the mean is
the gradient. Duplicates, which a peaked policy draws again and again, teach nothing; here there are
none. Where there are no more than K sequences at all, both give the exact gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial

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
from estbench.estimators.returns import evaluations, rollout_noise, token_returns
from estbench.models.policy import Policy, at_tokens
from estbench.models.trees import map_rows

__all__ = ["UnorderedSet", "WithoutReplacement", "beam_search", "order_probabilities"]


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
    """Return sequences drawn without replacement, by stochastic beam search.

    Kool et al. 2019, "Stochastic beams and where to find them". Every sequence arrives after a time
    that is exponential with its probability as rate; the first K to arrive are a sample without
    replacement. (-log of a time is a perturbed log-probability, log p + Gumbel noise, and the
    paper's top-down truncated Gumbels are these times.) A prefix arrives when the first of its
    sequences does. Of its continuations, the first arrives with it and each of the others later, by
    the time that it lies behind in a race among them: an exponential race has no memory.

    All in float64, and in logarithms of times: a sequence of 20 tokens out of 5,000 has a
    probability that float32 does not know, and what a set leaves of the whole is a small
    difference.

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


def order_probabilities(log_p: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probabilities of who came first, and of who came second given the first.

    For a set S of k sequences with probabilities p_i, let H(U) be the sum, over the orders in which
    S - U can follow once U is drawn, of the product of 1 / (1 - p(U) - what has been drawn since).
    Then p(S) = H({}) prod_i p_i, and p^{D-U}(S-U) = H(U) prod_i p_i over those not in U, so that
    the ratios of the unordered set estimator (Kool et al. 2020) are ratios of H:

        p(s) R(S, s)         = H({s}) / H({}),            the probability that s came first;
        p(s') R^{D-s}(S, s') = H({s, s'}) / H({s}),       that s' came next.

    The p_i themselves, far too small for floating-point numbers where sequences are long, drop out.
    H is found for all 2^k subsets, the full one first: H(U) = sum_{i not in U} H(U + i) / (1 -
    p(U)).

    Args:
      log_p: Log-probabilities of distinct sequences, float64 ``[n, k]``; -inf where there were
        fewer than k to draw from.

    Returns:
      ``[n, k]``, and ``[n, k, k]`` with the first along rows. The diagonal of the second holds p(s)
      itself, which is what the others of a row lack of 1.
    """
    p = log_p.exp()
    k = p.shape[1]
    members = _members(k).to(p.device, p.dtype)
    left = (1 - p @ members.t()).clamp_min(torch.finfo(p.dtype).eps)
    orders = torch.zeros_like(left)
    orders[:, -1] = 1.0
    for subsets, following in _levels(k):
        orders[:, subsets] = orders[:, following].sum(dim=2) / left[:, subsets]
    singles = 1 << torch.arange(k)
    first = orders[:, singles] / orders[:, :1]
    second = orders[:, singles.unsqueeze(1) | singles] / orders[:, singles].unsqueeze(2)
    second = second.diagonal_scatter(p, dim1=1, dim2=2)
    # A set of everything says nothing about who came first or next but what p says.
    everything = (log_p == -torch.inf).any(dim=1)
    first = torch.where(everything.unsqueeze(1), p, first)
    second = torch.where(everything.view(-1, 1, 1), p.unsqueeze(1), second)
    return first, second


@cache
def _members(k: int) -> Tensor:
    """Return who is in each subset, bool ``[2^k, k]``; a subset's number is a bit a member."""
    return (torch.arange(1 << k).unsqueeze(1) >> torch.arange(k) & 1).bool()


@cache
def _levels(k: int) -> list[tuple[Tensor, Tensor]]:
    """Return subsets ``[m]`` by size, the largest first, with those of one more ``[m, k']``."""
    members = _members(k)
    sizes = members.sum(dim=1)
    found = []
    for size in range(k - 1, -1, -1):
        subsets = (sizes == size).nonzero().squeeze(1)
        following = [
            [int(u) | 1 << i for i in range(k) if not members[u, i]] for u in subsets.tolist()
        ]
        found.append((subsets, torch.tensor(following)))
    return found


class _Distinct(Estimator):
    """What the two have in common: beams, rewards, and weights that a subclass finds.

    Args:
      group: Sequences K a draw whose rewards are used, at least 2.
      further: Sequences beyond them that are drawn and not evaluated.
      own_baseline: Whether the set's own rewards serve as a baseline.
      rollouts: Rollouts N a position; 0 for the terminal reward.
      name: Name in the catalogue.
      summary: One line for the catalogue.
      source: Paper and section.
    """

    section = Section.SCORE_FUNCTIONS
    hue = "arm"

    def __init__(
        self,
        group: int,
        further: int,
        own_baseline: bool,
        rollouts: int,
        name: str,
        summary: str,
        source: str,
    ) -> None:
        self.beams = group + further
        self.own_baseline = own_baseline
        self.rollouts = rollouts
        self.info = EstimatorInfo(
            name=name,
            summary=summary,
            source=source,
            baseline="the set's own" if own_baseline else "none",
            partner="rloo" if own_baseline else "",  # both use the other sequences
            group=group,
            hard_evals=evaluations(rollouts, group),
        )

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: Learned
    ) -> Surrogate:
        """A draw is a set."""
        K, T = self.info.group, policy.length
        further = {
            name: (K, *shape) for name, shape in rollout_noise(policy, self.rollouts).items()
        }
        shapes = {**beam_noise(policy, self.beams), **further}
        u = noise.uniforms(rng, draws, shapes, torch.float64)
        beams = beam_search(policy, u, self.beams)
        tokens = beams.tokens[:, :K].reshape(draws * K, T)
        rolled = {name: u[name].flatten(0, 1).to(policy.dtype) for name in further}
        returns, terminal = token_returns(policy, reward, tokens, rolled)
        found = self.weights(beams, returns.reshape(draws, K, T).double())
        chosen = at_tokens(policy.log_probs(tokens), tokens)
        distinct = (beams.log_p[:, :K] > -torch.inf).sum(dim=1)
        info = {"distinct": float(distinct.double().mean())}
        return Surrogate.of(chosen, found.to(policy.dtype), tokens, terminal, K, info=info)

    def weights(self, beams: Beams, returns: Tensor) -> Tensor:
        """Return what multiplies the scores, for returns ``[n, K, T]``."""
        raise NotImplementedError


class UnorderedSet(_Distinct):
    """g = sum_{s in S} p(s) R(S, s) S_s [f(s) - sum_{s' in S} p(s') R^{D-s}(S, s') f(s')].

    Kool et al. 2020, "Estimating gradients for discrete random variables by sampling without
    replacement", section 4: the mean of the single-sample estimator given which K were drawn, and
    not in what order. p(s) R(S, s) is the probability that s came first, and p(s') R^{D-s}(S, s')
    that s' came next; see ``order_probabilities``. The sum over s' is the set's own baseline, which
    may be left out. K hard evaluations, and K T steps of the search beside K T of the score.
    """

    def __init__(self, group: int, own_baseline: bool = True, rollouts: int = 0) -> None:
        super().__init__(
            group,
            0,
            own_baseline,
            rollouts,
            name=f"unordered-set-{group}{'' if own_baseline else '-none'}",
            summary=f"the unordered set estimator, {group} distinct sequences"
            + ("" if own_baseline else ", without its baseline"),
            source="Kool et al. 2020, section 4",
        )

    def weights(self, beams: Beams, returns: Tensor) -> Tensor:
        first, second = order_probabilities(beams.log_p)
        if self.own_baseline:
            returns = returns - second @ returns
        return first.unsqueeze(2) * returns


class WithoutReplacement(_Distinct):
    """g = sum_{s in S} w(s) S_s [f(s) (1 - p(s) + w(s)) - sum_{s' in S} w(s') f(s')], w = p / q.

    S are the first K to arrive and kappa the time at which the next one does; q(s) = 1 - exp(-p(s)
    kappa) is the probability of arriving before it. Kool et al. 2019, "Buy 4 REINFORCE samples, get
    a baseline for free!", section 4. The sum over s', with w(s) f(s) in it replaced by p(s) f(s),
    is a baseline whose mean does not depend on s. K hard evaluations; the search follows K + 1.

    Weights go with 1 / kappa, and two of them are multiplied where there is a baseline: the draws'
    fourth moment is finite only for K of 8 and more. (The authors' way out, to divide by the sum of
    the weights, is biased.)
    """

    def __init__(self, group: int, own_baseline: bool = True, rollouts: int = 0) -> None:
        super().__init__(
            group,
            1,
            own_baseline,
            rollouts,
            name=f"without-replacement-{group}{'' if own_baseline else '-none'}",
            summary=f"importance weights on {group} sequences drawn without replacement"
            + ("" if own_baseline else ", no baseline"),
            source="Kool et al. 2019, section 4",
        )

    def weights(self, beams: Beams, returns: Tensor) -> Tensor:
        log_p = beams.log_p[:, :-1]
        # q = 1 - exp(-rate); the rate itself where it is too small for that.
        log_rate = log_p + beams.log_times[:, -1:]
        log_q = torch.where(log_rate < -30, log_rate, (-torch.expm1(-log_rate.exp())).log())
        # What is missing has neither probability nor chance: 0, and not inf - inf.
        ratio = torch.where(log_p == -torch.inf, -torch.inf, log_p - log_q).exp().unsqueeze(2)
        if self.own_baseline:
            p = log_p.exp().unsqueeze(2)
            returns = returns * (1 - p + ratio) - (ratio * returns).sum(dim=1, keepdim=True)
        return ratio * returns


for _group in (2, 4, 8):
    register(partial(UnorderedSet, _group))
register(partial(UnorderedSet, 4, own_baseline=False))
for _own in (True, False):
    register(partial(WithoutReplacement, 8, own_baseline=_own))

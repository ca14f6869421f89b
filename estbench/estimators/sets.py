"""Gradients from K distinct sequences: the unordered set estimator, and sampling with a threshold.

Both draw without replacement by stochastic beam search, and weigh each sequence so that the mean is
the gradient. Duplicates, which a peaked policy draws again and again, teach nothing; here there are
none. Where there are no more than K sequences at all, both give the exact gradient.
"""

from __future__ import annotations

from functools import partial

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
from estbench.estimators.beams import Beams, beam_noise, beam_search
from estbench.estimators.returns import evaluations, rollout_noise, token_returns
from estbench.estimators.set_weights import order_probabilities
from estbench.models.policy import Policy, at_tokens

__all__ = ["UnorderedSet", "WithoutReplacement"]


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
        return Surrogate(
            chosen.reshape(draws, K * T),
            found.reshape(draws, K * T).to(policy.dtype),
            tokens.reshape(draws, K, T),
            terminal.reshape(draws, K),
            info={"distinct": float((beams.log_p[:, :K] > -torch.inf).sum(dim=1).double().mean())},
        )

    def weights(self, beams: Beams, returns: Tensor) -> Tensor:
        """Return what multiplies the scores, for returns ``[n, K, T]``."""
        raise NotImplementedError


class UnorderedSet(_Distinct):
    """g = sum_{s in S} p(s) R(S, s) S_s [f(s) - sum_{s' in S} p(s') R^{D-s}(S, s') f(s')].

    Kool et al. 2020, "Estimating gradients for discrete random variables by sampling without
    replacement", section 4: the mean of the single-sample estimator given which K were drawn, and
    not in what order. p(s) R(S, s) is the probability that s came first, and p(s') R^{D-s}(S, s')
    that s' came next; see ``set_weights``. The sum over s' is the set's own baseline, which may be
    left out. K hard evaluations, and K T steps of the search beside K T of the score.
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

"""Score-function estimators: sum_t (Q_t - B_t) grad log p(b_t | s_t), and who chooses B.

REINFORCE (Williams 1992), with no baseline as in the paper, with a moving average, a critic
(Mnih and Gregor 2014) or a constant tuned for least variance; leave-one-out (RLOO: Kool et al.
2019); SeqGAN's Monte-Carlo rollouts (Yu et al. 2017).
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor

from estbench.estimators.base import (
    Component,
    Estimator,
    EstimatorInfo,
    Learned,
    PerDrawGradients,
    Reward,
    Section,
    Surrogate,
    register,
)
from estbench.estimators.baselines import Baselined, make_baseline
from estbench.estimators.coefficients import Coefficients
from estbench.estimators.returns import draw, evaluations
from estbench.models.policy import Policy, at_tokens, sequence_lengths

__all__ = ["Grouped", "LeaveOneOut", "Reinforce"]


class Reinforce(Baselined):
    """g = sum_t (Q_t - B_t - b) S_t, with S_t = grad log p(b_t | s_t).

    Args:
      name: Name in the catalogue.
      baseline: "none", "ema", "critic", or "constant": b = argmin E|g|^2, estimated on past draws.
      rollouts: Rollouts N a position; 0 for ``usual``.
      summary: One line for the catalogue, with N for ``{N}``.
      source: Paper and equation.
      lag: Share of its past that the policy of the rollouts keeps at each step; None if they
        follow the current policy. Any other is biased, as in the original.
      mix: GAE's lambda, the share of what is still to come in an advantage; the rest is the
        critic's word. Anything but 1 is biased.
      plain: See ``EstimatorInfo``.
      usual: N where the setting is 0; 0 for the terminal reward.
    """

    section = Section.SCORE_FUNCTIONS

    def __init__(
        self,
        name: str,
        baseline: str,
        rollouts: int = 0,
        summary: str = "",
        source: str = "",
        lag: float | None = None,
        mix: float = 1.0,
        plain: bool = False,
        usual: int = 0,
    ) -> None:
        self.rollouts = rollouts or usual
        self.lag = lag
        self.mix = mix
        self.baseline = make_baseline("none" if baseline == "constant" else baseline)
        self.coefficients = Coefficients(("constant",)) if baseline == "constant" else None
        self.info = EstimatorInfo(
            name=name,
            summary=summary.format(N=self.rollouts),
            source=source,
            unbiased=lag is None and mix == 1,
            why_biased=_why(lag, mix),
            baseline="constant" if baseline == "constant" else self.baseline.label,
            plain=plain,
            learned=("constant",) if baseline == "constant" else self.baseline.learned,
            hard_evals=evaluations(self.rollouts),
            version=self.baseline.version,
        )

    def initial_state(self, policy: Policy, rng: torch.Generator) -> Learned:
        state = super().initial_state(policy, rng)
        if self.coefficients:
            state["coefficients"] = self.coefficients.initial_state()
        if self.lag is not None:
            state["lagged"] = copy.deepcopy(policy).requires_grad_(False)
        return state

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: Learned
    ) -> Surrogate:
        """A draw is one sequence."""
        tokens, returns, terminal = draw(
            policy, reward, draws, rng, self.rollouts, state.get("lagged")
        )
        log_probs, features = policy.trace(tokens)
        chosen = at_tokens(log_probs, tokens)
        baseline = self.baseline.values(features, tokens, state["baseline"])
        weights = returns - baseline
        if self.mix != 1:
            weights = _mixed(weights, self.mix)
        components: tuple[Component, ...] = ()
        info = {"baseline": float(baseline.mean())}
        if self.coefficients:
            components = (
                Component("score", returns, scale=None if self.rollouts else -terminal),
                Component("constant", -torch.ones_like(weights)),
            )
            constant = self.coefficients.values(state["coefficients"])["constant"]
            weights = weights - constant
            info["baseline"] = constant
        return Surrogate.of(
            chosen,
            weights,
            tokens,
            terminal,
            components=components,
            info=info,
            cache={"features": features, "returns": returns},
        )

    def adapt(
        self, policy: Policy, surrogate: Surrogate, gradients: PerDrawGradients, state: Learned
    ) -> None:
        super().adapt(policy, surrogate, gradients, state)
        if self.coefficients:
            gram = gradients.gram(surrogate, surrogate.components)
            self.coefficients.adapt(gram, state["coefficients"])
        if self.lag is not None:
            _follow(state["lagged"], policy, 1 - self.lag)


def _why(lag: float | None, mix: float) -> str:
    if lag is not None:
        return "rollouts follow a lagging copy of the policy"
    return "" if mix == 1 else "what is still to come is in part the critic's word"


def _mixed(advantages: Tensor, mix: float) -> Tensor:
    """Return GAE's advantages ``[n, T]`` from those of one terminal reward, R - V_t.

    sum_{l >= t} mix^(l - t) delta_l, with delta_t = V_{t+1} - V_t, and R - V_t at the last step.
    """
    found = advantages.clone()
    for t in reversed(range(found.shape[1] - 1)):
        found[:, t] = advantages[:, t] - advantages[:, t + 1] + mix * found[:, t + 1]
    return found


@torch.no_grad()
def _follow(lagged: Policy, policy: Policy, rate: float) -> None:
    """Move a copy of a policy towards it; as in the original, the embedding is copied whole."""
    for (name, mine), theirs in zip(lagged.named_parameters(), policy.parameters(), strict=True):
        mine.lerp_(theirs, 1.0 if name.startswith("embedding") else rate)


class Grouped(Estimator):
    """K independent sequences a draw, each weighed by what the others and itself earned.

    A subclass sets ``info``, with K as its group, and ``rollouts``, and says what the weights are.
    """

    section = Section.SCORE_FUNCTIONS

    rollouts: int

    def weights(self, grouped: Tensor) -> Tensor:
        """Return what multiplies the scores, for returns ``[n, K, T]``."""
        raise NotImplementedError

    def weights_of(self, grouped: Tensor, lengths: Tensor) -> Tensor:
        """Return the same where lengths ``[n, K, 1]`` matter; here sequences count alike."""
        return self.weights(grouped)

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: Learned
    ) -> Surrogate:
        """A draw is a group."""
        K, T = self.info.group, policy.length
        tokens, returns, terminal = draw(policy, reward, draws * K, rng, self.rollouts)
        lengths = sequence_lengths(tokens, policy.end).reshape(draws, K, 1)
        weights = self.weights_of(returns.reshape(draws, K, T), lengths)
        chosen = at_tokens(policy.log_probs(tokens), tokens)
        info = {"baseline": float(terminal.mean())}
        return Surrogate.of(chosen, weights, tokens, terminal, K, info=info)


class LeaveOneOut(Grouped):
    """RLOO: g = 1/(K-1) sum_i (Q^i - mean_j Q^j) S^i; a draw is a group of K sequences.

    The baseline of a sequence is the mean of the other K - 1 at the same position, which is
    independent of it. Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free!".

    Args:
      group: Sequences K a draw, at least 2.
      rollouts: Rollouts N a position; 0 for the terminal reward.
    """

    def __init__(self, group: int = 8, rollouts: int = 0, name: str = "rloo") -> None:
        self.rollouts = rollouts
        self.info = EstimatorInfo(
            name=name,
            summary=f"RLOO: leave-one-out baseline in groups of {group}",
            source="Kool et al. 2019, equation 8",
            baseline="leave-one-out",
            plain=name == "rloo",
            group=group,
            hard_evals=evaluations(rollouts, group),
        )

    def weights(self, grouped: Tensor) -> Tensor:
        K = grouped.shape[1]
        return (grouped - grouped.mean(dim=1, keepdim=True)) / (K - 1)


def _reinforce(name: str, baseline: str, summary: str, source: str, **options: Any) -> None:
    register(partial(Reinforce, name, baseline, summary=summary, source=source, **options))


_WILLIAMS = "Williams 1992, section 5"
_SEQGAN = "Yu et al. 2017, equations 4 and 7"
_summary = "REINFORCE without a baseline, as in the paper"
_reinforce("reinforce", "none", _summary, _WILLIAMS, plain=True)
_summary = "REINFORCE minus the moving average of past rewards"
_reinforce("reinforce-ema", "ema", _summary, _WILLIAMS, plain=True)
_summary = "REINFORCE minus the constant of least variance on past draws"
_source = "Greensmith et al. 2004, theorem 13"
_reinforce("reinforce-constant", "constant", _summary, _source, plain=True)
_summary = "REINFORCE minus a learned value of the state"
_reinforce("reinforce-critic", "critic", _summary, "Mnih & Gregor 2014", plain=True)
_summary = "generalised advantages (lambda 0.95) of a learned value of the state"
_reinforce("gae", "critic", _summary, "Schulman et al. 2016, equation 16", mix=0.95)
register(LeaveOneOut)
_summary = "SeqGAN: {N} rollouts a position by the current policy"
_reinforce("seqgan-rollouts", "none", _summary, _SEQGAN, usual=4)
_summary = "SeqGAN's rollouts, minus a moving average"
_reinforce("seqgan-rollouts-ema", "ema", _summary, _SEQGAN, usual=4)
_summary = "SeqGAN as published: rollouts by a copy that keeps .8 of its past at each step"
_source = "Yu et al. 2017, algorithm 1; update rate as in its public code"
_reinforce("seqgan-rollouts-lagged", "none", _summary, _source, usual=4, lag=0.8)

"""Sums over the next token in place of samples of it: all actions, or the likeliest and one more.

Given the prefix s_t, the gradient's part of step t is sum_v grad p(v | s_t) Q(s_t, v). Prefixes
are those of a sampled sequence b. Q(s_t, b_t) is estimated by b's own reward, and that of any other
token by a rollout after it, so that no sequence is evaluated twice.
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
from estbench.estimators.baselines import Baselined, MovingAverage, make_baseline
from estbench.estimators.per_step import branch
from estbench.models.policy import Policy, at_tokens, inverse_cdf

__all__ = ["MOST", "AllActions", "LastToken", "SumAndSample"]

MOST = 1_000
"""Evaluations a draw above which no rollouts of all actions are made: hours, and gigabytes."""


class AllActions(Estimator):
    """g = sum_t sum_v grad p(v | s_t) Q(s_t, v).

    Sutton et al. 2000, "Policy gradient methods for reinforcement learning with function
    approximation", theorem 1; Ciosek and Whiteson 2018, "Expected policy gradients". A constant in
    the reward drops out, as sum_v grad p = 0. 1 + T (V - 1) hard evaluations a draw, and T (T - 1)
    (V - 1) / 2 policy steps beside those of the sequence. Each action has one rollout: the setting
    ``rollouts`` is refused.
    """

    section = Section.SCORE_FUNCTIONS
    hue = "rloo"

    def __init__(self) -> None:
        self.info = EstimatorInfo(
            name="all-actions",
            summary="a sum over all tokens at every step, a rollout after each",
            source="Sutton et al. 2000, theorem 1",
            baseline="drops out",
            hard_evals="1 + T(V - 1)",
        )

    def refusal(self, vocabulary: int, length: int) -> str:
        evals = 1 + length * (vocabulary - 1)
        if evals <= MOST:
            return ""
        return f"all-actions needs 1 + T(V - 1) = {evals:,} evaluations a draw, more than {MOST:,}"

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: Learned
    ) -> Surrogate:
        """A draw is one sequence with its branches."""
        T, M = policy.length, policy.vocabulary - 1
        shapes = {"tokens": (T,), "branches": (T, M, T)}
        u = noise.uniforms(rng, draws, shapes, policy.dtype)
        tokens = policy.sample_from(u["tokens"])
        terminal = reward(tokens)
        # Every token but b_t: those before it keep their place, those after it come one earlier.
        others = torch.arange(M, device=tokens.device)
        others = others + (others >= tokens.unsqueeze(2)).long()
        values = _values(policy, reward, tokens, terminal, others, u["branches"])
        log_probs = policy.log_probs(tokens)
        return Surrogate.of(log_probs, log_probs.detach().exp() * values, tokens, terminal)


class LastToken(Baselined):
    """g = Q sum_{t < T} S_t + grad_T Q, with Q = sum_v p(v | s_T) f(b_{<T}, v).

    grad_T is that of the last step alone. REINFORCE averaged over its last token (Rao-Blackwell),
    which needs no rollout: V hard evaluations a draw. A moving average is subtracted from f. The
    setting ``rollouts`` is refused.
    """

    section = Section.SCORE_FUNCTIONS
    hue = "rloo"

    def __init__(self) -> None:
        self.baseline = MovingAverage()
        self.info = EstimatorInfo(
            name="last-token",
            summary="REINFORCE averaged over the last token, minus a moving average",
            source="Rao-Blackwell; Liu et al. 2019, section 3, for one step",
            baseline=self.baseline.label,
            learned=self.baseline.learned,
            hard_evals="V",
        )

    def refusal(self, vocabulary: int, length: int) -> str:
        if vocabulary <= MOST:
            return ""
        return f"last-token needs V = {vocabulary:,} evaluations a draw, more than {MOST:,}"

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: Learned
    ) -> Surrogate:
        """A draw is one sequence with all its last tokens."""
        T, V = policy.length, policy.vocabulary
        u = noise.uniforms(rng, draws, {"tokens": (T,)}, policy.dtype)
        tokens = policy.sample_from(u["tokens"])
        each = tokens.repeat_interleave(V, dim=0)
        each[:, -1] = torch.arange(V, device=tokens.device).repeat(draws)
        rewards = reward(each).reshape(draws, V)
        log_probs, features = policy.trace(tokens)
        baseline = self.baseline.values(features, tokens, state["baseline"])
        shares = log_probs[:, -1].detach().exp() * (rewards - baseline)
        chosen = at_tokens(log_probs[:, :-1], tokens[:, :-1])
        terminal = rewards.gather(1, tokens[:, -1:])
        return Surrogate.of(
            torch.cat([chosen, log_probs[:, -1]], dim=1),
            torch.cat([shares.sum(dim=1, keepdim=True).expand_as(chosen), shares], dim=1),
            tokens,
            terminal,
            info={"baseline": float(baseline.mean())},
            cache={"features": features, "returns": terminal},
        )


class SumAndSample(Baselined):
    """g = sum_t { sum_{v in C} grad p(v|s_t) Q(s_t, v) + (1 - p(C)) Q(s_t, b') grad l_t(b') }.

    Liu et al. 2019, "Rao-Blackwellized stochastic gradients for discrete distributions", a step at
    a time: a few tokens hold most of a step's probability, where a few whole sequences hold next to
    none. C are the k likeliest tokens at s_t, a function of s_t alone (V - 1 of them where V <= k);
    b' comes from the rest. Where b_t is not in C it is that b'. Either way one of the k + 1 tokens
    is b_t, whose sequence was evaluated: 1 + k T hard evaluations a draw.

    Q may lose a baseline B_t, for sum_v grad p B_t = 0. Each token has one rollout: the setting
    ``rollouts`` is refused.

    Args:
      name: Name in the catalogue.
      baseline: "none", "ema" or "critic".
      kept: Tokens k that are summed over.
      summary: One line for the catalogue.
    """

    section = Section.SCORE_FUNCTIONS
    hue = "arm"

    def __init__(
        self, name: str = "sum-and-sample", baseline: str = "none", kept: int = 2, summary: str = ""
    ) -> None:
        self.kept = kept
        self.baseline = make_baseline(baseline)
        self.info = EstimatorInfo(
            name=name,
            summary=summary,
            source="Liu et al. 2019, section 3",
            baseline=self.baseline.label,
            learned=self.baseline.learned,
            hard_evals=f"1 + {kept}T",
            version=self.baseline.version,
        )

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: Learned
    ) -> Surrogate:
        """A draw is one sequence with its branches."""
        T, k = policy.length, min(self.kept, policy.vocabulary - 1)
        shapes = {"tokens": (T,), "other": (T,), "branches": (T, k, T)}
        u = noise.uniforms(rng, draws, shapes, policy.dtype)
        tokens = policy.sample_from(u["tokens"])
        terminal = reward(tokens)
        log_probs, features = policy.trace(tokens)
        p = log_probs.detach().exp()
        kept = p.topk(k, dim=2).indices
        rest = p.scatter(2, kept, 0.0)
        other = inverse_cdf(rest.flatten(0, 1), u["other"].flatten()).reshape(draws, T)
        # b_t needs no branch: where it is one of those kept, the other token takes its place.
        branched = torch.where(kept == tokens.unsqueeze(2), other.unsqueeze(2), kept)
        values = _values(policy, reward, tokens, terminal, branched, u["branches"])
        baseline = self.baseline.values(features, tokens, state["baseline"])
        inside = (kept == tokens.unsqueeze(2)).any(dim=2)
        sampled = torch.where(inside, other, tokens).unsqueeze(2)
        share = torch.zeros_like(p).scatter(2, kept, p.gather(2, kept))
        share = share.scatter_add(2, sampled, rest.sum(dim=2, keepdim=True))
        return Surrogate.of(
            log_probs,
            share * (values - baseline.unsqueeze(2)),
            tokens,
            terminal,
            info={"baseline": float(baseline.mean())},
            cache={"features": features, "returns": terminal.unsqueeze(1).expand(draws, T)},
        )


def _values(
    policy: Policy,
    reward: Reward,
    tokens: Tensor,
    terminal: Tensor,
    branched: Tensor,
    uniforms: Tensor,
) -> Tensor:
    """Return estimates of Q(s_t, v) ``[n, T, V]``; 0 for tokens that were not tried.

    Args:
      policy: The policy.
      reward: The reward.
      tokens: b, int64 ``[n, T]``.
      terminal: Its rewards ``[n]``.
      branched: Other tokens that were tried, int64 ``[n, T, M]``.
      uniforms: Noise of their rollouts ``[n, T, M, T]``.
    """
    n, T, M = branched.shape
    completed = branch(policy, tokens, branched, uniforms)
    rewards = reward(completed.reshape(n * T * M, T)).reshape(n, T, M)
    values = rewards.new_zeros(n, T, policy.vocabulary).scatter(2, branched, rewards)
    own = terminal.view(n, 1, 1).expand(n, T, 1)
    return values.scatter(2, tokens.unsqueeze(2), own)


_summary = "a sum over a step's 2 likeliest tokens, and one more sampled"
_ema_summary = "sum-and-sample, minus the moving average of past rewards"
for _member in (
    AllActions,
    LastToken,
    partial(SumAndSample, summary=_summary),
    partial(SumAndSample, "sum-and-sample-ema", "ema", summary=_ema_summary),
):
    register(_member)

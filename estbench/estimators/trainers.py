"""Baselines of language-model trainers: by length, by token, shrunk, and a tracker for each prompt.

All subtract from the reward what the other samples say, or past ones, and are unbiased. Two are
here as published too, with each sample's own reward inside its baseline.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from estbench.estimators.base import (
    EstimatorInfo,
    Learned,
    PerDrawGradients,
    Reward,
    Section,
    Surrogate,
    register,
)
from estbench.estimators.baselines import moving_mean, moving_moments, update_moments
from estbench.estimators.returns import evaluations
from estbench.estimators.score_function import Grouped, LeaveOneOut
from estbench.estimators.step_baselines import Sampled
from estbench.models.policy import Policy, at_tokens

__all__ = ["LengthBaseline", "ShrunkLeaveOneOut", "TokenBaseline", "Tracker"]

OWN = "the baseline holds each sequence's own reward"


def weighted_mean(rewards: Tensor, weights: Tensor, own: bool) -> Tensor:
    """Return for each member of a group the weighted mean of its rewards, ``[n, K, T]``.

    Args:
      rewards: ``[n, K, T]``, or T = 1.
      weights: Not negative, ``[n, K, T]``, or T = 1.
      own: Whether a member counts in its own mean.
    """
    K = rewards.shape[1]
    counted = rewards.new_ones(K, K) if own else 1 - torch.eye(K).to(rewards)
    # Where no weight is left, as after the end of all the others, all count alike.
    weights = weights.to(rewards.dtype) + torch.finfo(rewards.dtype).tiny ** 0.5
    total = torch.einsum("ij,njt->nit", counted, weights * rewards)
    return total / torch.einsum("ij,njt->nit", counted, weights)


class LengthBaseline(Grouped):
    """OPO: g = 1/K sum_i (R^i - b^i) S^i, with b a mean of rewards that is weighted by lengths.

    Hao et al. 2025, "On-policy RL with optimal reward baseline": |S|^2 is taken to grow as the
    length, so that b stands near the constant of least variance, E[R |S|^2] / E|S|^2.

    Args:
      own: Whether a sequence counts in its own baseline, as published (biased).
      group: Sequences K a draw, at least 2.
      rollouts: Rollouts N a position; 0 for the terminal reward.
    """

    section = Section.TRAINERS
    hue = "rloo"

    def __init__(self, own: bool = False, group: int = 8, rollouts: int = 0) -> None:
        self.own = own
        self.rollouts = rollouts
        self.info = EstimatorInfo(
            name="opo-published" if own else "opo",
            summary=f"OPO: rewards weighted by length as baseline, groups of {group}"
            + (", own reward included" if own else ", own reward left out"),
            source="Hao et al. 2025, section 3",
            unbiased=not own,
            why_biased=OWN if own else "",
            baseline="length-weighted mean",
            group=group,
            hard_evals=evaluations(rollouts, group),
        )

    def weights_of(self, grouped: Tensor, lengths: Tensor) -> Tensor:
        return (grouped - weighted_mean(grouped, lengths, self.own)) / grouped.shape[1]


class TokenBaseline(Grouped):
    """g = 1/K sum_i sum_t (R^i - b^i_t) S^i_t, with b_t weighted by the energy W of the logits.

    arXiv 2602.07078: W_t = sum_{s <= t} (1 - 2 p(b_s) + sum_v p_v^2), the squared norms of the
    scores with respect to the logits, stands for E|sum_s S_s|^2. A sequence that has ended keeps
    its W.

    Args:
      own: Whether a sequence counts in its own baseline, as published (biased).
      group: Sequences K a draw, at least 2.
    """

    section = Section.TRAINERS
    hue = "rloo"

    rollouts = 0

    def __init__(self, own: bool = False, group: int = 8) -> None:
        self.own = own
        self.info = EstimatorInfo(
            name="token-baseline-published" if own else "token-baseline",
            summary=f"a baseline a token, weighted by the logits' energy, groups of {group}"
            + (", own reward included" if own else ", own reward left out"),
            source="arXiv 2602.07078",
            unbiased=not own,
            why_biased=OWN if own else "",
            baseline="energy-weighted mean",
            group=group,
            hard_evals=f"{group}",
        )

    def weights(self, grouped: Tensor) -> Tensor:
        """See ``Grouped.weights``; what is subtracted comes later."""
        return grouped / grouped.shape[1]

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: Learned
    ) -> Surrogate:
        """A draw is a group."""
        found = super().surrogate(policy, reward, draws, rng, state)
        K = self.info.group
        tokens = found.tokens.flatten(0, 1)
        with torch.no_grad():
            probs = policy.log_probs(tokens).exp()
        chosen = at_tokens(probs, tokens)
        # What is certain has no energy, but rounding may make it negative.
        energy = (1 - 2 * chosen + probs.square().sum(dim=2)).clamp_min(0).cumsum(dim=1)
        energy = energy.reshape(draws, K, -1)
        rewards = found.rewards.unsqueeze(2).expand_as(energy)
        baseline = weighted_mean(rewards, energy, self.own)
        return replace(found, weights=found.weights - baseline.flatten(1) / K)


class ShrunkLeaveOneOut(LeaveOneOut):
    """g = 1/K sum_i (R^i - b^i) S^i, with b^i shrunk towards the mean m of past rewards.

    b^i = (1 - l) mean_{j != i} R^j + l m. The mean of K - 1 rewards is noisy, and that of all
    prompts is of another prompt: with v = Var R / (K - 1) within a prompt and s the mean squared
    distance of a prompt's mean from m, l = v / (v + s) errs least (James and Stein). In arXiv
    2511.03710 m and l come from the other prompts of the batch; here from past batches, so that
    the draws of a batch stay independent. Unbiased, as neither sees the sample.

    Args:
      group: Sequences K a draw, at least 2.
      decay: Weight that a moment keeps from one batch to the next.
    """

    section = Section.TRAINERS

    def __init__(self, group: int = 4, decay: float = 0.8) -> None:
        super().__init__(group, name="rloo-shrunk")
        self.decay = decay
        self.info = replace(
            self.info,
            summary=f"RLOO in groups of {group}, its baseline drawn to the mean of past rewards",
            source="arXiv 2511.03710, with moments of past batches",
            baseline="leave-one-out, shrunk",
            learned=("baseline",),
        )

    def initial_state(self, policy: Policy, rng: torch.Generator) -> Learned:
        """Nothing is shrunk before anything was seen."""
        return {"past": moving_moments(), "within": 0.0, "between": 0.0}

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: Learned
    ) -> Surrogate:
        """A draw is a group."""
        found = super().surrogate(policy, reward, draws, rng, state)
        K = self.info.group
        noise = state["within"] / (K - 1)
        shrink = noise / (noise + state["between"]) if noise else 0.0
        to_past = ((found.rewards - moving_mean(state["past"])) / K).repeat_interleave(
            policy.length, dim=1
        )
        weights = (1 - shrink) * found.weights + shrink * to_past
        return replace(found, weights=weights, info=found.info | {"shrinkage": shrink})

    def adapt(
        self, policy: Policy, surrogate: Surrogate, gradients: PerDrawGradients, state: Learned
    ) -> None:
        rewards = surrogate.rewards.double()
        within = float(rewards.var(dim=1).mean())
        if state["past"]["weight"]:
            distance = (rewards.mean(dim=1) - moving_mean(state["past"])).square().mean()
            between = max(0.0, float(distance) - within / self.info.group)
            for key, value in (("within", within), ("between", between)):
                state[key] = self.decay * state[key] + (1 - self.decay) * value
        update_moments(state["past"], rewards, self.decay)


class Tracker(Sampled):
    """g = (R - v) S, with v the value of the prompt, tracked over past batches.

    Single-stream policy optimisation (arXiv 2509.13232): the counts of a Beta distribution, which
    forget by a constant rate here, and no division by a deviation (that is biased). What is known
    of all prompts counts as one more reward of each. Without prompts there is one value.

    Args:
      rollouts: Rollouts N a position; 0 for the terminal reward.
      decay: Weight that counts keep whenever a prompt comes again.
    """

    section = Section.TRAINERS
    hue = "rloo"

    def __init__(self, rollouts: int = 0, decay: float = 0.9) -> None:
        super().__init__(rollouts)
        self.decay = decay
        self.info = EstimatorInfo(
            name="single-stream",
            summary="REINFORCE minus a tracked value of each prompt",
            source="arXiv 2509.13232, section 3",
            baseline="prompt's past",
            learned=("values",),
            hard_evals=evaluations(rollouts),
        )

    def initial_state(self, policy: Policy, rng: torch.Generator) -> Learned:
        return {"past": moving_moments(), "prompts": {}}

    def baseline(self, policy: Policy, reward: Reward, draws: int, state: Learned) -> Tensor:
        overall, values = moving_mean(state["past"]), []
        for prompt in _prompts(policy):
            count, total = state["prompts"].get(prompt, (0.0, 0.0))
            values.append((total + overall) / (count + 1))
        found = torch.tensor(values, device=policy.device, dtype=policy.dtype)
        return found.repeat_interleave(draws // len(values)).unsqueeze(1)

    def adapt(
        self, policy: Policy, surrogate: Surrogate, gradients: PerDrawGradients, state: Learned
    ) -> None:
        prompts = _prompts(policy)
        rewards = surrogate.rewards.double().reshape(len(prompts), -1)
        for prompt, earned in zip(prompts, rewards, strict=True):
            count, total = state["prompts"].get(prompt, (0.0, 0.0))
            total = self.decay * total + float(earned.sum())
            state["prompts"][prompt] = (self.decay * count + len(earned), total)
        update_moments(state["past"], surrogate.rewards)


def _prompts(policy: Policy) -> list[str]:
    """Return a name for each of the policy's contexts, the same whenever it comes again."""
    if policy.contexts is None:
        return [""]
    rows = policy.contexts.values.detach().double().cpu().numpy()
    return [hashlib.sha256(row.tobytes()).hexdigest()[:16] for row in rows]


for _member in (
    LengthBaseline,
    partial(LengthBaseline, True),
    TokenBaseline,
    partial(TokenBaseline, True),
    ShrunkLeaveOneOut,
    Tracker,
):
    register(_member)

"""REINFORCE with other baselines: the greedy sequence, a constant a step, rollouts at every state.

All are g = sum_t (Q_t - B_t) grad log p(b_t | s_t) with B_t fixed before b_t is drawn, or drawn
apart from it, and so unbiased.
"""

from __future__ import annotations

import torch
from torch import Tensor

from estbench.core import noise
from estbench.estimators.base import (
    Estimator,
    EstimatorInfo,
    Learned,
    PerDrawGradients,
    Reward,
    Section,
    Surrogate,
    register,
)
from estbench.estimators.returns import draw, evaluations, rollout_noise, token_returns
from estbench.models.policy import Policy, at_tokens

__all__ = ["Sampled", "SelfCritical", "StepConstants", "Vine"]


class Sampled(Estimator):
    """What these have in common: a sequence a draw, and what each of its tokens earned.

    Args:
      rollouts: Rollouts N a position; 0 for the terminal reward.
    """

    section = Section.SCORE_FUNCTIONS

    def __init__(self, rollouts: int = 0) -> None:
        self.rollouts = rollouts

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: Learned
    ) -> Surrogate:
        """A draw is one sequence."""
        tokens, returns, terminal = draw(policy, reward, draws, rng, self.rollouts)
        baseline = self.baseline(policy, reward, draws, state)
        log_probs = policy.log_probs(tokens)
        return Surrogate.of(
            at_tokens(log_probs, tokens),
            returns - baseline,
            tokens,
            terminal,
            info={"baseline": float(baseline.mean())},
            cache={"returns": returns},
        )

    def baseline(self, policy: Policy, reward: Reward, draws: int, state: Learned) -> Tensor:
        """Return B_t, broadcastable to ``[n, T]``."""
        raise NotImplementedError


class SelfCritical(Sampled):
    """g = sum_t (Q_t - f(b*)) S_t, with b* the policy's greedy sequence.

    Rennie et al. 2017, "Self-critical sequence training for image captioning", section 3. Without
    an image there is one greedy sequence for all draws of a call: T policy steps and one hard
    evaluation together (of a policy with contexts, one for each of them). It depends on the policy
    and not on what it drew.
    """

    def __init__(self, rollouts: int = 0) -> None:
        super().__init__(rollouts)
        self.info = EstimatorInfo(
            name="reinforce-greedy",
            summary="REINFORCE minus the reward of the policy's greedy sequence (self-critical)",
            source="Rennie et al. 2017, section 3",
            baseline="greedy sequence",
            hard_evals=f"{evaluations(rollouts)} + 1/n",
        )

    def baseline(self, policy: Policy, reward: Reward, draws: int, state: Learned) -> Tensor:
        rewards = reward(policy.greedy())
        return rewards.repeat_interleave(draws // len(rewards)).unsqueeze(1)


class StepConstants(Sampled):
    """g = sum_t (Q_t - b_t) S_t, with the b_t of least variance on past draws.

    Scores of different steps are uncorrelated, so each b_t can be solved for on its own:
    b_t = E[S_t . sum_s Q_s S_s] / E|S_t|^2 (the constant of Greensmith et al. 2004, theorem 13, a
    step at a time; Peters and Schaal 2008). With S = sum_s S_s, E|S_t|^2 is also
    E[S_t . S], and both are derivatives of squared norms: two passes of second order a batch,
    whatever T is. Steps that rarely have a score are drawn to the constant of all together.

    Args:
      rollouts: Rollouts N a position; 0 for the terminal reward.
      decay: Weight that a moment keeps from one batch to the next.
      prior: What the common constant counts, in units of the mean step's E|S_t|^2.
    """

    def __init__(self, rollouts: int = 0, decay: float = 0.8, prior: float = 0.02) -> None:
        super().__init__(rollouts)
        self.decay = decay
        self.prior = prior
        self.info = EstimatorInfo(
            name="reinforce-step-constants",
            summary="REINFORCE minus the constants of least variance, one a step, on past draws",
            source="Greensmith et al. 2004, theorem 13; Peters & Schaal 2008",
            baseline="constant a step",
            learned=("constants",),
            hard_evals=evaluations(rollouts),
        )

    def initial_state(self, policy: Policy, rng: torch.Generator) -> Learned:
        """All constants are 0 before anything was seen."""
        zeros = torch.zeros(policy.length, dtype=torch.float64)
        return {"steps": {"values": zeros, "earned": zeros, "scores": zeros}}

    def baseline(self, policy: Policy, reward: Reward, draws: int, state: Learned) -> Tensor:
        values: Tensor = state["steps"]["values"]
        return values.to(policy.device, policy.dtype).unsqueeze(0)

    def adapt(
        self, policy: Policy, surrogate: Surrogate, gradients: PerDrawGradients, state: Learned
    ) -> None:
        returns = surrogate.cache["returns"]
        ones = torch.ones_like(returns)
        scores = _along_steps(gradients, surrogate, ones)
        if self.rollouts:
            earned = _along_steps(gradients, surrogate, returns.contiguous())
        else:
            earned = scores * returns  # one number multiplies all of a sequence's scores
        steps = state["steps"]
        for key, batch in (("earned", earned), ("scores", scores)):
            mean = batch.double().mean(dim=0).cpu()
            steps[key] = self.decay * steps[key] + (1 - self.decay) * mean
        steps["values"] = self.solve(steps["earned"], steps["scores"])

    def solve(self, earned: Tensor, scores: Tensor) -> Tensor:
        """Return b ``[T]`` for moments E[S_t . sum_s Q_s S_s] and E|S_t|^2, ``[T]`` each."""
        total = scores.sum()
        if not float(total) > 0:
            return torch.zeros_like(scores)
        common = earned.sum() / total
        floor = self.prior * total / len(scores)
        return common + (earned - common * scores) / (scores.clamp_min(0) + floor)


def _along_steps(gradients: PerDrawGradients, surrogate: Surrogate, weights: Tensor) -> Tensor:
    """Return S_t . sum_s w_s S_s of every draw, ``[n, T]``: half of d|sum_s w_s S_s|^2 / dw_t."""
    weights = weights.detach().requires_grad_()
    with torch.enable_grad():
        mean = gradients.mean_squared_norm(surrogate, weights, None)
    (slope,) = torch.autograd.grad(mean, weights)
    return slope * len(weights) / 2


class Vine(Estimator):
    """g = sum_t (V_{t+1} - V_t) S_t, with V_t the mean of N fresh rollouts from s_t, V_T = R.

    Kazemnejad et al. 2024, "VinePPO", section 4, without PPO's clipping. V_{t+1} is SeqGAN's Q_t;
    what is subtracted are the rollouts that served the token before, so a baseline at every state
    costs only N sequences from the start: 1 + N T hard evaluations a draw.

    Args:
      rollouts: Rollouts N a position; 0 for 4.
    """

    section = Section.SCORE_FUNCTIONS
    hue = "seqgan"

    def __init__(self, rollouts: int = 0) -> None:
        self.rollouts = rollouts or 4
        self.info = EstimatorInfo(
            name="vine",
            summary="VinePPO's advantages: values of neighbouring states, "
            f"{self.rollouts} rollouts each",
            source="Kazemnejad et al. 2024, section 4",
            baseline="rollouts",
            hard_evals=f"1 + {self.rollouts}T",
        )

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: Learned
    ) -> Surrogate:
        """A draw is one sequence with its rollouts."""
        T, N = policy.length, self.rollouts
        shapes = {"tokens": (T,), "start": (N, T), **rollout_noise(policy, N)}
        u = noise.uniforms(rng, draws, shapes, policy.dtype)
        tokens = policy.sample_from(u["tokens"])
        returns, terminal = token_returns(policy, reward, tokens, u)
        whole = policy.sample_from(u["start"].reshape(draws * N, T))
        start = reward(whole).reshape(draws, N).mean(dim=1, keepdim=True)
        values = torch.cat([start, returns[:, :-1]], dim=1)
        chosen = at_tokens(policy.log_probs(tokens), tokens)
        info = {"baseline": float(values.mean())}
        return Surrogate.of(chosen, returns - values, tokens, terminal, info=info)


for _member in (SelfCritical, StepConstants, Vine):
    register(_member)

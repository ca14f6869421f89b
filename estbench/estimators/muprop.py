"""MuProp: the reward's tangent at the policy's mean field as a control variate (Gu et al. 2016)."""

from __future__ import annotations

import torch
from torch import Tensor

from estbench.estimators.base import (
    Component,
    EstimatorInfo,
    Learned,
    Reward,
    Section,
    Surrogate,
    register,
)
from estbench.estimators.coefficients import Coefficients
from estbench.estimators.control_weights import Tuned, combine
from estbench.estimators.futures import frozen
from estbench.estimators.gumbel import one_hot
from estbench.estimators.returns import draw, evaluations
from estbench.models.policy import Policy

__all__ = ["MuProp", "tangent"]


class MuProp(Tuned):
    """g = sum_t [Q_t - b - eta sum_s G_s . (b_s - p_s)] S_t + eta sum_t G_t . grad p_t.

    Gu et al. 2016, equation 4, on sequences: x is the mean field, each x_t the policy's
    probabilities after it was fed x_{<t}, and G_t the derivative of f(x) in x_t, through all that
    follows it as well. p_t = p(. | s_t) is at the sample's own hard prefix. The tangent is of all
    positions s, as the published one's layer of units is one variable, or of s <= t where Q_t is a
    mean over rollouts. Terms with s != t have mean 0: S_t has, given what came before, and so has
    b_s - p_s. Where tokens are independent, p_s is x_s.

    x, f(x) and G depend on no sample and serve all draws of a call, so that the paper's f(x) is a
    constant: it is part of b, which is tuned together with eta on past draws. One relaxed
    evaluation a call. Of a policy with contexts there is one for each of them; f(x) differs from
    one context to the next and no single b can stand for it, so that of a draw's own context is
    subtracted.

    Args:
      rollouts: Rollouts N a position; 0 for the terminal reward.
    """

    section = Section.SCORE_FUNCTIONS
    hue = "rloo"

    def __init__(self, rollouts: int = 0) -> None:
        self.rollouts = rollouts
        self.coefficients = Coefficients(("constant", "eta"))
        self.info = EstimatorInfo(
            name="muprop",
            summary="MuProp: the reward's tangent at the mean field, with a tuned constant",
            source="Gu et al. 2016, equation 4",
            baseline="constant",
            needs_relaxed_reward=True,
            learned=("constant", "eta"),
            hard_evals=evaluations(rollouts),
            relaxed_evals="1/n",
            version=2,  # 1 had the tangent of one position at a time
        )

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: Learned
    ) -> Surrogate:
        """A draw is one sequence."""
        tokens, returns, terminal = draw(policy, reward, draws, rng, self.rollouts)
        slope, value = (
            part.repeat_interleave(draws // len(part), 0) for part in tangent(policy, reward)[1:]
        )
        log_probs = policy.log_probs(tokens)
        scores = one_hot(tokens, policy.vocabulary, log_probs.dtype)
        probs = log_probs.detach().exp()
        beyond = terminal
        if policy.contexts is not None:
            returns, beyond = returns - value.unsqueeze(1), terminal - value
        found = (slope * (scores - probs)).sum(dim=2, keepdim=True)
        ahead = found.cumsum(dim=1) if self.rollouts else found.sum(dim=1, keepdim=True)
        control = slope * probs - ahead * scores
        earned = scores * returns.unsqueeze(2)
        components = (
            Component("score", earned.flatten(1), scale=None if self.rollouts else -beyond),
            Component("constant", -scores.flatten(1)),
            Component("eta", control.flatten(1)),
        )
        coefficients = self.coefficients.values(state["coefficients"])
        weights = combine(components, coefficients)
        return Surrogate.of(
            log_probs, weights, tokens, terminal, components=components, info=coefficients
        )


def tangent(policy: Policy, reward: Reward) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean field x ``[1, T, V]``, df/dx_t ``[1, T, V]`` and f(x) ``[1]``, without graph.

    A change of x_t moves the x after it too, as it is fed on. Of a policy that is conditioned on M
    contexts, there are M of each.
    """
    with frozen(policy), torch.enable_grad():
        state, previous = policy.initial_state(policy.fewest_rows), None
        rows, moved = [], []
        for _ in range(policy.length):
            log_probs, state = policy.step(previous, state)
            moved.append(torch.zeros_like(log_probs).requires_grad_())
            previous = log_probs.exp() + moved[-1]
            rows.append(previous)
        x = torch.stack(rows, dim=1)
        value = reward.relaxed(x)
        slopes = torch.autograd.grad(value.sum(), moved)
    return x.detach(), torch.stack(slopes, dim=1), value.detach()


register(MuProp)

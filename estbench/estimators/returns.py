"""What multiplies the score of each token: one terminal reward, or Monte-Carlo action values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from estbench.core import noise
from estbench.estimators.base import Reward
from estbench.models.policy import Policy
from estbench.models.reward import rollout_rewards

__all__ = ["draw", "evaluations", "rollout_noise", "token_returns"]


def draw(
    policy: Policy,
    reward: Reward,
    count: int,
    rng: torch.Generator,
    rollouts: int = 0,
    follow: Policy | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw sequences from the policy and evaluate them.

    Args:
      policy: The policy.
      reward: The reward.
      count: Sequences n.
      rng: Stream of their noise.
      rollouts: Rollouts N a position; 0 for the terminal reward.
      follow: The policy that the rollouts follow, if it is another one.

    Returns:
      Tokens int64 ``[n, T]``, returns ``[n, T]`` and terminal rewards ``[n]``; see
      ``token_returns``.
    """
    shapes = {"tokens": (policy.length,), **rollout_noise(policy, rollouts)}
    u = noise.uniforms(rng, count, shapes, policy.dtype)
    tokens = policy.sample_from(u["tokens"])
    return tokens, *token_returns(follow or policy, reward, tokens, u)


def rollout_noise(policy: Policy, rollouts: int) -> dict[str, Sequence[int]]:
    """Return the noise a draw needs for its rollouts, for ``noise.uniforms``."""
    T = policy.length
    return {"rollouts": (rollouts, T - 1, T)} if rollouts and T > 1 else {}


def evaluations(rollouts: int, group: int = 1) -> str:
    """Return the hard evaluations of a draw of ``group`` sequences, as ``EstimatorInfo`` has it."""
    if not rollouts:
        return str(group)
    each = f"1 + {rollouts}(T - 1)"
    return each if group == 1 else f"{group}({each})"


def token_returns(
    policy: Policy, reward: Reward, tokens: Tensor, uniforms: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return what each token earned.

    Without rollouts every token earns the terminal reward R. With N rollouts a position, token t
    earns Q_t = the mean reward of N completions of b_{<=t} by the current policy, and the last
    one R (SeqGAN: Yu et al. 2017, equation 4). Unbiased because E[Q_t | b_{<=t}] = E[R | b_{<=t}].

    Args:
      policy: The current policy, which the rollouts follow.
      reward: The reward.
      tokens: Sequences int64 ``[n, T]``.
      uniforms: Blocks of uniforms ``[n, ...]``; "rollouts" is used if it is there.

    Returns:
      Returns ``[n, T]`` and terminal rewards ``[n]``.
    """
    n, T = tokens.shape
    terminal = reward(tokens)
    if "rollouts" not in uniforms:
        return terminal.unsqueeze(1).expand(n, T), terminal
    completed = policy.continue_from(tokens, uniforms["rollouts"])
    values = rollout_rewards(reward, tokens, completed).mean(dim=2)
    return torch.cat([values, terminal.unsqueeze(1)], dim=1), terminal

"""What multiplies the score of each token: one terminal reward, or Monte-Carlo action values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from estbench.estimators.base import Reward
from estbench.models.policy import Policy
from estbench.models.reward import rollout_rewards

__all__ = ["rollout_noise", "token_returns"]


def rollout_noise(policy: Policy, rollouts: int) -> dict[str, Sequence[int]]:
    """Return the noise a draw needs for its rollouts, for ``noise.uniforms``."""
    T = policy.length
    return {"rollouts": (rollouts, T - 1, T)} if rollouts and T > 1 else {}


def token_returns(
    policy: Policy, reward: Reward, tokens: Tensor, noise: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return what each token earned.

    Without rollouts every token earns the terminal reward R. With N rollouts a position, token t
    earns Q_t = the mean reward of N completions of b_{<=t} by the current policy, and the last
    one R (SeqGAN: Yu et al. 2017, equation 4). Unbiased because E[Q_t | b_{<=t}] = E[R | b_{<=t}].

    Args:
      policy: The current policy, which the rollouts follow.
      reward: The reward.
      tokens: Sequences int64 ``[n, T]``.
      noise: Blocks of uniforms ``[n, ...]``; "rollouts" is used if it is there.

    Returns:
      Returns ``[n, T]`` and terminal rewards ``[n]``.
    """
    n, T = tokens.shape
    terminal = reward(tokens)
    if "rollouts" not in noise:
        return terminal.unsqueeze(1).expand(n, T), terminal
    completed = policy.continue_from(tokens, noise["rollouts"])
    values = rollout_rewards(reward, tokens, completed).mean(dim=2)
    return torch.cat([values, terminal.unsqueeze(1)], dim=1), terminal

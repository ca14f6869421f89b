"""A reward without its mean: the same gradient, with far less variance."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from estbench.estimators.base import Reward

__all__ = ["Centred"]


class Centred:
    """A reward minus a constant, hard and relaxed alike; it counts as the reward does.

    Args:
      reward: The reward.
      mean: What is subtracted, such as ``Exact.mean_reward``.
    """

    def __init__(self, reward: Reward, mean: float) -> None:
        self.reward = reward
        self.mean = mean
        self.hard_evals = 0
        self.relaxed_evals = 0

    @property
    def penalty(self) -> Any:
        """The reward's penalty for leaving a reference policy; None where it has none."""
        return getattr(self.reward, "penalty", None)

    def __call__(self, tokens: Tensor) -> Tensor:
        self.hard_evals += tokens.shape[0]
        return self.reward(tokens) - self.mean

    def relaxed(self, weights: Tensor) -> Tensor:
        self.relaxed_evals += weights.shape[0]
        return self.reward.relaxed(weights) - self.mean

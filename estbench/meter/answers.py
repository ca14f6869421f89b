"""What draws that answer prompts say beside their gradient: equal groups, weights, and tokens."""

from __future__ import annotations

from estbench.estimators.base import Draws, Reward
from estbench.estimators.baselines import alike
from estbench.models.policy import Policy

__all__ = ["Answers", "equal_groups"]


def equal_groups(reward: Reward, used: Draws) -> float | None:
    """Return the share of draws whose rewards are all equal; None where a draw is one sequence.

    A group relative to its own mean learns nothing from those. A penalty is left out of the
    rewards, for it differs from answer to answer; the reward's counters are left alone.
    """
    draws, K, T = used.tokens.shape
    if K == 1:
        return None
    rewards, plain = used.rewards, getattr(reward, "reward", None)
    if plain is not None and hasattr(reward, "penalty"):
        evals = plain.hard_evals
        rewards = plain(used.tokens.reshape(draws * K, T)).reshape(draws, K)
        plain.hard_evals = evals
    return float(alike(rewards, dim=1).double().mean())


class Answers:
    """Collects it over the passes of a measurement; nothing of a policy whose answers never end.

    Args:
      policy: The policy.
      reward: The reward.
    """

    def __init__(self, policy: Policy, reward: Reward) -> None:
        self.reward = reward
        self.contexts = None if policy.end is None else policy.contexts
        self.before = 0 if self.contexts is None else self.contexts.generated
        self.draws = 0
        self.sums: dict[str, float] = {}

    def add(self, used: Draws) -> None:
        """Add the draws of a pass."""
        if self.contexts is None:
            return
        n = len(used.tokens)
        self.draws += n
        found = {
            "equal_groups": equal_groups(self.reward, used),
            "effective_sample_share": used.info.get("effective_sample_share"),
        }
        for name, value in found.items():
            if value is not None:
                self.sums[name] = self.sums.get(name, 0.0) + n * value

    def summary(self) -> dict[str, float]:
        """Return the means over draws, and the tokens that a draw generates, if they are counted.

        ``effective_sample_share`` is that of a pass, (sum w)^2 / (n sum w^2).
        """
        found = {name: total / self.draws for name, total in self.sums.items()}
        if self.contexts is not None and self.contexts.generated > self.before:
            found["tokens_per_draw"] = (self.contexts.generated - self.before) / self.draws
        return found

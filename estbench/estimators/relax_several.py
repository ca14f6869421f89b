"""RELAX with several control variates at once, each with a coefficient of its own."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from estbench.estimators.base import Component, Learned, PerDrawGradients, Surrogate, register
from estbench.estimators.baselines import Critic
from estbench.estimators.coefficients import Coefficients
from estbench.estimators.control_weights import GumbelSample
from estbench.estimators.gumbel import one_hot
from estbench.estimators.relax import Relax
from estbench.models.policy import Policy

__all__ = ["RelaxSeveral"]


class RelaxSeveral(Relax):
    """RELAX's c_phi(z_t, s_t), REBAR's relaxed reward, and a critic's value of the prefix.

    g = sum_t [Q_t - b - a V(s_t)] S_t + f C_t(c_phi) + eta C_t(f relaxed), where C(c) stands for
    -c(z~) S + grad c(z) - grad c(z~) (Grathwohl et al. 2018, equation 8). b, a, f and eta are
    solved for together on past draws, a 4 x 4 system: what one control variate does as well as
    another gets no second share. Unbiased: each term has mean 0, and its coefficient is fixed
    before the draw. Needs a relaxed reward: one relaxed evaluation a draw beside the hard one.

    Args:
      rollouts: Rollouts N a position; 0 for the terminal reward.
    """

    def __init__(self, rollouts: int = 0) -> None:
        super().__init__(
            "relax-several",
            with_reward=True,
            rollouts=rollouts,
            summary="RELAX with REBAR's term and a critic beside it, coefficients solved together",
        )
        self.critic = Critic()
        labels = (*self.coefficients.labels, "value")
        self.coefficients = Coefficients(labels, bounds=self.coefficients.bounds)
        self.info = replace(
            self.info,
            learned=(*self.info.learned, "value", "critic"),
            version=self.info.version + self.critic.version,
        )

    def initial_state(self, policy: Policy, rng: torch.Generator) -> Learned:
        state = super().initial_state(policy, rng)
        return {**state, "critic": self.critic.initial_state(policy, rng)}

    def further(self, sample: GumbelSample, state: Learned) -> dict[str, Tensor]:
        """See ``Relax.further``: -V(s_t) S_t."""
        value = self.critic.values(sample.features, sample.tokens, state["critic"])
        scores = one_hot(sample.tokens, sample.z.shape[-1], sample.z.dtype)
        return {"value": -value.unsqueeze(-1) * scores}

    def adapt(
        self, policy: Policy, surrogate: Surrogate, gradients: PerDrawGradients, state: Learned
    ) -> None:
        """The coefficients will meet the critic as it is afterwards."""
        sample: GumbelSample = surrogate.cache["sample"]
        self.critic.adapt(sample.features, sample.tokens, sample.returns, state["critic"])
        (value,) = self.further(sample, state).values()
        renewed = (*surrogate.components[:-1], Component("value", value.flatten(1)))
        super().adapt(policy, replace(surrogate, components=renewed), gradients, state)


register(RelaxSeveral)

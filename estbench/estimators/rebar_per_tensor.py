"""REBAR with coefficients of its own for each of the policy's tensors."""

from __future__ import annotations

from dataclasses import replace

import torch

from estbench.estimators.base import (
    Learned,
    PerDrawGradients,
    Reward,
    Surrogate,
    TensorTerm,
    register,
)
from estbench.estimators.control_weights import GumbelSample, linear_components
from estbench.estimators.rebar import Rebar
from estbench.estimators.returns import rollout_noise
from estbench.models.policy import Policy

__all__ = ["RebarPerTensor"]


class RebarPerTensor(Rebar):
    """g_k = A_k - b_k S_k + eta_k C_k in tensor k: REBAR, form B, tuned for each tensor.

    A is the score term, S the score and C REBAR's control variate (Tucker et al. 2017, equation 5).
    Total variance is a sum over tensors, so that the b_k and eta_k that are best for each tensor
    are best for the whole, and better than one pair for all where tensors differ. They are solved
    for on past draws, 2 x 2 a tensor. (Tucker et al. and Grathwohl et al. 2018 tune one eta a
    layer's variables.) A number whose gradient this is does not exist: the draws are sums of three
    gradients, tensor by tensor. Unbiased, tensor by tensor. The temperature is fixed. Needs a
    relaxed reward: one hard and one relaxed evaluation a draw.

    Args:
      rollouts: Rollouts N a position; 0 for the terminal reward.
      temperature: Of the relaxed tokens.
    """

    def __init__(self, rollouts: int = 0, temperature: float = 1.0) -> None:
        super().__init__(
            "rebar-per-tensor",
            temperature=temperature,
            temperature_every=0,
            rollouts=rollouts,
            summary="REBAR, form B, with a constant and an eta for each of the policy's tensors",
        )
        self.info = replace(
            self.info,
            baseline="constant by tensor",
            partner="reinforce-constant",  # a constant for each tensor has no plain form
            learned=("eta", "constant"),
            version=1,
        )

    def initial_state(self, policy: Policy, rng: torch.Generator) -> Learned:
        names = [name for name, p in policy.named_parameters() if p.requires_grad]
        return {"tensors": {name: self.coefficients.initial_state() for name in names}}

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: Learned
    ) -> Surrogate:
        """A draw is one sequence."""
        shapes = {**self.control.noise(policy), **rollout_noise(policy, self.rollouts)}
        sample = GumbelSample.draw(policy, reward, draws, rng, shapes)
        control = self.control.weights(policy, reward, sample, self.temperature)
        components = linear_components(sample, control.new_zeros(1, 1), True, {"eta": control})
        found = {name: self.coefficients.values(each) for name, each in state["tensors"].items()}
        terms = tuple(
            TensorTerm(component, {name: values[k] for name, values in found.items()})
            for k, component in enumerate(components[1:])
        )
        mean = [sum(values) / len(found) for values in zip(*found.values(), strict=True)]
        return Surrogate(
            sample.log_probs.flatten(1),
            components[0].weights,
            sample.tokens.unsqueeze(1),
            sample.terminal.unsqueeze(1),
            components=components,
            tensor_terms=terms,
            info=dict(zip(self.coefficients.labels, mean, strict=True)),
        )

    def adapt(
        self, policy: Policy, surrogate: Surrogate, gradients: PerDrawGradients, state: Learned
    ) -> None:
        found = gradients.gram_by_tensor(surrogate, surrogate.components)
        for name, gram in found.items():
            self.coefficients.adapt(gram, state["tensors"][name])

    def without_control(self, surrogate: Surrogate, state: Learned) -> Surrogate | None:
        """See ``Estimator.without_control``: the constants alone, tensor by tensor."""
        alone = {
            name: self.coefficients.alone("constant", each)
            for name, each in state["tensors"].items()
        }
        return replace(surrogate, tensor_terms=(TensorTerm(surrogate.components[1], alone),))


register(RebarPerTensor)

"""RELAX as the paper's public code has it: the published REBAR, weighted by a network."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from estbench.estimators.base import Learned, PerDrawGradients, Surrogate, register
from estbench.estimators.control_weights import learn
from estbench.estimators.regan import Drawn, PublishedRebar, Seen
from estbench.models.control_variate import StateNetwork
from estbench.models.policy import Policy

__all__ = ["PublishedRelax"]

UNTRAINED = 0.477  # what the public code's network answers before it has learned anything
# Deviation of that answer from one dropout mask to the next. Networks of its widths and weights
# have .013 at T = 3 and .066 at T = 15, on an answer of .50 +- .01 and .50 +- .04.
DROPOUT = 0.04


class PublishedRelax(PublishedRebar):
    """RELAX as published: the published REBAR with c_t = n_t f, where n_t is a network's output.

    g = sum_t [R - c_t(z~_t)] S_t + grad c_t(z_t) - grad c_t(z~_t), if no fault is on.

    All faults of ``PublishedRebar``, and

    - ``untrained``: no gradient ever reaches the network, so that it answers a constant plus the
      noise of its dropout, which is drawn anew for z and z~. Right: a network of the policy's state
      and of softmax(z_t), between 0 and 1 and without dropout, trained on the variance of the
      parameter gradient (Grathwohl et al. 2018, section 3.2). The paper has no correct version:
      this is the closest to its product of network and discriminator, a step at a time. Without
      other faults unbiased, for nothing says that a control variate must be good.

    With ``joint`` a trained network gives the sequence one number, the mean over positions.

    Args:
      switches: The faults; all of them if None.
      learning_rate: Adam's, for the network's weights.
      scores: Adam's, for its scores of tokens.
    """

    name = "relax-published"
    title = "RELAX"
    existing = (*PublishedRebar.existing, "untrained")

    def __init__(
        self,
        switches: tuple[str, ...] | None = None,
        learning_rate: float = 1e-2,
        scores: float = 5e-2,
    ) -> None:
        super().__init__(switches)
        self.learning_rate = learning_rate
        self.scores = scores
        self.trained = "untrained" not in self.faults
        source = "arXiv 1805.02788, public code; Grathwohl et al. 2018, equation 8"
        learned = ("phi",) if self.trained else ()
        version = 2 if self.trained else 1  # 1 learned less from small rewards
        self.info = replace(self.info, source=source, learned=learned, version=version)

    def initial_state(self, policy: Policy, rng: torch.Generator) -> Learned:
        if not self.trained:
            return {}
        with torch.no_grad():
            shape = policy.fewest_rows, policy.length
            width = policy.trace(torch.zeros(shape, dtype=torch.int64))[1].shape[-1]
        V = policy.vocabulary
        network = StateNetwork(width, policy.length, V, relaxed=V, rng=rng)
        network = network.to(policy.dtype)
        optimiser = network.optimiser(self.learning_rate, self.scores)
        return {"network": network, "optimiser": optimiser}

    def adapt(
        self, policy: Policy, surrogate: Surrogate, gradients: PerDrawGradients, state: Learned
    ) -> None:
        if not self.trained:
            return
        weights = self._weights(surrogate.cache["drawn"], state).reshape_as(surrogate.weights)
        loss = gradients.mean_squared_norm(surrogate, weights / self.group, None)
        learn(state["network"], state["optimiser"], loss)

    def factor(self, drawn: Drawn, seen: Seen, state: Learned) -> tuple[Tensor, Tensor]:
        if not self.trained:
            assert seen.mask is not None
            # One mask serves a whole sequence; even numbers of the same deviation stand for it.
            mask = seen.mask[:, :1] if self.joint else seen.mask
            factor = UNTRAINED + DROPOUT * 12**0.5 * (mask - 0.5)
            return factor.expand_as(seen.value), torch.zeros_like(seen.z)
        with torch.enable_grad():
            z = seen.z.detach().requires_grad_()
            answer = state["network"](drawn.features, drawn.tokens, z.softmax(dim=-1))
            if self.joint:
                answer = answer.mean(dim=1, keepdim=True)
            factor = answer.sigmoid()
            (slope,) = torch.autograd.grad(factor.sum(), z, create_graph=True)
        return factor.expand_as(seen.value), slope


register(PublishedRelax)

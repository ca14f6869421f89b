"""RODEO: control variates from a discrete Stein operator, for leave-one-out.

Redrawing one position of a sequence from its law given all others leaves p where it is. So for any
function h of a sequence

    (A h)(x) = sum_t [sum_v p(x with v at t | x elsewhere) h(x with v at t) - h(x)]

has mean 0 under p, and so has A of the vector h grad log p. Neighbours are scored by the policy
alone; none is given to the reward. (Shi et al. 2022, "Gradient estimation with discrete Stein
operators", sections 3 and 4; theirs is A / T, which h makes up for.)
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from estbench import noise
from estbench.errors import UserError
from estbench.estimators.base import (
    Component,
    Estimator,
    EstimatorInfo,
    PerDrawGradients,
    Reward,
    Surrogate,
    register,
)
from estbench.estimators.baselines import moving_deviation, moving_moments, update_moments
from estbench.estimators.coefficients import Coefficients
from estbench.estimators.control import combine
from estbench.models.policy import Policy
from estbench.models.sequence_network import SequenceNetwork

__all__ = ["Rodeo", "neighbours"]

MOST = 64  # neighbours of a sequence


def neighbours(tokens: Tensor, vocabulary: int) -> Tensor:
    """Return all sequences that differ at one position, int64 ``[..., T, V - 1, T]``."""
    T = tokens.shape[-1]
    shift = torch.arange(1, vocabulary, device=tokens.device)
    here = torch.eye(T, dtype=torch.int64, device=tokens.device)
    moved = tokens[..., None, None, :] + shift[:, None] * here[:, None, :]
    return moved % vocabulary


class Rodeo(Estimator):
    """g = 1/K sum_k [R_k - mean_{j != k} (R_j + a (A h)(x_j))] S_k + b/K sum_k (A h S)(x_k).

    S_k = grad log p(x_k) over K sequences, A the Gibbs Stein operator. The first Stein term makes
    leave-one-out's guess at E f a better one (it is independent of x_k whatever it is), the second
    is a control variate of its own, of mean 0. Shi et al. 2022, section 4. Here h is a network of
    a whole sequence, trained on the variance of past draws; theirs also takes the other sequences'
    rewards and slopes, and any h is unbiased. a and b are solved for on past draws, within [0, 1].

    Unbiased. Needs hard rewards, no more than leave-one-out does, and the log-probabilities of
    T (V - 1) neighbours of every sequence, differentiated: it refuses more than 64.

    Args:
      group: Sequences K a draw, at least 2.
      learning_rate: Adam's, for the network's weights.
      scores: Adam's, for its scores of tokens.
      name: Name in the catalogue.
    """

    def __init__(
        self,
        group: int = 4,
        learning_rate: float = 1e-2,
        scores: float = 5e-2,
        name: str = "rodeo",
    ) -> None:
        self.group = group
        self.learning_rate = learning_rate
        self.scores = scores
        bounds = {"global": (0.0, 1.0), "local": (0.0, 1.0)}
        self.coefficients = Coefficients(("global", "local"), bounds=bounds)
        self.info = EstimatorInfo(
            name=name,
            summary=f"RODEO: leave-one-out in groups of {group} with Stein control variates",
            source="Shi et al. 2022, section 4",
            baseline="leave-one-out",
            group=group,
            learned=("phi", "global", "local"),
            hard_evals=str(group),
        )

    def refusal(self, vocabulary: int, length: int) -> str:
        """See ``Estimator.refusal``."""
        found = length * (vocabulary - 1)
        if found <= MOST:
            return ""
        return (
            f"rodeo scores T(V - 1) = {found:,} neighbours of every sequence at V = {vocabulary} "
            f"and T = {length}: it is for {MOST} at most"
        )

    def initial_state(self, policy: Policy, rng: torch.Generator) -> dict[str, Any]:
        """See ``Estimator.initial_state``."""
        network = SequenceNetwork(policy.vocabulary, policy.length, rng)
        network = network.to(policy.device, policy.dtype)
        return {
            "coefficients": self.coefficients.initial_state(),
            "rewards": moving_moments(),
            "network": network,
            "optimiser": network.optimiser(self.learning_rate, self.scores),
        }

    def surrogate(
        self,
        policy: Policy,
        reward: Reward,
        draws: int,
        rng: torch.Generator,
        state: dict[str, Any],
    ) -> Surrogate:
        """See ``Estimator.surrogate``; a draw is a group of K sequences."""
        K, T, V = self.group, policy.length, policy.vocabulary
        if refusal := self.refusal(V, T):
            raise UserError(refusal)
        u = noise.uniforms(rng, draws * K, {"tokens": (T,)}, policy.dtype)["tokens"]
        tokens = policy.sample_from(u)
        rewards = reward(tokens).reshape(draws, K)
        # A sequence first, then its neighbours, position by position.
        near = neighbours(tokens, V).reshape(draws * K, -1, T)
        all_ = torch.cat([tokens.unsqueeze(1), near], dim=1)
        flat = all_.reshape(-1, T)
        whole = policy.log_probs(flat).gather(2, flat.unsqueeze(2)).sum(dim=(1, 2))
        log_probs = whole.reshape(draws, K, -1)
        kernel = _kernel(log_probs.detach(), T, V)
        sequences = all_.reshape(draws, K, -1, T)
        learned = self._components(kernel, sequences, state)
        centred = (rewards - rewards.mean(dim=1, keepdim=True)) / (K - 1)
        score = torch.nn.functional.pad(centred.unsqueeze(2), (0, kernel.shape[2] - 1))
        components = (Component("score", score.flatten(1)), *learned)
        coefficients = self.coefficients.values(state["coefficients"])
        fixed = tuple(replace(c, weights=c.weights.detach()) for c in components)
        return Surrogate(
            log_probs.flatten(1),
            combine(components, coefficients),
            tokens.reshape(draws, K, T),
            rewards,
            components=fixed,
            info=dict(zip(self.coefficients.labels, coefficients, strict=True)),
            cache={"kernel": kernel, "sequences": sequences},
        )

    def adapt(
        self,
        policy: Policy,
        surrogate: Surrogate,
        gradients: PerDrawGradients,
        state: dict[str, Any],
    ) -> None:
        """See ``Estimator.adapt``; phi takes a step at coefficients of 1."""
        gram = gradients.gram(surrogate, surrogate.components)
        self.coefficients.adapt(gram, state["coefficients"])
        update_moments(state["rewards"], surrogate.rewards)
        cache = surrogate.cache
        learned = self._components(cache["kernel"], cache["sequences"], state)
        weights = combine((surrogate.components[0], *learned), (1.0, 1.0))
        loss = gradients.mean_squared_norm(surrogate, weights, None)
        network, optimiser = state["network"], state["optimiser"]
        found = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
        for parameter, grad in zip(network.parameters(), found, strict=True):
            parameter.grad = grad
        optimiser.step()

    def without_control(self, surrogate: Surrogate, state: dict[str, Any]) -> Surrogate | None:
        """See ``Estimator.without_control``: leave-one-out."""
        return replace(surrogate, weights=surrogate.components[0].weights)

    def _components(
        self, kernel: Tensor, sequences: Tensor, state: dict[str, Any]
    ) -> tuple[Component, Component]:
        """Return the two Stein terms, with their graph in phi.

        Args:
          kernel: The operator's weights on a sequence and its neighbours ``[n, K, m]``.
          sequences: These sequences, int64 ``[n, K, m, T]``.
          state: The estimator's state.
        """
        K = self.group
        unit = moving_deviation(state["rewards"]) or 1.0
        local = kernel * (unit * state["network"](sequences))  # (A h S), as weights on log p
        stein = local.sum(dim=2)  # A h
        others = (stein.sum(dim=1, keepdim=True) - stein) / (K - 1)
        on_scores = torch.nn.functional.pad(-others.unsqueeze(2) / K, (0, kernel.shape[2] - 1))
        return (
            Component("global", on_scores.flatten(1)),
            Component("local", (local / K).flatten(1)),
        )


def _kernel(log_probs: Tensor, length: int, vocabulary: int) -> Tensor:
    """Return the Gibbs Stein operator's weights ``[..., 1 + T (V - 1)]``; they add up to 0.

    Args:
      log_probs: log p of the sequence and its neighbours, ``[..., 1 + T (V - 1)]``.
      length: T.
      vocabulary: V.
    """
    own, near = log_probs[..., :1], log_probs[..., 1:]
    near = near.unflatten(-1, (length, vocabulary - 1))
    each = torch.cat([own.unsqueeze(-1).expand(*near.shape[:-1], 1), near], dim=-1)
    share = each.softmax(dim=-1)
    stays = share[..., 0].sum(dim=-1, keepdim=True) - length
    return torch.cat([stays, share[..., 1:].flatten(-2)], dim=-1)


register(Rodeo)

"""Baselines: what is subtracted from the reward, fixed before the draws it is used on.

A baseline B_t keeps the score-function estimator unbiased as long as it is independent of
b_{>=t} given the prefix s_t. Whatever is learned is learned from past batches.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from estbench.estimators.base import Estimator, Learned, PerDrawGradients, Surrogate
from estbench.models.control_variate import StateNetwork
from estbench.models.policy import Policy

__all__ = ["Baseline", "Baselined", "Critic", "MovingAverage", "alike", "make_baseline"]

ROUNDING = 8.0  # units in the last place by which two evaluations of one reward may differ


class Baseline:
    """Base class; this one subtracts nothing."""

    label = "none"
    learned: tuple[str, ...] = ()
    version = 1  # see ``EstimatorInfo.version``

    def initial_state(self, policy: Policy, rng: torch.Generator) -> Learned:
        """Return what is learned, before anything was."""
        return {}

    def values(self, features: Tensor, tokens: Tensor, state: Learned) -> Tensor:
        """Return B_t, broadcastable to ``[n, T]``.

        Args:
          features: The policy's state at each prefix ``[n, T, F]``.
          tokens: b, int64 ``[n, T]``; B_t depends on those before t.
          state: What ``initial_state`` returned.
        """
        return features.new_zeros(1, 1)

    def adapt(self, features: Tensor, tokens: Tensor, returns: Tensor, state: Learned) -> None:
        """Learn from used draws, with what each token earned as returns ``[n, T]``."""


class Baselined(Estimator):
    """An estimator of single sequences whose baseline learns from the draws that were used.

    The surrogate's ``cache`` has ``features`` ``[n, T, F]`` and ``returns`` ``[n, T]``.

    Attributes:
      baseline: The baseline.
    """

    baseline: Baseline

    def initial_state(self, policy: Policy, rng: torch.Generator) -> Learned:
        return {"baseline": self.baseline.initial_state(policy, rng)}

    def adapt(
        self, policy: Policy, surrogate: Surrogate, gradients: PerDrawGradients, state: Learned
    ) -> None:
        tokens, cache = surrogate.tokens.squeeze(1), surrogate.cache
        self.baseline.adapt(cache["features"], tokens, cache["returns"], state["baseline"])


class MovingAverage(Baseline):
    """The exponentially weighted mean of past batches' rewards (Williams 1992).

    The first batch has no past and goes without. The weights are corrected for the start, so that
    after one batch the baseline is that batch's mean.
    """

    label = "moving average"
    learned = ("baseline",)

    def __init__(self, decay: float = 0.8) -> None:
        self.decay = decay

    def initial_state(self, policy: Policy, rng: torch.Generator) -> Learned:
        return moving_moments()

    def values(self, features: Tensor, tokens: Tensor, state: Learned) -> Tensor:
        return features.new_full((1, 1), moving_mean(state))

    def adapt(self, features: Tensor, tokens: Tensor, returns: Tensor, state: Learned) -> None:
        update_moments(state, returns, self.decay)


def alike(rewards: Tensor, dim: int | None = None) -> Tensor:
    """Return whether rewards differ by no more than rounding, so that their spread means nothing.

    Args:
      rewards: Any shape.
      dim: The dimension to compare along, which is kept with size 1; all of them if None.
    """
    dims = tuple(range(rewards.dim())) if dim is None else (dim,)
    spread = rewards.amax(dims, keepdim=True) - rewards.amin(dims, keepdim=True)
    size = rewards.abs().amax(dims, keepdim=True)
    found = spread <= ROUNDING * torch.finfo(rewards.dtype).eps * size
    return found.reshape(()) if dim is None else found


def moving_moments() -> dict[str, float]:
    """Return moving moments of rewards that have not seen any yet."""
    return {"weight": 0.0, "sum": 0.0, "squares": 0.0}


def update_moments(moments: dict[str, float], rewards: Tensor, decay: float = 0.8) -> None:
    """Add a batch of rewards to moving moments; a spread that is only rounding counts as none."""
    values = rewards.detach().double()
    spread = 0.0 if alike(rewards) else float(((values - values.mean()) ** 2).mean())
    batch = {"weight": 1.0, "sum": float(values.mean()), "squares": spread}
    for key, value in batch.items():
        moments[key] = decay * moments[key] + (1 - decay) * value


def moving_mean(moments: dict[str, float]) -> float:
    """Return the mean of past rewards; 0 before there are any."""
    return moments["sum"] / moments["weight"] if moments["weight"] else 0.0


def moving_deviation(moments: dict[str, float]) -> float:
    """Return the standard deviation of rewards within past batches; 0 before there are any."""
    return math.sqrt(moments["squares"] / moments["weight"]) if moments["weight"] else 0.0


class Critic(Baseline):
    """A learned value of the prefix (NVIL: Mnih and Gregor 2014, section 2.3).

    A network on the prefix, trained on squared error against past returns, on top of their moving
    average and in units of their moving standard deviation.

    Args:
      learning_rate: Adam's, for the network's weights.
      scores: Adam's, for its scores of tokens.
      updates: Steps a batch.
    """

    label = "critic"
    learned = ("critic", "baseline")
    version = 2

    def __init__(self, learning_rate: float = 1e-2, scores: float = 2e-2, updates: int = 4) -> None:
        self.learning_rate = learning_rate
        self.scores = scores
        self.updates = updates
        self.average = MovingAverage()

    def initial_state(self, policy: Policy, rng: torch.Generator) -> Learned:
        average = self.average.initial_state(policy, rng)
        return {"average": average, "rng": rng, "vocabulary": policy.vocabulary}

    def values(self, features: Tensor, tokens: Tensor, state: Learned) -> Tensor:
        mean = self.average.values(features, tokens, state["average"])
        if "network" not in state:
            self._build(features, state)
        deviation = moving_deviation(state["average"])
        with torch.no_grad():
            found: Tensor = mean + deviation * state["network"](features, tokens)
        return found

    def adapt(self, features: Tensor, tokens: Tensor, returns: Tensor, state: Learned) -> None:
        self.average.adapt(features, tokens, returns, state["average"])
        deviation = moving_deviation(state["average"])
        if not deviation:
            return
        target = (returns - moving_mean(state["average"])) / deviation
        for _ in range(self.updates):
            loss = nn.functional.mse_loss(state["network"](features, tokens), target)
            state["optimiser"].zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            state["optimiser"].step()

    def _build(self, features: Tensor, state: Learned) -> None:
        T, F = features.shape[1:]
        rng, vocabulary = state.pop("rng"), state.pop("vocabulary")
        network = StateNetwork(F, T, vocabulary, relaxed=0, rng=rng).to(features)
        state["network"] = network
        state["optimiser"] = network.optimiser(self.learning_rate, self.scores)


def make_baseline(kind: str) -> Baseline:
    """Return a baseline by its short name: "none", "ema" or "critic"."""
    return {"none": Baseline, "ema": MovingAverage, "critic": Critic}[kind]()

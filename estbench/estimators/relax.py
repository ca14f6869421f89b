"""RELAX on sequences (Grathwohl et al. 2018, equation 8): a learned control variate a step.

c_phi(z_t, s_t) sees the prefix and the perturbed log-probabilities of one position, so it needs no
relaxed reward. phi is trained on the variance of the *parameter* gradient: the draws'
squared norms are differentiated through the weights that c_phi gives to the log-probabilities.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from estbench.estimators.base import (
    Component,
    Estimator,
    EstimatorInfo,
    Learned,
    PerDrawGradients,
    Reward,
    Section,
    Surrogate,
    register,
)
from estbench.estimators.baselines import (
    make_baseline,
    moving_deviation,
    moving_moments,
    update_moments,
)
from estbench.estimators.coefficients import Coefficients
from estbench.estimators.control_weights import (
    GumbelSample,
    combine,
    control_weights,
    learn,
    linear_components,
    relearned,
    without_control,
)
from estbench.estimators.rebar import RelaxedReward
from estbench.estimators.returns import evaluations, rollout_noise
from estbench.models.control_variate import StateNetwork
from estbench.models.policy import Policy
from estbench.models.sampling import LARGE

__all__ = ["Relax"]


class Relax(Estimator):
    """g = sum_t { [Q_t - B_t - b - c(z~_t, s_t)] S_t + grad c(z_t, s_t) - grad c(z~_t, s_t) }.

    b and a factor on c_phi are solved for on past draws; the factor keeps a network that has not
    learned anything yet from doing harm.

    Args:
      name: Name in the catalogue.
      baseline: "constant" (tuned with the factors), "none", "ema" or "critic".
      coupled: Whether z~ is z itself or drawn anew given b.
      with_reward: Add REBAR's term, with an eta of its own (the original's c_phi contains it).
      temperature: Of the softmax through which c_phi sees z; and of REBAR's term.
      learning_rate: Adam's, for the network's weights.
      scores: Adam's, for its scores of tokens.
      updates: Steps on phi a batch.
      rollouts: Rollouts N a position; 0 for the terminal reward.
      summary: One line for the catalogue.
    """

    section = Section.CONTROL_VARIATES

    def __init__(
        self,
        name: str = "relax",
        baseline: str = "constant",
        coupled: bool = True,
        with_reward: bool = False,
        temperature: float = 1.0,
        learning_rate: float = 1e-2,
        scores: float = 5e-2,
        updates: int = 1,
        rollouts: int = 0,
        summary: str = "",
    ) -> None:
        self.baseline = make_baseline("none" if baseline == "constant" else baseline)
        self.constant = baseline == "constant"
        self.coupled = coupled
        self.control = RelaxedReward("B", "soft", coupled) if with_reward else None
        labels = (
            *(("constant",) if self.constant else ()),
            "factor",
            *(("eta",) if self.control else ()),
        )
        # phi is trained at a factor of 1. While it grows, moments of its smaller past would ask for
        # thousands; the step they make would stay in Adam's second moments for the whole run.
        self.coefficients = Coefficients(labels, bounds={"factor": (0.0, 1.0)})
        self.temperature = temperature
        self.learning_rate = learning_rate
        self.scores = scores
        self.updates = updates
        self.rollouts = rollouts
        self.info = EstimatorInfo(
            name=name,
            summary=summary or "RELAX: a learned control variate of state and token",
            source="Grathwohl et al. 2018, equation 8",
            baseline="constant" if self.constant else self.baseline.label,
            needs_relaxed_reward=with_reward,
            learned=("phi", *labels),
            hard_evals=evaluations(rollouts),
            relaxed_evals=self.control.evals() if self.control else "0",
            version=2 + self.baseline.version,  # 1 + it: small rewards taught phi less
        )

    def initial_state(self, policy: Policy, rng: torch.Generator) -> Learned:
        with torch.no_grad():
            shape = policy.fewest_rows, policy.length
            tokens = torch.zeros(shape, dtype=torch.int64, device=policy.device)
            width = policy.trace(tokens)[1].shape[-1]
        V, embedded = policy.vocabulary, self._embedded(policy, None)
        seen = V if embedded is None else embedded.shape[-1]
        network = StateNetwork(width, policy.length, V, relaxed=seen, rng=rng)
        network = network.to(policy.device, policy.dtype)
        return {
            "baseline": self.baseline.initial_state(policy, rng),
            "coefficients": self.coefficients.initial_state(),
            "rewards": moving_moments(),
            "network": network,
            "optimiser": network.optimiser(self.learning_rate, self.scores),
        }

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: Learned
    ) -> Surrogate:
        """A draw is one sequence."""
        shapes = dict(rollout_noise(policy, self.rollouts))
        if not self.coupled:
            shapes["conditional"] = (policy.length, policy.vocabulary)
        sample = GumbelSample.draw(policy, reward, draws, rng, shapes)
        learned = self._weights(policy, sample, state)
        controls = {"factor": learned.detach()}
        if self.control:
            controls["eta"] = self.control.weights(policy, reward, sample, self.temperature)
        controls |= self.further(sample, state)
        baseline = self.baseline.values(sample.features, sample.tokens, state["baseline"])
        coefficients = self.coefficients.values(state["coefficients"])
        components = linear_components(sample, baseline, self.constant, controls)
        # The same weights as a function of phi: what training differentiates.
        learnable = [
            Component("factor", learned.flatten(1)) if c.name == "factor" else c for c in components
        ]
        return Surrogate(
            sample.log_probs.flatten(1),
            combine(learnable, coefficients),
            sample.tokens.unsqueeze(1),
            sample.terminal.unsqueeze(1),
            components=components,
            info=dict(zip(self.coefficients.labels, coefficients, strict=True)),
            cache={"sample": sample},
        )

    def adapt(
        self, policy: Policy, surrogate: Surrogate, gradients: PerDrawGradients, state: Learned
    ) -> None:
        sample: GumbelSample = surrogate.cache["sample"]
        components = relearned(self.baseline, surrogate, sample, state["baseline"])
        gram = gradients.gram(surrogate, components)
        self.coefficients.adapt(gram, state["coefficients"])
        update_moments(state["rewards"], sample.terminal)
        for _ in range(self.updates):
            self._train(policy, sample, surrogate, components, gradients, state)

    def further(self, sample: GumbelSample, state: Learned) -> dict[str, Tensor]:
        """Return weights ``[n, T, V]`` of further control variates, by their coefficients' names.

        They follow the others in ``coefficients``.
        """
        return {}

    def without_control(self, surrogate: Surrogate, state: Learned) -> Surrogate | None:
        return without_control(self.coefficients, surrogate, state["coefficients"])

    def _train(
        self,
        policy: Policy,
        sample: GumbelSample,
        surrogate: Surrogate,
        components: tuple[Component, ...],
        gradients: PerDrawGradients,
        state: Learned,
    ) -> None:
        """One step on phi down the mean squared norm of the draws, at a factor of 1."""
        labels = self.coefficients.labels
        values = dict(zip(labels, self.coefficients.values(state["coefficients"]), strict=True))
        learned = Component("factor", self._weights(policy, sample, state).flatten(1))
        weights = combine(
            [learned if c.name == "factor" else c for c in components],
            [1.0 if k == "factor" else values[k] for k in labels],
        )
        loss = gradients.mean_squared_norm(surrogate, weights, None)
        learn(state["network"], state["optimiser"], loss)

    def _weights(self, policy: Policy, sample: GumbelSample, state: Learned) -> Tensor:
        """Return the weights ``[n, T, V]`` on l that c_phi gives, with their graph in phi."""
        return control_weights(sample, self.coupled, lambda z: self._at(policy, sample, z, state))

    def _embedded(self, policy: Policy, seen: Tensor | None) -> Tensor | None:
        """Return what c_phi's layers see of relaxed tokens; None for the tokens themselves.

        Thousands of tokens are too many to learn an embedding for from the gradient's variance:
        there the policy's own serves.
        """
        if policy.vocabulary < LARGE:
            return None
        if seen is None:
            seen = torch.zeros(1, policy.vocabulary, dtype=policy.dtype, device=policy.device)
        return policy.embed(seen)

    def _at(
        self, policy: Policy, sample: GumbelSample, z: Tensor, state: Learned
    ) -> tuple[Tensor, Tensor]:
        """Return c_phi ``[n, T]`` and its derivative ``[n, T, V]`` in z, with their graphs.

        The network works in units of the rewards' spread, so that its learning rate means the
        same whether rewards differ by .001 or by 10.
        """
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            seen = (z / self.temperature).softmax(dim=-1)
            unit = moving_deviation(state["rewards"]) or 1.0
            embedded = self._embedded(policy, seen)
            value = unit * state["network"](sample.features, sample.tokens, seen, embedded)
            (slope,) = torch.autograd.grad(value.sum(), z, create_graph=True)
        return value, slope


def _relax(name: str, **options: Any) -> None:
    def factory(rollouts: int = 0) -> Estimator:
        return Relax(name, rollouts=rollouts, **options)

    register(factory)


_relax("relax")
_relax("relax-none", baseline="none", summary="RELAX without a baseline")
_relax("relax-ema", baseline="ema", summary="RELAX, minus a moving average")
_relax("relax-critic", baseline="critic", summary="RELAX, minus a learned value of the state")
_relax("relax-rebar", with_reward=True, summary="RELAX with REBAR's term beside it")
_relax("relax-independent", coupled=False, summary="RELAX with z~ drawn anew given b")

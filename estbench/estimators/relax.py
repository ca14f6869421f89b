"""RELAX on sequences (Grathwohl et al. 2018, equation 8): a learned control variate a step.

c_phi(z_t, s_t) sees the prefix and the perturbed log-probabilities of one position, so it needs no
relaxed reward. phi is trained on the variance of the *parameter* gradient: the draws'
squared norms are differentiated through the weights that c_phi gives to the log-probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from estbench.estimators.base import (
    Component,
    EstimatorInfo,
    Learned,
    PerDrawGradients,
    Reward,
    Section,
    Surrogate,
    register,
)
from estbench.estimators.baselines import (
    Critic,
    make_baseline,
    moving_deviation,
    moving_moments,
    update_moments,
)
from estbench.estimators.coefficients import Coefficients
from estbench.estimators.control_weights import (
    GumbelSample,
    Tuned,
    combine,
    control_weights,
    learn,
    linear_components,
    relearned,
    state_width,
)
from estbench.estimators.gumbel import one_hot
from estbench.estimators.rebar import RelaxedReward
from estbench.estimators.returns import evaluations, rollout_noise
from estbench.models.control_variate import StateNetwork
from estbench.models.policy import Policy
from estbench.models.sampling import LARGE

__all__ = ["Relax", "RelaxSeveral"]


class Relax(Tuned):
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
        V, embedded = policy.vocabulary, self._embedded(policy, None)
        seen = V if embedded is None else embedded.shape[-1]
        network = StateNetwork(state_width(policy), policy.length, V, relaxed=seen, rng=rng)
        network = network.to(policy.device, policy.dtype)
        return {
            "baseline": self.baseline.initial_state(policy, rng),
            **super().initial_state(policy, rng),
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
        by_network = self._weights(policy, sample, state)
        learned = _unit(state) * by_network
        controls = {"factor": learned.detach()}
        if self.control:
            controls["eta"] = self.control.weights(policy, reward, sample, self.temperature)
        controls |= self.further(sample, state)
        baseline = self.baseline.values(sample.features, sample.tokens, state["baseline"])
        coefficients = self.coefficients.values(state["coefficients"])
        components = linear_components(sample, baseline, self.constant, controls)
        # The same weights as a function of phi: what training differentiates.
        return Surrogate.of(
            sample.log_probs,
            combine(_with_factor(components, learned), coefficients),
            sample.tokens,
            sample.terminal,
            components=components,
            info=coefficients,
            cache={"sample": sample, "by network": by_network},
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
        values = self.coefficients.values(state["coefficients"]) | {"factor": 1.0}
        by_network = surrogate.cache.pop("by network", None)  # a step on phi ends its graph
        if by_network is None:
            by_network = self._weights(policy, sample, state)
        weights = combine(_with_factor(components, _unit(state) * by_network), values)
        loss = gradients.mean_squared_norm(surrogate, weights, None)
        learn(state["network"], state["optimiser"], loss)

    def _weights(self, policy: Policy, sample: GumbelSample, state: Learned) -> Tensor:
        """Return the weights ``[n, T, V]`` on l that the network gives, with their graph in phi.

        It works in units of the rewards' spread, so that its learning rate means the same whether
        rewards differ by .001 or by 10.
        """
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
        """Return the network ``[n, T]`` and its slope in z ``[n, T, V]``, with their graphs."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            seen = (z / self.temperature).softmax(dim=-1)
            embedded = self._embedded(policy, seen)
            value = state["network"](sample.features, sample.tokens, seen, embedded)
            (slope,) = torch.autograd.grad(value.sum(), z, create_graph=True)
        return value, slope


def _unit(state: Learned) -> float:
    """Return the spread of the rewards seen so far: c_phi is the network times this."""
    return moving_deviation(state["rewards"]) or 1.0


def _with_factor(components: Sequence[Component], learned: Tensor) -> list[Component]:
    """Return components with c_phi's weights ``[n, T, V]`` in place of those that are there."""
    own = Component("factor", learned.flatten(1))
    return [own if c.name == "factor" else c for c in components]


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


register(Relax)
for _baseline, _summary in (
    ("none", "RELAX without a baseline"),
    ("ema", "RELAX, minus a moving average"),
    ("critic", "RELAX, minus a learned value of the state"),
):
    register(partial(Relax, f"relax-{_baseline}", _baseline, summary=_summary))
_summary = "RELAX with REBAR's term beside it"
register(partial(Relax, "relax-rebar", with_reward=True, summary=_summary))
_summary = "RELAX with z~ drawn anew given b"
register(partial(Relax, "relax-independent", coupled=False, summary=_summary))
register(RelaxSeveral)

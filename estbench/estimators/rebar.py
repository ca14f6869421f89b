"""REBAR on sequences (Tucker et al. 2017, equation 5), in two forms that are unbiased.

With an autoregressive policy, z_t depends on b_{<t}, which jumps: a control variate that looks at
all of z_1..z_T cannot be differentiated through those jumps. Form A relaxes one position at a
time, after the sample's own hard prefix; form B relaxes a trajectory that never sees b.
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
    TensorTerm,
    register,
)
from estbench.estimators.baselines import make_baseline
from estbench.estimators.coefficients import Coefficients
from estbench.estimators.control_weights import (
    GumbelSample,
    Tuned,
    combine,
    control_weights,
    linear_components,
    relearned,
)
from estbench.estimators.futures import frozen, with_futures
from estbench.estimators.gumbel import conditional, independent_weights
from estbench.estimators.returns import evaluations, rollout_noise
from estbench.models.policy import Policy

__all__ = ["Rebar", "RebarPerTensor", "RelaxedReward"]

GRID = (2 / 3, 1.0, 3 / 2)  # temperatures; below, single draws carry most of the variance
NUMBERS = 1 << 24  # of relaxed sequences at a time, 64 MB in float32
CLEARLY = 0.95  # how much less variance a rival temperature must promise


class RelaxedReward:
    """The control variate of REBAR: the reward itself, on relaxed tokens.

    Args:
      form: "A" (one position at a time) or "B" (the whole trajectory).
      future: What follows the relaxed position in form A; see ``futures``.
      coupled: Whether z~ is z itself (one evaluation) or drawn anew given b (two).
    """

    def __init__(self, form: str, future: str, coupled: bool) -> None:
        self.form = form
        self.future = future
        self.coupled = coupled

    def noise(self, policy: Policy) -> dict[str, Sequence[int]]:
        """Return the noise a draw needs beside its Gumbel noise."""
        T, V = policy.length, policy.vocabulary
        shapes: dict[str, Sequence[int]] = {}
        if not self.coupled:
            shapes["conditional"] = (T, V)
        if self.form == "A" and self.future == "sibling":
            shapes["sibling"] = (T,)
        return shapes

    def evals(self, length: str = "T") -> str:
        """Return relaxed evaluations a draw, as a formula."""
        if self.form == "B":
            return "1"
        return length if self.coupled else f"2{length}"

    def weights(
        self, policy: Policy, reward: Reward, sample: GumbelSample, temperature: float
    ) -> Tensor:
        """Return the weights ``[n, T, V]`` on l of -c(z~) S + grad c(z) - grad c(z~)."""

        def at(z: Tensor) -> tuple[Tensor, Tensor]:
            # Draws share nothing: a few at a time bound the memory where T^2 V numbers are many.
            each = z[0].numel() * (policy.length if self.form == "A" else 1)
            size = max(1, NUMBERS // each)
            if size >= len(z):
                return self._at(policy, reward, sample, z, temperature)
            parts = [slice(start, start + size) for start in range(0, len(z), size)]
            found = [self._at(policy, reward, sample.rows(p), z[p], temperature) for p in parts]
            values, slopes = zip(*found, strict=True)
            return torch.cat(values), torch.cat(slopes)

        if self.form == "A" or self.coupled:
            return control_weights(sample, self.coupled, at)
        # The law of g~ is that of g, so what C depends on explicitly cancels on average and is left
        # out of both terms; g~ = z~ - l moves with l by dz~/dl - 1, and one evaluation is enough.
        tokens = sample.tokens
        z, jacobian = conditional(sample.log_probs.detach(), tokens, sample.uniforms["conditional"])
        value, slope = at(z)
        return independent_weights(value, slope, slope, jacobian, tokens)

    def _at(
        self, policy: Policy, reward: Reward, sample: GumbelSample, z: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        """Return c ``[n, T]`` and dc/dz ``[n, T, V]`` at z ``[n, T, V]``."""
        n, T, V = z.shape
        with frozen(policy), torch.enable_grad():
            z = z.detach().requires_grad_()
            if self.form == "B":
                gumbel = z - sample.log_probs.detach()
                value = reward.relaxed(policy.relaxed_from(gumbel, temperature))
                (slope,) = torch.autograd.grad(value.sum(), z)
                return value.detach().unsqueeze(1).expand(n, T), slope
            sibling = None
            if "sibling" in sample.uniforms:
                sibling = policy.sample_from(sample.uniforms["sibling"])
            relaxed = (z / temperature).softmax(dim=-1)
            sequences = with_futures(
                policy, sample.tokens, relaxed, self.future, sample.gumbel, temperature, sibling
            )
            value = reward.relaxed(sequences.reshape(n * T, T, V))
            (slope,) = torch.autograd.grad(value.sum(), z)
            return value.detach().reshape(n, T), slope


class Rebar(Tuned):
    """g = sum_t { [Q_t - B_t - b - eta c_t(z~_t)] S_t + eta grad c_t(z_t) - eta grad c_t(z~_t) }.

    b and eta are solved for together on past draws; the temperature is chosen from a grid,
    compared on past draws with common noise.

    Args:
      name: Name in the catalogue.
      form: "A" or "B".
      future: Form A's future.
      coupled: See ``RelaxedReward``.
      baseline: "constant" (b tuned with eta), or "none", "ema", "critic" (eta tuned alone).
      temperature: Where it starts.
      temperature_every: Batches between two comparisons; 0 keeps it fixed.
      rollouts: Rollouts N a position; 0 for the terminal reward.
      summary: One line for the catalogue.
    """

    section = Section.CONTROL_VARIATES

    def __init__(
        self,
        name: str = "rebar",
        form: str = "B",
        future: str = "soft",
        coupled: bool = True,
        baseline: str = "constant",
        temperature: float = 1.0,
        temperature_every: int = 8,
        rollouts: int = 0,
        summary: str = "",
    ) -> None:
        self.control = RelaxedReward(form, future, coupled)
        self.baseline = make_baseline("none" if baseline == "constant" else baseline)
        self.constant = baseline == "constant"
        self.coefficients = Coefficients(("constant", "eta") if self.constant else ("eta",))
        self.temperature = temperature
        self.temperature_every = temperature_every
        self.rollouts = rollouts
        self.info = EstimatorInfo(
            name=name,
            summary=summary or f"form {form}",
            source="Tucker et al. 2017, equation 5",
            baseline="constant" if self.constant else self.baseline.label,
            needs_relaxed_reward=True,
            learned=("eta", "temperature", *(("constant",) if self.constant else ())),
            hard_evals=evaluations(rollouts),
            relaxed_evals=self.control.evals(),
            tuning_evals=self._tuning_evals(),
            version=self.baseline.version,
        )

    def initial_state(self, policy: Policy, rng: torch.Generator) -> Learned:
        return {
            "baseline": self.baseline.initial_state(policy, rng),
            **super().initial_state(policy, rng),
            "temperature": self.temperature,
            "grid": {},
            "batches": 0,
        }

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: Learned
    ) -> Surrogate:
        """A draw is one sequence."""
        sample, control = self._drawn(policy, reward, draws, rng, state["temperature"])
        baseline = self.baseline.values(sample.features, sample.tokens, state["baseline"])
        coefficients = self.coefficients.values(state["coefficients"])
        components = linear_components(sample, baseline, self.constant, {"eta": control})
        return Surrogate.of(
            sample.log_probs,
            combine(components, coefficients),
            sample.tokens,
            sample.terminal,
            components=components,
            info={**coefficients, "temperature": state["temperature"]},
            cache={"sample": sample, "reward": reward},
        )

    def adapt(
        self, policy: Policy, surrogate: Surrogate, gradients: PerDrawGradients, state: Learned
    ) -> None:
        sample: GumbelSample = surrogate.cache["sample"]
        components = relearned(self.baseline, surrogate, sample, state["baseline"])
        gram = gradients.gram(surrogate, components)
        self.coefficients.adapt(gram, state["coefficients"])
        state["batches"] += 1
        if self.temperature_every and state["batches"] % self.temperature_every == 0:
            self._move_temperature(policy, surrogate, components, gradients, state, gram)

    def _drawn(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, temperature: float
    ) -> tuple[GumbelSample, Tensor]:
        """Return sequences, and the control variate's weights ``[n, T, V]`` on l."""
        shapes = {**self.control.noise(policy), **rollout_noise(policy, self.rollouts)}
        sample = GumbelSample.draw(policy, reward, draws, rng, shapes)
        return sample, self.control.weights(policy, reward, sample, temperature)

    def _tuning_evals(self) -> str:
        """Return what the comparison of temperatures costs a draw, spread over its batches."""
        if not self.temperature_every:
            return "0"
        return f"{len(GRID) - 1}({self.control.evals()})/{self.temperature_every}"

    def _move_temperature(
        self,
        policy: Policy,
        surrogate: Surrogate,
        components: tuple[Component, ...],
        gradients: PerDrawGradients,
        state: Learned,
        gram: Tensor,
    ) -> None:
        """Take the temperature on the grid that would have left the least variance.

        Moments are kept for every temperature and fade like the coefficients' own; a rival must be
        clearly better. Low temperatures give heavy tails: most batches look good and a rare one
        undoes it, so that a choice by single batches drifts to where the variance is worst.
        """
        sample, reward = surrogate.cache["sample"], surrogate.cache["reward"]
        current = state["temperature"]
        kept: dict[float, Tensor] = state["grid"]
        candidates = sorted({*GRID, current})
        for candidate in candidates:
            if candidate == current:
                batch = gram
            else:
                control = self.control.weights(policy, reward, sample, candidate)
                changed = (*components[:-1], Component("eta", control.flatten(1)))
                batch = gradients.gram(surrogate, changed)
            kept[candidate] = self.coefficients.faded(kept.get(candidate), batch)
        found = {t: self.coefficients.second_moment(kept[t]) for t in candidates}
        best = min(found, key=lambda t: found[t])
        if found[best] < CLEARLY * found[current]:
            state["temperature"] = best


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
        sample, control = self._drawn(policy, reward, draws, rng, self.temperature)
        components = linear_components(sample, control.new_zeros(1, 1), True, {"eta": control})
        found = {name: self.coefficients.values(each) for name, each in state["tensors"].items()}
        # For each coefficient, its values by tensor.
        values = {c.name: {n: found[n][c.name] for n in found} for c in components[1:]}
        return Surrogate.of(
            sample.log_probs,
            components[0].weights,
            sample.tokens,
            sample.terminal,
            components=components,
            tensor_terms=tuple(TensorTerm(c, values[c.name]) for c in components[1:]),
            info={label: sum(each.values()) / len(each) for label, each in values.items()},
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


for _name, _baseline, _summary in (
    ("rebar", "constant", "REBAR on a trajectory relaxed throughout (form B)"),
    ("rebar-none", "none", "REBAR, form B, without a baseline"),
    ("rebar-ema", "ema", "REBAR, form B, minus a moving average"),
    ("rebar-critic", "critic", "REBAR, form B, minus a learned value of the state"),
):
    register(partial(Rebar, _name, baseline=_baseline, summary=_summary))
_summary = "REBAR, form B, with z~ drawn anew given b"
register(partial(Rebar, "rebar-independent", coupled=False, summary=_summary))
for _future in ("soft", "mean-field", "sibling", "uniform", "zeros"):
    _summary = f"REBAR a step at a time (form A), {_future} future"
    register(partial(Rebar, f"rebar-{_future}", "A", _future, summary=_summary))
register(RebarPerTensor)

"""What estimators with control variates share: Gumbel-max samples, weights, tuned coefficients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from estbench.core import noise
from estbench.estimators.base import (
    Component,
    Estimator,
    Learned,
    PerDrawGradients,
    Reward,
    Surrogate,
)
from estbench.estimators.baselines import Baseline
from estbench.estimators.coefficients import Coefficients
from estbench.estimators.gumbel import conditional, coupled_weights, independent_weights, one_hot
from estbench.estimators.returns import token_returns
from estbench.models.policy import Policy, choose_by_gumbel

__all__ = [
    "GumbelSample",
    "Tuned",
    "combine",
    "control_weights",
    "learn",
    "linear_components",
    "relearned",
    "state_width",
]


class Tuned(Estimator):
    """An estimator whose components have coefficients that are solved for on past draws.

    Attributes:
      coefficients: Those of all components but the first, the score term.
    """

    coefficients: Coefficients

    def initial_state(self, policy: Policy, rng: torch.Generator) -> Learned:
        return {"coefficients": self.coefficients.initial_state()}

    def adapt(
        self, policy: Policy, surrogate: Surrogate, gradients: PerDrawGradients, state: Learned
    ) -> None:
        gram = gradients.gram(surrogate, surrogate.components)
        self.coefficients.adapt(gram, state["coefficients"])

    def without_control(self, surrogate: Surrogate, state: Learned) -> Surrogate | None:
        """See ``Estimator.without_control``: the score term, and a constant if there is one."""
        weights = surrogate.components[0].weights
        for component in surrogate.components[1:]:
            if component.name == "constant":
                alone = self.coefficients.alone("constant", state["coefficients"])
                weights = weights + alone * component.weights
        return replace(surrogate, weights=weights)


@dataclass(frozen=True)
class GumbelSample:
    """Sequences with the noise that made them, and all that the estimators of this family share.

    Attributes:
      tokens: b, int64 ``[n, T]``.
      gumbel: Noise ``[n, T, V]``.
      z: l + noise, detached ``[n, T, V]``.
      log_probs: l with its graph ``[n, T, V]``.
      features: The policy's state, detached ``[n, T, F]``.
      returns: What each token earned ``[n, T]``.
      terminal: Rewards ``[n]``.
      uniforms: All blocks of noise.
    """

    tokens: Tensor
    gumbel: Tensor
    z: Tensor
    log_probs: Tensor
    features: Tensor
    returns: Tensor
    terminal: Tensor
    uniforms: dict[str, Tensor]

    @property
    def terminal_only(self) -> bool:
        """Whether every token earned the terminal reward."""
        return "rollouts" not in self.uniforms

    def rows(self, picked: slice) -> GumbelSample:
        """Return some of the draws."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "uniforms"}
        blocks = {name: block[picked] for name, block in self.uniforms.items()}
        return GumbelSample(**{k: t[picked] for k, t in tensors.items()}, uniforms=blocks)

    @classmethod
    def draw(
        cls,
        policy: Policy,
        reward: Reward,
        draws: int,
        rng: torch.Generator,
        shapes: dict[str, Sequence[int]],
    ) -> GumbelSample:
        """Draw sequences by Gumbel-max, with further blocks of noise of the given shapes."""
        T, V = policy.length, policy.vocabulary
        u = noise.uniforms(rng, draws, {"gumbel": (T, V), **shapes}, policy.dtype)
        gumbel = noise.gumbel(u["gumbel"])
        tokens = policy.sample_by(draws, choose_by_gumbel(gumbel))
        returns, terminal = token_returns(policy, reward, tokens, u)
        log_probs, features = policy.trace(tokens)
        z = log_probs.detach() + gumbel
        return cls(tokens, gumbel, z, log_probs, features, returns, terminal, u)


def control_weights(
    sample: GumbelSample, coupled: bool, at: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> Tensor:
    """Return the weights ``[n, T, V]`` on l of -c(z~) S + grad c(z) - grad c(z~).

    Args:
      sample: The sample; holds "conditional" noise where z~ is drawn anew.
      coupled: Whether z~ is z itself (one evaluation) or drawn anew given b (two).
      at: Maps z ``[n, T, V]`` to c ``[n, T]`` and dc/dz ``[n, T, V]``.
    """
    tokens = sample.tokens
    if coupled:
        value, slope = at(sample.z)
        return coupled_weights(value, slope, sample.z, tokens)
    z, jacobian = conditional(sample.log_probs.detach(), tokens, sample.uniforms["conditional"])
    value, conditional_slope = at(z)
    _, slope = at(sample.z)
    return independent_weights(value, slope, conditional_slope, jacobian, tokens)


def linear_components(
    sample: GumbelSample, baseline: Tensor, constant: bool, controls: dict[str, Tensor]
) -> tuple[Component, ...]:
    """Return the score term, the constant's if it is tuned, and the control variates' weights."""
    scores = one_hot(sample.tokens, sample.z.shape[-1], sample.z.dtype)
    earned = sample.returns - baseline
    score = scores * earned.unsqueeze(-1)
    # One number for the whole sequence makes the score term a multiple of the constant's.
    whole = sample.terminal_only and baseline.shape[1] == 1
    found = [Component("score", score.flatten(1), scale=-earned[:, 0] if whole else None)]
    if constant:
        found.append(Component("constant", -scores.flatten(1)))
    found += [Component(name, control.flatten(1)) for name, control in controls.items()]
    return tuple(found)


def relearned(
    baseline: Baseline, surrogate: Surrogate, sample: GumbelSample, state: Learned
) -> tuple[Component, ...]:
    """Train the baseline on used draws; return their components as it would now have made them.

    The coefficients are for the next draws, which will meet the new baseline: above all the first
    batch, which had no past and went without, must not leave its moments behind.
    """
    baseline.adapt(sample.features, sample.tokens, sample.returns, state)
    values = baseline.values(sample.features, sample.tokens, state)
    return (*linear_components(sample, values, False, {}), *surrogate.components[1:])


def learn(network: nn.Module, optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    """Take a step on a control variate's network down the draws' mean squared norm.

    Its logarithm is what is minimised: the slopes do not depend on the unit of the reward, and
    Adam's epsilon does not decide whether anything is learned from small rewards.
    """
    loss = loss.clamp_min(torch.finfo(loss.dtype).tiny).log()
    found = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
    for parameter, grad in zip(network.parameters(), found, strict=True):
        parameter.grad = grad
    optimiser.step()


@torch.no_grad()
def state_width(policy: Policy) -> int:
    """Return the numbers F in the policy's state, which a network of the prefix sees."""
    shape = policy.fewest_rows, policy.length
    tokens = torch.zeros(shape, dtype=torch.int64, device=policy.device)
    return policy.trace(tokens)[1].shape[-1]


def combine(components: Sequence[Component], coefficients: Mapping[str, float]) -> Tensor:
    """Return the score term's weights plus each further component's times its coefficient."""
    total = components[0].weights
    for component in components[1:]:
        total = total + coefficients[component.name] * component.weights
    return total

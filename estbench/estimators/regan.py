"""The estimators of the paper's public code, each of their faults a switch.

"Generative Adversarial Networks via Gradient Estimators" (arXiv 1805.02788) compares REINFORCE,
REBAR and RELAX. What its public code (TalkToTheGAN/REGAN) computes under these names is here, so
that the published curves can be seen to arise, and can be seen to fail the test of bias. A name
alone has all faults; ``NAME@a+b`` has a and b only, ``NAME@none`` has none and is unbiased.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from estbench.core import noise
from estbench.estimators.base import (
    Estimator,
    EstimatorInfo,
    Learned,
    PerDrawGradients,
    Reward,
    Section,
    Surrogate,
    register,
)
from estbench.estimators.control_weights import learn, state_width
from estbench.estimators.futures import frozen, with_futures
from estbench.estimators.gumbel import conditional, independent_weights, one_hot
from estbench.models.control_variate import StateNetwork
from estbench.models.policy import Policy, choose_by_gumbel, inverse_cdf

__all__ = [
    "PAPER_TOKEN",
    "PublishedRebar",
    "PublishedReinforce",
    "PublishedRelax",
    "element_gradients",
    "element_variance",
]

PAPER_TOKEN = 0  # x
BATCH = 128
UNTRAINED = 0.477  # what the public code's network answers before it has learned anything
# Deviation of that answer from one dropout mask to the next. Networks of its widths and weights
# have .013 at T = 3 and .066 at T = 15, on an answer of .50 +- .01 and .50 +- .04.
DROPOUT = 0.04
TEMPERATURE = 1.0

BIASING = {
    "sign": "the pathwise terms have the wrong sign",
    "redrawn": "z~ is conditioned on tokens that are not those that earned the reward",
    "joint": "one control variate is differentiated through prefixes that jump",
}
HARMLESS = {
    "shared-noise": "noise that the examples share adds variance",
    "untrained": "a factor that is never trained takes less away",
}


class PublishedReinforce(Estimator):
    """REINFORCE as published: g = R S, without a baseline; unbiased.

    Its published runs were paid exp(p_D), which is at least 1 and moves the variance at the start
    of training from .25 to 2.7 times that of the score. That is the experiment's setting: ``reward
    = "exp_p"``.

    The published runs had one reward a sequence: it takes no rollouts.
    """

    section = Section.SCORE_FUNCTIONS

    def __init__(self) -> None:
        self.info = EstimatorInfo(
            name="reinforce-published",
            summary="REINFORCE as published: no baseline; unbiased (its runs were paid exp(p_D))",
            source="arXiv 1805.02788, public code",
        )

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: Learned
    ) -> Surrogate:
        """A draw is one sequence."""
        T, V = policy.length, policy.vocabulary
        u = noise.uniforms(rng, draws, {"gumbel": (T, V)}, policy.dtype)
        tokens = policy.sample_by(draws, choose_by_gumbel(noise.gumbel(u["gumbel"])))
        rewards = reward(tokens)
        log_probs = policy.log_probs(tokens)
        weights = rewards.view(-1, 1, 1) * one_hot(tokens, V, policy.dtype)
        info = {"published_variance": element_variance(weights, log_probs)}
        return Surrogate.of(log_probs, weights, tokens, rewards, info=info)


@dataclass(frozen=True)
class Seen:
    """What the control variate is asked about, and what the relaxed reward says of it.

    Attributes:
      z: Perturbed log-probabilities ``[n, T, V]``.
      value: The relaxed reward f ``[n, T]``, of the whole sequence or of each step.
      slope: df/dz ``[n, T, V]``.
      mask: Uniforms ``[n, T]`` that stand for a dropout mask, if a network is asked.
    """

    z: Tensor
    value: Tensor
    slope: Tensor
    mask: Tensor | None


@dataclass(frozen=True)
class Drawn:
    """Sequences with all that a weight is made of.

    Attributes:
      tokens: b, int64 ``[n, T]``.
      rewards: R ``[n]``.
      log_probs: l with its graph ``[n, T, V]``.
      features: The policy's state, detached ``[n, T, F]``.
      at_z: What is seen at z.
      at_conditioned: What is seen at z~.
      jacobian: dz~_i/dl_i ``[n, T, V]``.
    """

    tokens: Tensor
    rewards: Tensor
    log_probs: Tensor
    features: Tensor
    at_z: Seen
    at_conditioned: Seen
    jacobian: Tensor


class PublishedRebar(Estimator):
    """REBAR as published, at eta = 1 and temperature 1 throughout.

    Without faults it is g = sum_t [R - c_t(z~_t)] S_t + grad c_t(z_t) - grad c_t(z~_t), a step at a
    time: c_t is p_D of the hard prefix, position t relaxed, and zeros after it (Tucker et al. 2017,
    equation 5). The control variate is p_D itself where the reward is exp(p_D), as in the public
    code, and the relaxed reward elsewhere. (The public code's eta multiplies log D and so acts as
    D^eta, which at eta = 1 is no fault.) The faults:

    - ``sign``: the pathwise terms are added to a negated score term, as if they had been negated
      with it. Right: they have the sign above.
    - ``shared-noise``: the Gumbel noise of z is one vector of length V for all examples of a batch
      and all positions. Right: the noise that drew b. Without other faults unbiased, because each
      z_t alone still has its law; a draw is then a batch of 128, for its sequences depend on each
      other.
    - ``redrawn``: z~ is conditioned on tokens drawn anew after the same prefixes, and z on none:
      neither knows of the sequences that earned the reward. Right: both belong to b.
    - ``joint``: c looks at z_1..z_T at once. Right: at one position after a hard prefix.

    The published runs had one reward a sequence: it takes no rollouts.

    Args:
      switches: The faults; all of them if None.
    """

    section = Section.CONTROL_VARIATES

    name = "rebar-published"
    title = "REBAR"
    existing: tuple[str, ...] = ("sign", "shared-noise", "redrawn", "joint")

    def __init__(self, switches: tuple[str, ...] | None = None) -> None:
        self.faults = self.existing if switches is None else switches
        self.group = BATCH if "shared-noise" in self.faults else 1
        self.joint = "joint" in self.faults
        many = "" if self.group == 1 else f"{self.group} * "
        biased = any(fault in BIASING for fault in self.faults)
        self.info = EstimatorInfo(
            name=self.name,
            summary=self._summary(),
            source="arXiv 1805.02788, public code; Tucker et al. 2017, equation 5",
            unbiased=not biased,
            why_biased=self._why_biased(),
            control=biased,
            group=self.group,
            needs_relaxed_reward=True,
            hard_evals=f"{self.group}",
            relaxed_evals=f"{2 * self.group}" if self.joint else f"{many}2T",
            switches=self.existing,
        )

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: Learned
    ) -> Surrogate:
        """A draw is a batch of 128 where its examples share noise."""
        drawn = self._draw(policy, reward, draws, rng)
        weights = self._weights(drawn, state)
        batch = self.group if self.group > 1 else None
        return Surrogate.of(
            drawn.log_probs,
            weights / self.group,
            drawn.tokens,
            drawn.rewards,
            self.group,
            info={"published_variance": element_variance(weights, drawn.log_probs, batch)},
            cache={"drawn": drawn},
        )

    def factor(self, drawn: Drawn, seen: Seen, state: Learned) -> tuple[Tensor, Tensor]:
        """Return what multiplies f in the control variate ``[n, T]``, and its slope in z."""
        return torch.ones_like(seen.value), torch.zeros_like(seen.z)

    def _draw(self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator) -> Drawn:
        K, T, V = self.group, policy.length, policy.vocabulary
        shapes: dict[str, tuple[int, ...]] = {"gumbel": (K, T, V), "conditional": (K, T, V)}
        if "shared-noise" in self.faults:
            shapes["other"] = (1, 1, V)
        elif "redrawn" in self.faults:
            shapes["other"] = (K, T, V)
        if "redrawn" in self.faults:
            shapes["redrawn"] = (K, T)
        if "untrained" in self.faults:
            shapes["masks"] = (K, 2, T)
        u = noise.uniforms(rng, draws, shapes, policy.dtype)
        gumbel = noise.gumbel(u["gumbel"]).flatten(0, 1)
        tokens = policy.sample_by(draws * K, choose_by_gumbel(gumbel))
        rewards = reward(tokens)
        log_probs, features = policy.trace(tokens)
        known = log_probs.detach()
        if "other" in u:
            gumbel = noise.gumbel(u["other"]).expand(draws, K, T, V).flatten(0, 1)
        given = tokens
        if "redrawn" in u:
            given = inverse_cdf(known.exp(), u["redrawn"].flatten(0, 1))
        conditioned, jacobian = conditional(known, given, u["conditional"].flatten(0, 1))
        masks = u["masks"].flatten(0, 1).unbind(dim=1) if "masks" in u else (None, None)
        return Drawn(
            tokens,
            rewards,
            log_probs,
            features,
            self._seen(policy, reward, tokens, known + gumbel, masks[0]),
            self._seen(policy, reward, tokens, conditioned, masks[1]),
            jacobian,
        )

    def _seen(
        self, policy: Policy, reward: Reward, tokens: Tensor, z: Tensor, mask: Tensor | None
    ) -> Seen:
        n, T, V = z.shape
        with frozen(policy), torch.enable_grad():
            z = z.detach().requires_grad_()
            relaxed = (z / TEMPERATURE).softmax(dim=-1)
            if self.joint:
                value = _belief(reward, relaxed)
            else:
                rows = with_futures(policy, tokens, relaxed, "zeros", z, TEMPERATURE)
                value = _belief(reward, rows.reshape(n * T, T, V))
            (slope,) = torch.autograd.grad(value.sum(), z)
        value = value.detach().reshape(n, -1).expand(n, T)
        return Seen(z.detach(), value, slope, mask)

    def _weights(self, drawn: Drawn, state: Learned) -> Tensor:
        """Return the weights ``[n, T, V]`` on l, with the graph of what is learned."""
        value, conditional_slope = self._control(drawn, drawn.at_conditioned, state)
        _, slope = self._control(drawn, drawn.at_z, state)
        sign = -1.0 if "sign" in self.faults else 1.0
        control = independent_weights(
            value, sign * slope, sign * conditional_slope, drawn.jacobian, drawn.tokens
        )
        hard = one_hot(drawn.tokens, control.shape[-1], control.dtype)
        return drawn.rewards.view(-1, 1, 1) * hard + control

    def _control(self, drawn: Drawn, seen: Seen, state: Learned) -> tuple[Tensor, Tensor]:
        """Return c ``[n, T]`` and dc/dz ``[n, T, V]``."""
        factor, slope = self.factor(drawn, seen, state)
        by_factor, by_reward = seen.value.unsqueeze(-1) * slope, factor.unsqueeze(-1) * seen.slope
        return factor * seen.value, by_factor + by_reward

    def _summary(self) -> str:
        if self.faults == self.existing:
            return f"{self.title} as published, with all its faults"
        if not self.faults:
            return f"published {self.title} without its faults"
        text = f"published {self.title} with {', '.join(self.faults)} only"
        if any(fault in BIASING for fault in self.faults):
            return text
        return f"{text}: unbiased; " + "; ".join(HARMLESS[fault] for fault in self.faults)

    def _why_biased(self) -> str:
        reasons = [BIASING[fault] for fault in self.faults if fault in BIASING]
        return f"faults {', '.join(self.faults)}: {'; '.join(reasons)}" if reasons else ""


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
        V = policy.vocabulary
        network = StateNetwork(state_width(policy), policy.length, V, relaxed=V, rng=rng)
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


def _belief(reward: Reward, sequences: Tensor) -> Tensor:
    """Return what the control variate makes of relaxed sequences ``[n, T, V]``: ``[n]``.

    The public code's exp is around the reward of hard sequences only.
    """
    value = reward.relaxed(sequences)
    source, mean = getattr(reward, "reward", reward), getattr(reward, "mean", 0.0)
    return (value + mean).log() if getattr(source, "transform", "") == "exp_p" else value


def element_gradients(weights: Tensor, log_probs: Tensor, token: int = PAPER_TOKEN) -> Tensor:
    """Return each sequence's gradient with respect to the output bias of one token, ``[n]``.

    The paper's own statistic is the variance of this one element over a batch (arXiv 1805.02788,
    section 7.3, and its public code). It sees nothing of the other elements, and nothing of noise
    that all sequences of a batch share. The element is sum_t sum_v w_t(v) d l_t(v) / d bias, and d
    l_t(v) / d bias(token) = 1[v = token] - p_t(token): the bias acts on every position's own
    distribution and, tokens given, on nothing else. So no backward pass is needed, nor a draw of
    one sequence.

    Args:
      weights: What multiplies the log-probabilities in each sequence's surrogate, ``[n, T, V]``.
      log_probs: Log-probabilities ``[n, T, V]`` of a policy with an output bias.
      token: The token.
    """
    weights, log_probs = weights.detach(), log_probs.detach()
    probability = log_probs[..., token].exp()
    return (weights[..., token] - weights.sum(dim=-1) * probability).sum(dim=-1)


def element_variance(
    weights: Tensor, log_probs: Tensor, batch: int | None = None, token: int = PAPER_TOKEN
) -> float:
    """Return the element's sample variance over the sequences of a batch (n - 1 in the divisor).

    Args:
      weights: See ``element_gradients``.
      log_probs: See ``element_gradients``.
      batch: Sequences in a batch, which are consecutive; the mean over batches is returned. All
        sequences are one batch if None.
      token: The token.

    Returns:
      The variance; NaN for batches of a single sequence.
    """
    elements = element_gradients(weights, log_probs, token).double()
    batch = batch or len(elements)
    if batch < 2:
        return math.nan
    return float(elements.reshape(-1, batch).var(dim=1).mean())


for _member in (PublishedReinforce, PublishedRebar, PublishedRelax):
    register(_member)

"""Negative controls: estimators that are known to be biased, and that a test of bias has to reject.

The first five are REBAR with a control variate that a reader might write down: each looks at
something that jumps with b, or scores it with the wrong token. They hand the meter their pathwise
terms as they are, rather than as weights. The others are common elsewhere: rollouts from a policy
that is not the current one, backpropagation cut short, rewards divided by their own deviation.

On a single token (T = 1) some of them have nothing left to be biased by.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from estbench.core import noise
from estbench.core.errors import UserError
from estbench.estimators.base import Estimator, EstimatorInfo, Learned, Reward, Surrogate, register
from estbench.estimators.control_weights import GumbelSample
from estbench.estimators.coupled import Coupled
from estbench.estimators.coupling import inverse_cdf_pair
from estbench.estimators.futures import after_prefixes
from estbench.estimators.grouped import GroupRelative
from estbench.estimators.gumbel import conditional, one_hot
from estbench.estimators.returns import evaluations, rollout_noise, token_returns
from estbench.estimators.score_function import Reinforce
from estbench.models.policy import Policy, at_tokens, inverse_cdf

__all__ = ["BiasedRebar", "Grpo", "InverseCdfPair", "StaleRollouts", "Truncated"]

TEMPERATURE = 0.5


class BiasedRebar(Estimator):
    """g = sum_t [Q_t - c_t(z~_t)] S_t + sum_t grad c_t(z_t) - grad c_t(z~_t), with a bad c_t.

    Here c_t is the reward after the sample's own prefix, with position t relaxed and 1/V after it,
    which is right (Tucker et al. 2017, equation 5, a step at a time); subclasses spoil it.

    Args:
      rollouts: Rollouts N a position; 0 for the terminal reward.
    """

    name = ""
    summary = ""
    why = ""
    relaxed_evals = "2T"

    def __init__(self, rollouts: int = 0) -> None:
        self.rollouts = rollouts
        self.info = EstimatorInfo(
            name=self.name,
            summary=f"negative control: {self.summary}",
            source="Tucker et al. 2017, equation 5, misread for sequences",
            unbiased=False,
            why_biased=self.why,
            control=True,
            needs_relaxed_reward=True,
            hard_evals=evaluations(rollouts),
            relaxed_evals=self.relaxed_evals,
        )

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: Learned
    ) -> Surrogate:
        """A draw is one sequence."""
        shapes = {
            "conditional": (policy.length, policy.vocabulary),
            **self.noise(policy),
            **rollout_noise(policy, self.rollouts),
        }
        sample = GumbelSample.draw(policy, reward, draws, rng, shapes)
        given = self.given(sample)
        z = sample.log_probs + sample.gumbel
        conditioned, _ = conditional(sample.log_probs, given, sample.uniforms["conditional"])
        scored, path = self.control(policy, reward, sample, z, conditioned)
        hard = one_hot(sample.tokens, policy.vocabulary, z.dtype)
        weights = (sample.returns - scored.detach()).unsqueeze(-1) * hard
        return Surrogate.of(
            sample.log_probs, weights, sample.tokens, sample.terminal, pathwise=path
        )

    def noise(self, policy: Policy) -> dict[str, Sequence[int]]:
        """Return the noise that a draw needs beside that of z and z~."""
        return {}

    def given(self, sample: GumbelSample) -> Tensor:
        """Return what z~ is conditioned on, int64 ``[n, T]``."""
        return sample.tokens

    def control(
        self, policy: Policy, reward: Reward, sample: GumbelSample, z: Tensor, conditioned: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return c_t(z~) ``[n, T]`` and sum_t c_t(z) - c_t(z~) ``[n]``."""
        context = self.context(policy, sample)
        at_z = _per_step(reward, sample.tokens, _relax(z), context)
        at_conditioned = _per_step(reward, sample.tokens, _relax(conditioned), context)
        return at_conditioned, (at_z - at_conditioned).sum(dim=1)

    def context(self, policy: Policy, sample: GumbelSample) -> Tensor:
        """Return what follows each relaxed position, ``[n, T, T, V]``."""
        n, T, V = sample.z.shape
        return sample.z.new_full((n, T, T, V), 1 / V)


class JointControl(BiasedRebar):
    """One c(z_1..z_T) for the whole sequence, as on variables that do not depend on each other."""

    name = "biased-joint"
    summary = "REBAR with one control variate of z_1..z_T together"
    why = "c(z_1..z_T) is differentiated through prefixes that jump"
    relaxed_evals = "2"

    def control(
        self, policy: Policy, reward: Reward, sample: GumbelSample, z: Tensor, conditioned: Tensor
    ) -> tuple[Tensor, Tensor]:
        at_z, at_conditioned = reward.relaxed(_relax(z)), reward.relaxed(_relax(conditioned))
        return at_conditioned.unsqueeze(1).expand(z.shape[:2]), at_z - at_conditioned


class OwnFuture(BiasedRebar):
    """Position t relaxed, and the sample's own b_{>t} after it."""

    name = "biased-own-future"
    summary = "REBAR a step at a time with the sample's own future"
    why = "the future is the sample's own, which depends on b_t"

    def context(self, policy: Policy, sample: GumbelSample) -> Tensor:
        n, T, V = sample.z.shape
        return one_hot(sample.tokens, V, sample.z.dtype).unsqueeze(1).expand(n, T, T, V)


class HardRollout(BiasedRebar):
    """Position t relaxed, and a fresh rollout from b_{<=t} after it."""

    name = "biased-hard-rollout"
    summary = "REBAR a step at a time with a hard rollout as future"
    why = "the future is rolled out from b_t"

    def noise(self, policy: Policy) -> dict[str, Sequence[int]]:
        return {"future": (1, policy.length - 1, policy.length)} if policy.length > 1 else {}

    def context(self, policy: Policy, sample: GumbelSample) -> Tensor:
        completed = sample.tokens.unsqueeze(1)
        if "future" in sample.uniforms:
            rolled = policy.continue_from(sample.tokens, sample.uniforms["future"])[:, :, 0]
            completed = torch.cat([rolled, completed], dim=1)
        return one_hot(completed, sample.z.shape[-1], sample.z.dtype)


class Redrawn(BiasedRebar):
    """z~ given b', drawn after the same prefixes as b and independent of it."""

    name = "biased-redrawn"
    summary = "REBAR a step at a time with z~ given tokens that are drawn anew"
    why = "z~ is conditioned on tokens that are not those whose score it multiplies"

    def noise(self, policy: Policy) -> dict[str, Sequence[int]]:
        return {"redrawn": (policy.length,)}

    def given(self, sample: GumbelSample) -> Tensor:
        return inverse_cdf(sample.log_probs.detach().exp(), sample.uniforms["redrawn"])


class FutureNoise(BiasedRebar):
    """The soft future, its noise taken from z~ itself and so differentiated with it."""

    name = "biased-future-noise"
    summary = "REBAR a step at a time with the soft future's noise differentiated"
    why = "the soft future's noise is differentiated through its law given b_{>t}"

    def control(
        self, policy: Policy, reward: Reward, sample: GumbelSample, z: Tensor, conditioned: Tensor
    ) -> tuple[Tensor, Tensor]:
        at_z, at_conditioned = (
            _with_soft_futures(policy, reward, sample.tokens, now, now - sample.log_probs)
            for now in (z, conditioned)
        )
        return at_conditioned, (at_z - at_conditioned).sum(dim=1)


class StaleRollouts(Estimator):
    """g = sum_t Q~_t S_t, with Q~_t from rollouts of another policy (Yu et al. 2017, equation 4).

    That is the current policy with its last ``nn.Linear`` halved, which is all it asks of a policy.
    (A copy that merely lags behind by some updates may be biased by too little to be found.)

    Args:
      rollouts: Rollouts N a position; 0 for one.
    """

    def __init__(self, rollouts: int = 0) -> None:
        self.rollouts = rollouts or 1
        self.info = EstimatorInfo(
            name="biased-stale-rollouts",
            summary="negative control: rollouts by the policy with its output layer halved",
            source="Yu et al. 2017, equation 4, with another policy's rollouts",
            unbiased=False,
            why_biased="the rollouts follow another policy",
            control=True,
            hard_evals=f"1 + {self.rollouts}(T - 1)",
        )

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: Learned
    ) -> Surrogate:
        """A draw is one sequence."""
        shapes = {"tokens": (policy.length,), **rollout_noise(policy, self.rollouts)}
        u = noise.uniforms(rng, draws, shapes, policy.dtype)
        tokens = policy.sample_from(u["tokens"])
        with _halved(policy):
            returns, terminal = token_returns(policy, reward, tokens, u)
        chosen = at_tokens(policy.log_probs(tokens), tokens)
        return Surrogate.of(chosen, returns, tokens, terminal)


class Truncated(Reinforce):
    """g = R sum_t S_t, with S_t from backpropagation through time that stops at every step.

    It asks for a policy that heeds ``truncation``.
    """

    def __init__(self, rollouts: int = 0) -> None:
        super().__init__("biased-truncated", "none", rollouts)
        self.info = EstimatorInfo(
            name="biased-truncated",
            summary="negative control: REINFORCE, backpropagation through time cut at every step",
            source="truncated backpropagation through time",
            unbiased=False,
            why_biased="the policy's own gradient is cut short",
            control=True,
            hard_evals=self.info.hard_evals,
        )

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: Learned
    ) -> Surrogate:
        """A draw is one sequence."""
        before, policy.truncation = policy.truncation, 1
        try:
            return super().surrogate(policy, reward, draws, rng, state)
        finally:
            policy.truncation = before


class Grpo(GroupRelative):
    """GRPO in groups so small that its bias is large (Shao et al. 2024); see ``GroupRelative``.

    Args:
      group: Sequences K a draw, at least 2.
      rollouts: Rollouts N a position; 0 for the terminal reward.
      length: Multiplies every draw. The expected draw is too long or too short, which nobody minds:
        with a constant that mends it, what a test finds is that its direction is wrong.
    """

    def __init__(self, group: int, rollouts: int = 0, length: float = 1.0) -> None:
        super().__init__(
            f"biased-grpo-{group}",
            group,
            standardised=True,
            rollouts=rollouts,
            summary=f"negative control: GRPO in groups of {group}",
            source="Shao et al. 2024, section 4.1.2",
        )
        self.info = replace(self.info, control=True)
        self.length = length

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: Learned
    ) -> Surrogate:
        found = super().surrogate(policy, reward, draws, rng, state)
        return replace(found, weights=self.length * found.weights)


class InverseCdfPair(Coupled):
    """DisARM's importance-weighted form with the tokens that u and 1 - u pick from p's CDF.

    g = sum_t 1/2 sum_{i != j} r_ij [Q_t(z_i) - Q_t(z_j)] grad l_t(z_i)

    with r_ij = p(z_i) p(z_j) / p(z_i, z_j).

    With three tokens or more some pairs never come (the first two of three equally likely ones,
    say), and their terms are missing. With two tokens there is no gap, and this is DisARM.

    Args:
      rollouts: Completions N of each token; 0 for one.
    """

    def __init__(self, rollouts: int = 0) -> None:
        super().__init__(
            "biased-inverse-cdf",
            2,
            rollouts,
            summary="negative control: DisARM with the pair of tokens from u and 1 - u",
            source="Dong, Mnih & Tucker 2021, section 3, with another coupling",
        )
        why = "some pairs of tokens never come"
        self.info = replace(self.info, unbiased=False, why_biased=why, control=True)

    def noise(self, policy: Policy) -> tuple[int, ...]:
        return (1,)

    def choose(self, log_probs: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        return inverse_cdf_pair(log_probs, uniforms)


@contextmanager
def _halved(policy: Policy) -> Iterator[None]:
    """Halve the policy's last linear layer for a while.

    In place, and not in a copy: a copy would also copy, or lose, whatever counts the policy's steps
    from outside.
    """
    layers = [module for module in policy.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise UserError(
            "biased-stale-rollouts halves the policy's last nn.Linear, and this policy has none"
        )
    before = [(p, p.detach().clone()) for p in layers[-1].parameters()]
    try:
        with torch.no_grad():
            for p, _ in before:
                p.mul_(0.5)
        yield
    finally:
        with torch.no_grad():
            for p, value in before:
                p.copy_(value)


def _relax(z: Tensor) -> Tensor:
    return (z / TEMPERATURE).softmax(dim=-1)


def _per_step(reward: Reward, tokens: Tensor, relaxed: Tensor, context: Tensor) -> Tensor:
    """Return c_t ``[n, T]``: hard before t, relaxed at t, ``context[:, t]`` after."""
    n, T, V = relaxed.shape
    rows = after_prefixes(one_hot(tokens, V, relaxed.dtype), relaxed, context)
    return reward.relaxed(rows.reshape(n * T, T, V)).reshape(n, T)


def _with_soft_futures(
    policy: Policy, reward: Reward, tokens: Tensor, z: Tensor, gumbel: Tensor
) -> Tensor:
    """Return c_t ``[n, T]`` with futures fed on softly; z, noise and policy all keep graphs."""
    n, T, V = z.shape
    hard, values = one_hot(tokens, V, z.dtype), []
    for t in range(T):
        row = [hard[:, s] for s in range(t)] + [_relax(z[:, t])]
        _, state = policy.step(None, policy.initial_state(n))
        for s in range(1, T):
            log_probs, state = policy.step(row[s - 1], state)
            if s > t:
                row.append(_relax(log_probs + gumbel[:, s]))
        values.append(reward.relaxed(torch.stack(row, dim=1)))
    return torch.stack(values, dim=1)


for _control in (JointControl, OwnFuture, HardRollout, Redrawn, FutureNoise):
    register(_control)
register(StaleRollouts)
register(Truncated)
register(InverseCdfPair)
for _group in (2, 4):
    register(partial(Grpo, _group))

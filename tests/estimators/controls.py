"""Estimators that are known to be biased: what the test of bias has to reject.

The first five are REBAR with the control variate that a reader might write down; each of them
looks at something that jumps with b, or scores it with the wrong token. They hand the meter their
pathwise terms as they are, rather than as weights.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from estbench import noise
from estbench.estimators.base import Estimator, EstimatorInfo, Reward, Surrogate
from estbench.estimators.control import GumbelSample
from estbench.estimators.gumbel import conditional, one_hot
from estbench.estimators.score_function import Reinforce
from estbench.models.policy import Policy, choose_by_uniform

TEMPERATURE = 0.5


def info(name: str, why: str, group: int = 1) -> EstimatorInfo:
    return EstimatorInfo(
        name, name, "negative control", unbiased=False, why_biased=why, group=group
    )


class BiasedRebar(Estimator):
    """REBAR with eta = 1, a constant baseline of 0 and a control variate to be filled in."""

    why = ""
    blocks: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.info = info(type(self).__name__, self.why)

    def surrogate(
        self,
        policy: Policy,
        reward: Reward,
        draws: int,
        rng: torch.Generator,
        state: dict[str, Any],
    ) -> Surrogate:
        T, V = policy.length, policy.vocabulary
        shapes = {"conditional": (T, V), "redrawn": (T,), "rollouts": (1, T - 1, T)}
        sample = GumbelSample.draw(
            policy, reward, draws, rng, {k: shapes[k] for k in ("conditional", *self.blocks)}
        )
        given = self.given(sample)
        z = sample.log_probs + sample.gumbel
        conditioned, _ = conditional(sample.log_probs, given, sample.uniforms["conditional"])
        scored, path = self.control(policy, reward, sample, z, conditioned)
        hard = one_hot(sample.tokens, V, z.dtype)
        weights = (sample.terminal.unsqueeze(1) - scored.detach()).unsqueeze(-1) * hard
        return Surrogate(
            sample.log_probs.flatten(1),
            weights.flatten(1),
            sample.tokens.unsqueeze(1),
            sample.terminal.unsqueeze(1),
            pathwise=path,
        )

    def given(self, sample: GumbelSample) -> Tensor:
        """What z~ is conditioned on."""
        return sample.tokens

    def control(
        self, policy: Policy, reward: Reward, sample: GumbelSample, z: Tensor, conditioned: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return c_t(z~) ``[n, T]`` and sum_t c_t(z) - c_t(z~) ``[n]``."""
        context = self.context(policy, sample)
        at_z = per_step(reward, sample.tokens, relax(z), context)
        at_conditioned = per_step(reward, sample.tokens, relax(conditioned), context)
        return at_conditioned, (at_z - at_conditioned).sum(dim=1)

    def context(self, policy: Policy, sample: GumbelSample) -> Tensor:
        """Return what follows each relaxed position, ``[n, T, T, V]``."""
        n, T, V = sample.z.shape
        return sample.z.new_full((n, T, T, V), 1 / V)


class JointControl(BiasedRebar):
    why = "c(z_1..z_T) is differentiated through prefixes that jump"

    def control(
        self, policy: Policy, reward: Reward, sample: GumbelSample, z: Tensor, conditioned: Tensor
    ) -> tuple[Tensor, Tensor]:
        at_z, at_conditioned = reward.relaxed(relax(z)), reward.relaxed(relax(conditioned))
        return at_conditioned.unsqueeze(1).expand(z.shape[:2]), at_z - at_conditioned


class OwnFuture(BiasedRebar):
    why = "the future is the sample's own, which depends on b_t"

    def context(self, policy: Policy, sample: GumbelSample) -> Tensor:
        n, T, V = sample.z.shape
        return one_hot(sample.tokens, V, sample.z.dtype).unsqueeze(1).expand(n, T, T, V)


class HardRollout(BiasedRebar):
    why = "the future is rolled out from b_t"
    blocks = ("rollouts",)

    def context(self, policy: Policy, sample: GumbelSample) -> Tensor:
        V = sample.z.shape[-1]
        completed = policy.continue_from(sample.tokens, sample.uniforms["rollouts"])[:, :, 0]
        completed = torch.cat([completed, sample.tokens.unsqueeze(1)], dim=1)
        return one_hot(completed, V, sample.z.dtype)


class Redrawn(BiasedRebar):
    why = "z~ is conditioned on tokens that are not those whose score it multiplies"
    blocks = ("redrawn",)

    def given(self, sample: GumbelSample) -> Tensor:
        cumulative = sample.log_probs.detach().exp().cumsum(dim=-1)
        u = sample.uniforms["redrawn"].unsqueeze(-1)
        return (cumulative <= u).sum(dim=-1).clamp_max(sample.z.shape[-1] - 1)


class NoisyFuture(BiasedRebar):
    why = "the soft future's noise is differentiated through its law given b_{>t}"

    def control(
        self, policy: Policy, reward: Reward, sample: GumbelSample, z: Tensor, conditioned: Tensor
    ) -> tuple[Tensor, Tensor]:
        futures = [
            soft_futures(policy, reward, sample.tokens, now, now - sample.log_probs)
            for now in (z, conditioned)
        ]
        return futures[1], (futures[0] - futures[1]).sum(dim=1)


class StaleRollouts(Estimator):
    """SeqGAN's rollouts from a copy of the policy whose output layer is halved."""

    info = info("StaleRollouts", "the rollouts follow another policy")

    def surrogate(
        self,
        policy: Policy,
        reward: Reward,
        draws: int,
        rng: torch.Generator,
        state: dict[str, Any],
    ) -> Surrogate:
        T = policy.length
        stale = copy.deepcopy(policy)
        with torch.no_grad():
            stale.output.weight /= 2
            stale.output.bias /= 2
        u = noise.uniforms(rng, draws, {"tokens": (T,), "rollouts": (1, T - 1, T)}, policy.dtype)
        tokens = policy.sample_by(draws, choose_by_uniform(u["tokens"]))
        terminal = reward(tokens)
        completed = stale.continue_from(tokens, u["rollouts"]).reshape(-1, T)
        values = reward(completed).reshape(draws, T - 1)
        chosen = policy.log_probs(tokens).gather(2, tokens.unsqueeze(2)).squeeze(2)
        weights = torch.cat([values, terminal.unsqueeze(1)], dim=1)
        return Surrogate(chosen, weights, tokens.unsqueeze(1), terminal.unsqueeze(1))


class Truncated(Reinforce):
    """REINFORCE whose backpropagation through time stops at every step."""

    def __init__(self) -> None:
        super().__init__("Truncated", "none")
        self.info = info("Truncated", "the policy's own gradient is cut short")

    def surrogate(
        self,
        policy: Policy,
        reward: Reward,
        draws: int,
        rng: torch.Generator,
        state: dict[str, Any],
    ) -> Surrogate:
        before, policy.truncation = policy.truncation, 1
        try:
            return super().surrogate(policy, reward, draws, rng, state)
        finally:
            policy.truncation = before


class Grpo(Estimator):
    """GRPO: (R - mean) / standard deviation of a group, times a constant that mends its length.

    The length alone would give it away, and nobody cares about it.
    """

    def __init__(self, group: int, length: float) -> None:
        self.length = length
        self.info = info(f"Grpo{group}", "divided by the group's standard deviation", group)

    def surrogate(
        self,
        policy: Policy,
        reward: Reward,
        draws: int,
        rng: torch.Generator,
        state: dict[str, Any],
    ) -> Surrogate:
        K, T = self.info.group, policy.length
        u = noise.uniform(rng, (draws * K, T), policy.dtype)
        tokens = policy.sample_by(draws * K, choose_by_uniform(u))
        rewards = reward(tokens).reshape(draws, K)
        centred = rewards - rewards.mean(dim=1, keepdim=True)
        advantage = centred / (rewards.std(dim=1, keepdim=True) + 1e-8) * self.length / K
        chosen = policy.log_probs(tokens).gather(2, tokens.unsqueeze(2)).reshape(draws, K * T)
        weights = advantage.repeat_interleave(T, dim=1)
        return Surrogate(chosen, weights, tokens.reshape(draws, K, T), rewards)


def relax(z: Tensor) -> Tensor:
    return (z / TEMPERATURE).softmax(dim=-1)


def per_step(reward: Reward, tokens: Tensor, relaxed: Tensor, context: Tensor) -> Tensor:
    """Return c_t ``[n, T]``: hard before t, relaxed at t, ``context[:, t]`` after."""
    n, T, V = relaxed.shape
    rows = torch.where(
        torch.eye(T, dtype=torch.bool).view(1, T, T, 1), relaxed.unsqueeze(1), context
    )
    position = torch.arange(T)
    past = (position.unsqueeze(1) > position).view(1, T, T, 1)
    rows = torch.where(past, one_hot(tokens, V, relaxed.dtype).unsqueeze(1), rows)
    return reward.relaxed(rows.reshape(n * T, T, V)).reshape(n, T)


def soft_futures(
    policy: Policy, reward: Reward, tokens: Tensor, z: Tensor, gumbel: Tensor
) -> Tensor:
    """Return c_t ``[n, T]`` with futures fed on softly; z, noise and policy all keep graphs."""
    n, T, V = z.shape
    hard, values = one_hot(tokens, V, z.dtype), []
    for t in range(T):
        row = [hard[:, s] for s in range(t)] + [relax(z[:, t])]
        _, state = policy.step(None, policy.initial_state(n))
        for s in range(1, T):
            log_probs, state = policy.step(row[s - 1], state)
            if s > t:
                row.append(relax(log_probs + gumbel[:, s]))
        values.append(reward.relaxed(torch.stack(row, dim=1)))
    return torch.stack(values, dim=1)

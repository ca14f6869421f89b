"""A policy at another temperature: what quality against diversity is swept over."""

from __future__ import annotations

import torch
from torch import Tensor

from estbench.models.lstm_generator import Generator
from estbench.models.policy import IMPOSSIBLE, Choose, Policy
from estbench.models.sampling import LARGE, Sampler
from estbench.models.trees import State
from estbench.models.wrapper import Wrapper

__all__ = ["Tempered"]


class Tempered(Wrapper):
    """Another policy's distribution with logits divided by a temperature; nothing is trained.

    Args:
      policy: The policy.
      temperature: Below 1 likely tokens become likelier.
    """

    def __init__(self, policy: Policy, temperature: float) -> None:
        super().__init__(policy)
        self.temperature = temperature

    def initial_state(self, n: int) -> State:
        return self.policy.initial_state(n)

    def step(self, previous: Tensor | None, state: State) -> tuple[Tensor, State]:
        log_probs, state = self.policy.step(previous, state)
        return self._tempered(log_probs), state

    def trace(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        log_probs, features = self.policy.trace(tokens)
        return self._tempered(log_probs), features

    def sample_by(self, n: int, choose: Choose) -> Tensor:
        tokens: Tensor = self.policy.sample_by(
            n, lambda t, log_probs: choose(t, self._tempered(log_probs))
        )
        return tokens

    @torch.no_grad()
    def sample_from(self, uniforms: Tensor) -> Tensor:
        if isinstance(self.policy, Generator) and self.vocabulary >= LARGE:
            return Sampler(self.policy, self.temperature).sample(uniforms)
        return super().sample_from(uniforms)

    def _tempered(self, log_probs: Tensor) -> Tensor:
        # What cannot come stays so far away that no temperature brings it back.
        return (log_probs / self.temperature).log_softmax(dim=-1).clamp_min(IMPOSSIBLE)

"""One generator step: draws, their gradients and variance, what is learned, and the update."""

from __future__ import annotations

from contextlib import nullcontext

import torch

from estbench.estimators.base import Draws, Estimator, Learned, Reward
from estbench.meter.gradients import DrawGradients, Tape
from estbench.meter.phases import Clock
from estbench.models.policy import Policy

__all__ = ["measured_step"]


def measured_step(
    method: Estimator,
    policy: Policy,
    reward: Reward,
    draws: int,
    rng: torch.Generator,
    learned: Learned,
    optimiser: torch.optim.Optimizer,
    check_rows: bool = True,
    clip: float = 0.0,
    clock: Clock | None = None,
) -> tuple[DrawGradients, Draws, str]:
    """Take one ascent step on E[reward] and return the draws' gradients that made it.

    Args:
      method: The estimator.
      policy: The policy; its parameters are changed by ``optimiser``.
      reward: The reward.
      draws: Draws in the step.
      rng: The estimator's noise.
      learned: The estimator's state; changed.
      optimiser: Holds the policy's parameters.
      check_rows: See ``Tape.differentiate``.
      clip: Norm to which the step's gradient is cut, after it was measured; 0 leaves it.
      clock: Is told when the backward pass begins and ends.

    Returns:
      The gradients (with graphs of a policy that has moved on: for norms and sums only), the
      surrogate, and why the meter had to go draw by draw, or "".
    """
    with Tape(policy) as tape:
        surrogate = method.surrogate(policy, reward, draws, rng, learned)
    with clock.phase("backward") if clock else nullcontext():
        found = tape.differentiate(surrogate, check_rows=check_rows, retain_graph=True)
    # What is learned is trained on draws that have been used, before the policy moves on.
    method.adapt(policy, surrogate, tape, learned)
    for parameter, mean in zip(tape.parameters, found.mean(), strict=True):
        parameter.grad = -mean
    if clip:
        torch.nn.utils.clip_grad_norm_(tape.parameters, clip)
    optimiser.step()
    return found, surrogate, tape.fault

"""One measurement in several passes, of which the first and the last are checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from estbench.estimators.base import Draws
from estbench.meter.gradients import DrawGradients, Tape

__all__ = ["Passes", "in_passes"]

R = TypeVar("R")


class LateFault(Exception):  # noqa: N818  (no error: the measurement is made again)
    """A pass after the first has a fault; the text is the tape's."""


class Passes:
    """Differentiates the passes of one measurement.

    Args:
      policy: The policy.
      fault: Why all passes go draw by draw, or "".
    """

    def __init__(self, policy: nn.Module, fault: str = "") -> None:
        self.policy = policy
        self.fault = fault
        self.made = 0

    def tape(self) -> Tape:
        """Return the tape that records the next pass."""
        return Tape(self.policy, self.fault)

    def differentiate(
        self, tape: Tape, surrogate: Draws, last: bool, retain_graph: bool = False
    ) -> DrawGradients:
        """Return the gradients of a pass, checked against autograd if it is the first or the last.

        A policy may compute the passes in different ways: a shorter last one, or later ones from
        what the first has cached.
        """
        check = self.made == 0 or last
        found = tape.differentiate(surrogate, check=check, retain_graph=retain_graph)
        if self.made and tape.fault and not self.fault:
            raise LateFault(tape.fault)
        self.made += 1
        self.fault = tape.fault
        return found


def in_passes(policy: nn.Module, rng: torch.Generator | None, measure: Callable[[Passes], R]) -> R:
    """Return what ``measure`` makes of the passes over a policy.

    Where a pass after the first has a fault, nobody knows since when. The measurement is then made
    again draw by draw, with the same noise.

    Args:
      policy: The policy.
      rng: Noise of the draws; None if there is none.
      measure: Makes the passes.
    """
    noise = None if rng is None else rng.get_state()
    try:
        return measure(Passes(policy))
    except LateFault as late:
        if rng is not None and noise is not None:
            rng.set_state(noise)
        return measure(Passes(policy, str(late)))

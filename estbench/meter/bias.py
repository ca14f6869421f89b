"""Is an estimator unbiased? A test of E[draw] against the exact gradient, with a size.

The statistics are those of ``estbench.meter.blocks``; here are the draws, at most three planned
looks at them, and the verdict.

Rewards should be centred by their exact mean (``Centred``): the size of a bias that can be found
falls with the draws' variance, and an uncentred reward needs up to 10,000 times as many draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from estbench.estimators.base import Estimator, Learned, Reward
from estbench.meter.blocks import BLOCKS, Blocks, Look
from estbench.meter.exact import Centred
from estbench.meter.gradients import DrawGradients
from estbench.meter.moments import total_variance
from estbench.meter.passes import Passes, in_passes
from estbench.models.policy import Policy

__all__ = ["BiasResult", "Centred", "Plan", "bias_test", "verdict_at"]

ENOUGH = 11.0  # draws a unit of noise / margin^2: a miss costs the whole third look
LAST = 3  # times the draws of the second look decide what it left open
HOPELESS = 2.5  # margins that the noise of the last look's mean may have, where bias is declared
DROWNED = 0.25  # gradients that it may have elsewhere: a bias of 100 % is then 4 standard errors
WIDEST = 0.5  # margin that is worth a verdict
BRIEF = 16  # draws a block where the noise of the first look's mean is larger than the gradient

Verdict = Literal["unbiased", "biased", "undecided"]


@dataclass(frozen=True)
class Plan:
    """How far a test goes, fixed before it starts.

    Attributes:
      first: Sequences at the first look (draws times the estimator's group).
      growth: Every look has this many times the sequences of the one before.
      looks: Looks, 1 to 3. More would be more false alarms or less power.
      pilot: Sequences of a pilot, 0 for none. Its draws serve nothing else: the noise in them says
        how many the second of three looks needs, ``ENOUGH`` times noise / margin^2 draws. The last
        has three times as many, and no fewer than the second would have without a pilot, for a few
        draws may miss most of the noise. As the pilot is independent of the looks, their error
        rates stay what they are.
      most: Sequences that the last look may have where a pilot says how many it needs, if that is
        more than growth makes of ``first``.
      margin: Relative bias from which on one is found or excluded; a smaller one may pass.
      alpha: Probability of rejecting an unbiased estimator, over all looks and directions.
      chunk: Sequences at a time.

    Raises:
      ValueError: One of them makes no sense.
    """

    first: int = 16_384
    growth: int = 4
    looks: int = 3
    pilot: int = 0
    most: int = 0
    margin: float = 0.02
    alpha: float = 0.001
    chunk: int = 4_096

    def __post_init__(self) -> None:
        if not 1 <= self.looks <= 3:
            raise ValueError(f"1 to 3 looks, not {self.looks}")
        if self.growth < 2 or self.first < 1 or self.chunk < 1:
            raise ValueError("growth must be at least 2, first and chunk at least 1")
        if not (self.margin > 0 and 0 < self.alpha < 1):
            raise ValueError("margin must be positive, and alpha between 0 and 1")

    def largest(self, group: int) -> int:
        """Return the draws that the last look may have, for groups of that size."""
        sequences: int = max(self.first * self.growth ** (self.looks - 1), self.most)
        return BLOCKS * max(2, math.ceil(sequences / group / BLOCKS))

    def draws(self, group: int, noise: float | None = None) -> tuple[int, ...]:
        """Return the draws at each look for groups of that size, multiples of the blocks.

        Args:
          group: Sequences of a draw.
          noise: tr Cov of a draw / |grad J|^2 in the pilot, if there was one.
        """
        planned = [
            BLOCKS * max(2, math.ceil(self.first * self.growth**k / group / BLOCKS))
            for k in range(self.looks)
        ]
        if noise is not None and math.isfinite(noise) and self.looks == 3:
            needed = BLOCKS * math.ceil(ENOUGH * noise / self.margin**2 / BLOCKS)
            # Too near to its neighbours a look would be for nothing.
            most = self.largest(group)
            low, high = math.ceil(1.5 * planned[0]), most // 2
            usual = planned[1]
            planned[1] = BLOCKS * (min(max(needed, low), high) // BLOCKS)
            planned[2] = min(most, max(LAST * planned[1], usual))
        return tuple(planned)


@dataclass(frozen=True)
class BiasResult:
    """The verdict on one estimator and one problem.

    Attributes:
      verdict: "unbiased" (the upper limit is below the margin), "biased" (a test rejected), or
        "undecided" (neither, after the last look, or where there is no hope of either).
      found_by: The test that rejected, or "".
      looks: What each look saw; the last one decided.
      margin: Relative bias from which on one is found or excluded; a smaller one may pass.
      alpha: Probability of rejecting an unbiased estimator.
      meter_fault: Why the meter went draw by draw, or "".
    """

    verdict: Verdict
    found_by: str
    looks: tuple[Look, ...]
    margin: float
    alpha: float
    meter_fault: str = ""

    @property
    def last(self) -> Look:
        """The look that decided."""
        return self.looks[-1]

    def remedy(self, most: int, group: int) -> str:
        """Return what the noise asks for, in words: draws, less noise, or a wider margin.

        Args:
          most: Draws of the test's last look.
          group: Sequences of a draw.
        """
        noise = self.last.noise
        if noise <= 0:
            return ""
        needed = ENOUGH * noise / self.margin**2
        wider = math.sqrt(ENOUGH * noise / most)
        said = (
            f"the variance of a draw is {_figure(noise)} times the squared gradient, and a "
            f"verdict at {self.margin:.2%} takes some {_figure(needed * group)} sequences: centre "
            "the reward or subtract a baseline"
        )
        if self.margin < wider < WIDEST:
            said += f", or give a wider margin (--margin {_up(wider):g})"
        return said

    def __str__(self) -> str:
        look = self.last
        size = f"{look.relative_bias:.2%} [{look.low:.2%}, {look.high:.2%}]"
        by = f", found by {self.found_by}" if self.found_by else ""
        return (
            f"{self.verdict}: relative bias {size}, below {look.upper:.2%}, projection "
            f"{look.projection:.4f}, {look.draws} draws{by}"
        )


def _figure(number: float) -> str:
    """Return a number with two digits, and zeros where it is large."""
    return f"{int(float(f'{number:.1e}')):,}" if number >= 10 else f"{number:.2g}"


def _up(number: float) -> float:
    """Return a number rounded up to two digits."""
    step = 10.0 ** (math.floor(math.log10(number)) - 1)
    return float(f"{math.ceil(number / step) * step:.2g}")


def verdict_at(look: Look, margin: float, alpha: float) -> tuple[Verdict, str]:
    """Return what one look says, and the test that rejected, or "".

    Args:
      look: What the draws said.
      margin: Relative bias from which on one is found or excluded; a smaller one may pass.
      alpha: Probability of rejecting an unbiased estimator at this look.
    """
    best = min(look.p_values, key=lambda name: look.p_values[name])
    if look.p_values[best] < alpha:
        return "biased", best
    return ("unbiased" if look.upper < margin else "undecided"), ""


def bias_test(
    method: Estimator,
    policy: Policy,
    reward: Reward,
    gradient: Sequence[Tensor],
    rng: torch.Generator,
    learned: Learned | None = None,
    plan: Plan | None = None,
) -> BiasResult:
    """Test whether an estimator's draws have the exact gradient as their mean.

    The draws come from ``surrogate`` and ``Tape``, as in training; what is learned stays as it is.

    Args:
      method: The estimator.
      policy: The policy, of any dtype.
      reward: The reward, centred by its exact mean.
      gradient: The exact gradient of E[reward], a tensor for each parameter.
      rng: Noise of the draws.
      learned: The estimator's state; a fresh one if None.
      plan: Looks, margin and error rates; the default if None.
    """
    plan = plan or Plan()
    state = method.initial_state(policy, rng) if learned is None else learned

    def tested(passes: Passes) -> BiasResult:
        names = [name for name, p in policy.named_parameters() if p.requires_grad]
        blocks = Blocks(gradient, names)
        contexts = policy.fewest_rows
        whole = BLOCKS * contexts  # each block has as many draws of each context
        chunk = whole * max(1, plan.chunk // method.info.group // whole)
        looks: list[Look] = []
        found_by = ""
        verdict: Verdict = "undecided"

        def draw(n: int, last: bool) -> DrawGradients:
            with passes.tape() as tape:
                surrogate = method.surrogate(policy, reward, n, rng, state)
            return passes.differentiate(tape, surrogate, last)

        noise = None
        if plan.pilot:
            n = contexts * max(2, plan.pilot // method.info.group // contexts)
            noise = total_variance(draw(n, last=True)) / blocks.norm**2
        planned = plan.draws(method.info.group, noise)
        last = planned[-1]
        if not method.info.unbiased and noise is not None and noise > planned[0]:
            planned = (min(planned[0], BLOCKS * BRIEF),)
        for target in planned:
            target = whole * math.ceil(target / whole)
            while blocks.draws < target:
                n = min(chunk, target - blocks.draws)
                found = draw(n, last=blocks.draws + n == target)
                # The draws of a context are consecutive.
                sums = found.block_sums(whole).view(contexts, BLOCKS, -1).sum(dim=0)
                blocks.add(sums, n)
            looks.append(blocks.look(plan.margin, 0.05 / len(planned)))
            verdict, found_by = verdict_at(looks[-1], plan.margin, plan.alpha / plan.looks)
            if verdict != "undecided":
                break
            # An estimator that declares itself biased need not pass. Stop if noise would hide the
            # margin at the last look as well, in however many directions it is spread. For one that
            # declares itself unbiased, go on while a bias of the gradient's size can be found.
            at_last = math.sqrt(looks[-1].noise / last)
            if at_last > (DROWNED if method.info.unbiased else HOPELESS * plan.margin):
                break
        return BiasResult(verdict, found_by, tuple(looks), plan.margin, plan.alpha, passes.fault)

    return in_passes(policy, rng, tested)

"""What variance buys: the gain of a step with an estimator over the gain of the exact gradient's.

From one point of a training run (its parameters, its Adam moments, its reward) one step is taken
with each of many independent batches, and eight steps with some of them. How far J = E[reward]
rises is measured (``gains``), and divided by how far it rises with the exact gradient.

**What to expect.** Let g = grad J, H its Hessian, Sigma the covariance of the mean of a batch of b
reward evaluations, V = tr Sigma b, B = V / |g|^2 the noise scale (McCandlish et al. 2018,
arXiv 1812.06162, section 2.2 and appendix A.1). A step of plain gradient ascent at rate r with an
unbiased estimator has, to second order, the expected gain

    r |g|^2 + r^2 / 2 (g'Hg + tr(H Sigma)).

- At a *fixed small rate* the first term is all there is. It is the same for every unbiased
  estimator, whatever its variance: the ratio to the exact gradient's gain is 1.
- The noise costs |tr(H Sigma)| r^2 / 2. It matters where the rate is near the best one.
- At each estimator's *best rate*, r* = |g|^2 / (-g'Hg - tr(H Sigma)), the gain is r* |g|^2 / 2, and
  the ratio to the exact gradient at *its* best rate is 1 / (1 + tr(H Sigma) / g'Hg). With the same
  curvature in the direction of the noise as along the gradient (H a multiple of the identity as
  far as both are concerned) this is the **useful share 1 / (1 + B / b)**.

So the useful share predicts the ratio at the best rate, and says nothing of a smaller one. A biased
estimator of mean m has the ratio (g'm)^2 / (|g|^2 E|batch mean|^2) in the same approximation; for
an unbiased one it is the useful share. Of Adam it predicts nothing: nine tenths of the direction of
one step were there before (the first moment), and its rate is divided by the root of the second
moment, which is mostly noise. What the moments alone make is therefore measured too
(``gain_momentum``: the same step with a gradient of zero).

**How SGD's rate is chosen.** Runs train with Adam, so there is no rate of the preset for SGD. Its
rate 1 is the one at which the exact gradient's step is as long as Adam's with the exact gradient at
the preset's rate. (Not equal gain: an Adam step's may be negative, for the moments may point
down.) Factors of the rate apply to both.

**How a mean gain is measured.** A step of rate factor c moves by delta = c u. With G the gradient
of J on a large sample of its own,

    mean gain = c mean(G'u) + mean(gain(c u) - c G'u),

the first mean over all batches, for it costs next to nothing, the second over some of them, for it
is of second order and hardly varies. G'u goes with G'(batch mean), whose expectation is the same
for batches of every size and is known from all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from estbench.estimators.base import Estimator, Learned, Reward
from estbench.meter.cost import sequences_at_once
from estbench.meter.gains import Gains, gradient_blocks, moved, untouched
from estbench.meter.gradients import Tape
from estbench.models.policy import Policy

__all__ = ["SGD", "Adam", "Ground", "Source", "exact_steps", "progress"]

STEPS = 8  # of the longer course, at the batch and the rate that the run has
JUDGED = 8  # steps a cell whose gain is measured in full, where sequences are sampled
LISTED_JUDGED = 256  # the same, where they are listed
CHUNK = 2048  # sequences differentiated in one pass, at most
Z95 = 1.959963984540054

Row = dict[str, Any]


@dataclass(frozen=True)
class Adam:
    """Adam as ``torch.optim.Adam`` has it, as a function; ascends.

    Attributes:
      first: Moving average of gradients ``[..., P]``.
      second: Of their squares.
      count: Steps made.
      rate: Learning rate.
      betas: How much of each average is kept.
      eps: Is added to the root of the second moment.
    """

    first: Tensor
    second: Tensor
    count: int
    rate: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    @classmethod
    def resumed(cls, kept: Mapping[str, Any] | None, like: Tensor, rate: float) -> Adam:
        """Return it as a snapshot keeps it (of a descent: the sign is turned), or anew.

        Args:
          kept: The snapshot's ``optimiser``, or None before the first step.
          like: A vector ``[P]`` of the parameters' type.
          rate: Learning rate, where nothing was kept.
        """
        if kept is None:
            return cls(torch.zeros_like(like), torch.zeros_like(like), 0, rate)
        first, second = (
            torch.cat([part.to(like).flatten() for part in kept[name]])
            for name in ("exp_avg", "exp_avg_sq")
        )
        betas = (float(kept["betas"][0]), float(kept["betas"][1]))
        return cls(-first, second, int(kept["step"]), float(kept["lr"]), betas, float(kept["eps"]))

    def step(self, gradient: Tensor) -> tuple[Tensor, Adam]:
        """Return the step that gradients ``[..., P]`` make, and the optimiser after it."""
        b1, b2 = self.betas
        count = self.count + 1
        first = torch.lerp(self.first, gradient, 1 - b1)
        second = b2 * self.second + (1 - b2) * gradient**2
        root = second.sqrt() / math.sqrt(1 - b2**count) + self.eps
        delta = self.rate / (1 - b1**count) * first / root
        return delta, replace(self, first=first, second=second, count=count)


@dataclass(frozen=True)
class SGD:
    """Plain gradient ascent.

    Attributes:
      rate: Learning rate.
    """

    rate: float

    def step(self, gradient: Tensor) -> tuple[Tensor, SGD]:
        """Return the step that gradients ``[..., P]`` make, and the optimiser after it."""
        delta: Tensor = self.rate * gradient
        return delta, self


def clipped(gradient: Tensor, norm: float) -> Tensor:
    """Return gradients ``[..., P]`` cut to a norm, as in training; 0 leaves them."""
    if not norm:
        return gradient
    cut: Tensor = gradient * (norm / (gradient.norm(dim=-1, keepdim=True) + 1e-6)).clamp(max=1.0)
    return cut


def exact_steps(
    policy: Policy,
    reward: Reward,
    adam: Adam,
    rates: Sequence[float],
    sequences: int,
    rng: torch.Generator,
    clip: float = 0.0,
) -> dict[str, Any]:
    """Return the exact gradient's steps from here: what every estimator's are compared with.

    Where sequences cannot be listed, "exact" is a mean over many.

    Args:
      policy: The policy, with the contexts that J is a mean over.
      reward: The reward.
      adam: The run's optimiser here.
      rates: Factors of the learning rate.
      sequences: In a gradient.
      rng: Draws them.
      clip: Norm to which gradients are cut; 0 for none.

    Returns:
      ``gradient`` and ``judge`` ``[blocks, P]``, two independent estimates of grad J; ``sgd_rate``;
      ``steps``, a list of {optimiser, rate_factor, steps, moved}: where the exact gradient leads,
      ``[P]``, and ``coasted``, where a gradient of zero does.
    """
    blocks = gradient_blocks(policy, reward, sequences, rng)
    judge = blocks if len(blocks) == 1 else gradient_blocks(policy, reward, sequences, rng)
    here = adam.first.dtype
    gradient = clipped(blocks.mean(dim=0).to(here), clip)
    length, norm = float(adam.step(gradient)[0].norm()), float(gradient.norm())
    sgd = SGD(length / norm if norm > 0 else 0.0)

    def at(ahead: Tensor) -> Tensor:
        if not ahead.any():
            return gradient
        with moved(policy, ahead):
            new = gradient_blocks(policy, reward, sequences, rng).mean(dim=0).to(gradient)
        return clipped(new, clip)

    found: list[dict[str, Any]] = []
    for name, optimiser in (("sgd", sgd), ("adam", adam)):
        for steps, factors in ((1, rates), (STEPS, (1.0,))):
            there = course(optimiser, at, steps, gradient)
            coasted = course(optimiser, torch.zeros_like, steps, gradient)
            found += [
                {
                    "optimiser": name,
                    "rate_factor": float(factor),
                    "steps": steps,
                    "moved": (factor * there).cpu(),
                    "coasted": (factor * coasted).cpu(),
                }
                for factor in factors
            ]
    kept = {"gradient": blocks.to(gradient).cpu(), "judge": judge.to(gradient).cpu()}
    return {**kept, "sgd_rate": sgd.rate, "steps": found}


def course(
    optimiser: Adam | SGD, gradient: Callable[[Tensor], Tensor], steps: int, like: Tensor
) -> Tensor:
    """Return where some steps lead, ``[P]``.

    Args:
      optimiser: At the first of them.
      gradient: Returns the gradient to follow, so far ahead.
      steps: How many.
      like: A vector ``[P]``.
    """
    ahead = torch.zeros_like(like)
    for _ in range(steps):
        delta, optimiser = optimiser.step(gradient(ahead))
        ahead = ahead + delta
    return ahead


@dataclass(frozen=True)
class Exact:
    """Steps with the exact gradient, and what they gain.

    Attributes:
      optimiser: "sgd" or "adam".
      rate_factor: Factor of the learning rate.
      steps: How many.
      moved: Where they lead, ``[P]``.
      gain: How far J rises.
      error: Standard error of that beyond what the judge's noise makes of it.
      gain_momentum: How far J rises with gradients of zero.
    """

    optimiser: str
    rate_factor: float
    steps: int
    moved: Tensor
    gain: float
    error: float
    gain_momentum: float


@dataclass(frozen=True)
class Ground:
    """What the estimators of a snapshot share: the same sequences judge them all.

    Attributes:
      gains: Judges steps in full.
      own: The gradient ``[P]`` of J on the sequences of ``gains``.
      gradient: Estimates ``[blocks, P]`` of grad J, whose mean made the exact gradient's steps.
      judge: Others ``[blocks, P]``, which judge steps to first order.
      optimisers: Adam and SGD by name.
      steps: The exact gradient's.
    """

    gains: Gains
    own: Tensor
    gradient: Tensor
    judge: Tensor
    optimisers: Mapping[str, Adam | SGD]
    steps: list[Exact]

    @classmethod
    def made(cls, gains: Gains, exact: Mapping[str, Any], adam: Adam) -> Ground:
        """Return it from what ``exact_steps`` returned."""
        device = adam.first.device
        gradient, judge = (exact[name].to(device).double() for name in ("gradient", "judge"))
        own = judge[0] if gains.listed else gains.gradient()
        optimisers: dict[str, Adam | SGD] = {"sgd": SGD(exact["sgd_rate"]), "adam": adam}
        made = cls(gains, own, gradient, judge, optimisers, [])
        for step in exact["steps"]:
            moved, coasted = step["moved"].to(device), step["coasted"].to(device)
            gain, rest = made.gain(moved)
            noise = made.step_error(step["optimiser"]) * step["rate_factor"] * step["steps"]
            about = (step["optimiser"], step["rate_factor"], step["steps"], moved, gain)
            made.steps.append(Exact(*about, math.hypot(rest, noise), made.gain(coasted)[0]))
        return made

    def first_order(self, delta: Tensor) -> Tensor:
        """Return how far steps ``[..., P]`` lead to first order, ``[...]``."""
        return delta.double() @ self.judge.mean(dim=0)

    def rest(self, delta: Tensor) -> tuple[float, float]:
        """Return the gain of a step ``[P]`` beyond first order, and its standard error."""
        found = self.gains(delta)
        if found.drawn_again:
            return found.value - float(self.first_order(delta)), found.error
        return found.value - float(delta.double() @ self.own), found.error

    def gain(self, delta: Tensor) -> tuple[float, float]:
        """Return the gain of a step ``[P]``, and the standard error of what is not first order."""
        rest, error = self.rest(delta)
        return float(self.first_order(delta)) + rest, error

    def judged_error(self, delta: Tensor) -> float:
        """Return the standard error of ``first_order`` that comes from the judge's noise."""
        along = self.judge @ delta.double()
        return float(along.std()) / math.sqrt(len(along)) if len(along) > 1 else 0.0

    def step_error(self, name: str) -> float:
        """Return the standard error of the exact step's own gain, from the gradient's noise."""
        n = len(self.gradient)
        if n < 2:
            return 0.0
        without = (self.gradient.sum(dim=0) - self.gradient) / (n - 1)  # the jackknife's means
        optimiser = self.optimisers[name]
        like = optimiser.first if isinstance(optimiser, Adam) else self.gradient
        along = self.first_order(optimiser.step(without.to(like.dtype))[0])
        return math.sqrt((n - 1) / n * float(((along - along.mean()) ** 2).sum()))

    @property
    def squared_norm(self) -> float:
        """|grad J|^2, without the noise of either estimate."""
        return float(self.gradient.mean(dim=0) @ self.judge.mean(dim=0))


Data = Callable[[int, int, int], Tensor]
"""(batch, replicate, draws) -> contexts ``[draws, D]``, the same ones for every estimator."""


@dataclass
class Source:
    """Where batches of an estimator come from; what it has learned stays as it is.

    Attributes:
      method: The estimator.
      policy: The policy at the snapshot.
      reward: The reward.
      learned: The estimator's state.
      rng: Its noise.
      data: Where the policy is conditional, what each batch is given.
      clip: Norm to which a batch's gradient is cut; 0 for none.
      fault: Why the meter has to go draw by draw, or ""; None before the first batch.
    """

    method: Estimator
    policy: Policy
    reward: Reward
    learned: Learned
    rng: torch.Generator
    data: Data | None = None
    clip: float = 0.0
    fault: str = ""

    def draws(self, evaluations: int) -> int:
        """Return how many draws a number of reward evaluations pays for; 0 where not even one.

        What a call costs is measured, so that costs which its draws share are counted once.
        """
        contexts, costs = self.policy.contexts, []
        one = nullcontext() if contexts is None else contexts.given(contexts.values[:1])
        with untouched(self.policy, self.reward), one:
            for draws in (1, 2):
                before = self.reward.hard_evals + self.reward.relaxed_evals
                self.method.surrogate(self.policy, self.reward, draws, self.rng, self.learned)
                costs.append(self.reward.hard_evals + self.reward.relaxed_evals - before)
        each = costs[1] - costs[0]
        if each <= 0:
            return int(evaluations >= costs[0])
        return max(0, (evaluations - costs[0]) // each + 1)

    def batches(self, batch: int, draws: int, count: int) -> Iterator[Tensor]:
        """Yield the gradients ``[n, P]`` of independent batches, ``count`` in all."""
        rows = draws * self.method.info.group
        at_once = max(1, sequences_at_once(self.policy, CHUNK) // rows)
        for start in range(0, count, at_once):
            yield self.means(batch, draws, start, min(at_once, count - start))

    def means(self, batch: int, draws: int, start: int, n: int) -> Tensor:
        """Return the gradients ``[n, P]`` of n batches, the first of which is number ``start``."""
        given: AbstractContextManager[None] = nullcontext()
        if self.data is not None and self.policy.contexts is not None:
            values = [self.data(batch, start + i, draws) for i in range(n)]
            given = self.policy.contexts.given(torch.cat(values))
        with given:
            with Tape(self.policy, self.fault) as tape:
                surrogate = self.method.surrogate(
                    self.policy, self.reward, n * draws, self.rng, self.learned
                )
            # Each size of batch is checked once: a policy may compute other sizes another way.
            found = tape.differentiate(surrogate, check=start == 0)
        self.fault = tape.fault
        return clipped(found.block_sums(n).detach() / draws, self.clip)


def progress(
    source: Source, ground: Ground, batches: Sequence[int], replicates: int, batch_size: int
) -> list[Row]:
    """Return rows of the table ``progress`` for one estimator at one snapshot.

    Args:
      source: The estimator's batches; the counters of its reward are left alone.
      ground: What all estimators share.
      batches: Sizes of a batch, in reward evaluations, hard and relaxed together.
      replicates: Batches of each size, or more of small ones: as many as hold the evaluations of
        this many batches of ``batch_size``.
      batch_size: The run's own, at which eight steps are taken too.

    Returns:
      ``optimiser``, ``rate_factor``, ``batch``, ``steps``, ``replicates``; ``gain`` and
      ``gain_exact``, in the reward's unit; ``ratio`` with ``low`` and ``high`` (95 %, over batches
      and over the sequences that judge; NaN where the exact gradient's gain is not certain to be
      positive); ``gain_momentum``, and ``added`` with its interval, (gain - gain_momentum) /
      (gain_exact - gain_momentum), what the batch adds of what the exact gradient adds;
      ``learning_rate``; ``useful_share``, see the module's text. A batch that pays for no draw has
      no rows.
    """
    rows: list[Row] = []
    along = _Along()
    taken: list[tuple[int, int, list[_Pool], float]] = []
    with untouched(source.policy, source.reward, whole=False):
        for batch in batches:
            draws = source.draws(batch)
            if not draws:
                continue
            judged = LISTED_JUDGED if ground.gains.listed else JUDGED
            pools = [_Pool(ground, name, judged) for name in ground.optimisers]
            moments = _Moments()
            count = replicates * max(1, batch_size // batch)
            for gradients in source.batches(batch, draws, count):
                moments.add(gradients)
                first = ground.first_order(gradients)
                along.add(first, draws)
                for pool in pools:
                    pool.add(gradients, first)
            share = moments.useful_share(ground, source.method.info.unbiased)
            taken.append((batch, draws, pools, share))
        for batch, draws, pools, share in taken:
            found = [row for pool in pools for row in pool.rows(along)]
            if batch == batch_size:
                found += _courses(source, ground, draws, batch, max(2, replicates // 2))
            rows += [{"batch": batch, **row, "useful_share": share} for row in found]
    return rows


class _Along:
    """The mean of G'gradient over batches of every size, each weighted by its draws.

    A batch's gradient is a mean of draws, so that its expectation does not depend on the size: what
    all batches say of it takes most of the noise out of what those of one size say of a step.
    """

    def __init__(self) -> None:
        self.values: dict[int, list[Tensor]] = {}

    def add(self, values: Tensor, draws: int) -> None:
        """Take n batches more, of so many draws each."""
        self.values.setdefault(draws, []).append(values)

    def estimate(self) -> tuple[float, float]:
        """Return the mean over draws, and its standard error."""
        total, variance, count = 0.0, 0.0, 0
        for draws, parts in self.values.items():
            values = torch.cat(parts)
            n = len(values)
            total += draws * float(values.sum())
            variance += n * draws**2 * (float(values.var()) if n > 1 else 0.0)
            count += n * draws
        return total / count, math.sqrt(variance) / count


class _Pool:
    """The steps that many batches make with one optimiser, to first order and some in full."""

    def __init__(self, ground: Ground, name: str, judged: int) -> None:
        self.ground, self.name, self.judged = ground, name, judged
        self.optimiser = ground.optimisers[name]
        self.first: list[Tensor] = []
        self.stepped: list[Tensor] = []
        self.total: Tensor | None = None
        self.kept: list[Tensor] = []

    def add(self, gradients: Tensor, first: Tensor) -> None:
        """Take the gradients ``[n, P]`` of n batches more, and what they are to first order."""
        steps = self.optimiser.step(gradients)[0]
        self.first.append(first)
        self.stepped.append(self.ground.first_order(steps))
        total = steps.double().sum(dim=0)
        self.total = total if self.total is None else self.total + total
        self.kept += list(steps[: self.judged - len(self.kept)])

    def rows(self, along: _Along) -> list[Row]:
        """Return a row for each of the exact gradient's single steps with the same optimiser."""
        steps = self.ground.steps
        own = [step for step in steps if step.optimiser == self.name and step.steps == 1]
        return [self._row(step, along) for step in own]

    def _row(self, exact: Exact, along: _Along) -> Row:
        assert self.total is not None
        rate = exact.rate_factor
        first, stepped = torch.cat(self.first), torch.cat(self.stepped)
        n = len(first)
        rests, errors = zip(*(self.ground.rest(rate * step) for step in self.kept), strict=True)
        rest = torch.tensor(rests, dtype=torch.float64)
        # How a step's first order goes with its gradient's: exactly, for SGD that is not cut.
        centred = first - first.mean()
        slope = float(centred @ stepped / (centred @ centred)) if float(centred @ centred) else 0.0
        known, known_error = along.estimate()
        mean = float(stepped.mean()) - slope * (float(first.mean()) - known)
        gain = rate * mean + float(rest.mean())
        noise = (
            rate * _error(stepped - slope * first),
            rate * slope * known_error,
            _error(rest),
            sum(errors) / len(errors),
        )
        return _row(self.ground, exact, n, gain, noise, rate * self.total / n)


def _error(values: Tensor) -> float:
    """Return the standard error of a mean."""
    return float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def _row(
    ground: Ground, exact: Exact, replicates: int, gain: float, noise: Sequence[float], mean: Tensor
) -> Row:
    """Return a row; ``noise`` are standard errors of the gain, ``mean`` the mean step ``[P]``."""
    doubt = math.hypot(exact.error, ground.judged_error(exact.moved))

    def over(base: float) -> tuple[float, float]:
        """Return the ratio of gains above a base, and 1.96 of its standard errors."""
        whole = exact.gain - base
        if not whole > 2 * doubt:
            return math.nan, math.nan
        ratio = (gain - base) / whole
        # The same sequences judge both steps: only how these differ is noise of the ratio.
        common = ground.judged_error(mean - ratio * exact.moved.double()) if not base else 0.0
        return ratio, Z95 * math.hypot(*noise, ratio * exact.error, common) / whole

    ratio, ratio_error = over(0.0)
    added, added_error = over(exact.gain_momentum)
    return {
        "optimiser": exact.optimiser,
        "rate_factor": exact.rate_factor,
        "steps": exact.steps,
        "replicates": replicates,
        "gain": gain,
        "gain_exact": exact.gain,
        "ratio": ratio,
        "low": ratio - ratio_error,
        "high": ratio + ratio_error,
        "gain_momentum": exact.gain_momentum,
        "added": added,
        "added_low": added - added_error,
        "added_high": added + added_error,
        "learning_rate": exact.rate_factor * ground.optimisers[exact.optimiser].rate,
    }


class _Moments:
    """Mean and mean square of the gradients of many batches."""

    def __init__(self) -> None:
        self.count, self.squares = 0, 0.0
        self.total: Tensor | None = None

    def add(self, gradients: Tensor) -> None:
        """Take the gradients ``[n, P]`` of n batches more."""
        found = gradients.double()
        self.count += len(found)
        self.squares += float((found**2).sum())
        total = found.sum(dim=0)
        self.total = total if self.total is None else self.total + total

    def useful_share(self, ground: Ground, unbiased: bool) -> float:
        """Return what a step at the best rate is expected to gain: see the module's text."""
        assert self.total is not None
        g2, n = ground.squared_norm, self.count
        if n < 2 or not g2 > 0:
            return math.nan
        mean = self.total / n
        variance = max(0.0, (self.squares - n * float(mean @ mean)) / (n - 1))
        if unbiased:
            return g2 / (g2 + variance)
        across = float(ground.first_order(mean))
        return across * abs(across) / (g2 * self.squares / n)


def _courses(source: Source, ground: Ground, draws: int, batch: int, count: int) -> Iterator[Row]:
    """Yield the rows of several steps in a row, each with a batch of its own."""
    for exact in ground.steps:
        if exact.steps == 1:
            continue
        courses, gains, errors = [], [], []
        for replicate in range(count):
            places = iter(range(replicate * exact.steps, (replicate + 1) * exact.steps))

            def at(ahead: Tensor, places: Iterator[int] = places) -> Tensor:
                with moved(source.policy, ahead):
                    return source.means(batch, draws, next(places), 1)[0]

            optimiser = ground.optimisers[exact.optimiser]
            ahead = course(optimiser, at, exact.steps, exact.moved)
            gain, error = ground.gain(ahead)
            courses.append(ahead.double())
            gains.append(gain)
            errors.append(error)
        values = torch.tensor(gains, dtype=torch.float64)
        noise = _error(values), sum(errors) / count
        mean = torch.stack(courses).mean(dim=0)
        yield _row(ground, exact, count, float(values.mean()), noise, mean)

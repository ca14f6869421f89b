"""The variance of draws that are conditioned on data: within a context, averaged over contexts.

A draw of a conditional policy is g(x, b), and its variance over both is E tr Cov(g | x) + tr Cov of
E[g | x]. The second part is how much the gradient differs from image to image. It is the same for
every unbiased estimator, it may be many times the first, and no baseline or control variate can
lower it: mixed in, it makes all estimators look alike. So contexts are fixed, several draws are
made of each, and only how the draws of one context differ is counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from estbench.estimators.base import Estimator, Learned, Reward
from estbench.meter.gains import untouched
from estbench.meter.gradients import DrawGradients, Tape
from estbench.meter.moments import Moments, Reference
from estbench.models.policy import Policy

__all__ = [
    "ContextMoments",
    "contexts_a_draw",
    "in_sets",
    "moments_for",
    "portions",
    "sets_of",
    "within_contexts",
]

ROWS = 256  # whole gradients held at once
NUMBERS = 1 << 24
"""Of relaxed sequences, T for each draw: estimators compute more than that in parts, and parts of a
call do not hold rows of all contexts."""


def contexts_a_draw(method: Estimator, policy: Policy) -> int:
    """Return how many contexts a draw holds: one, but of a whole batch where they may be mixed."""
    contexts = policy.contexts
    return method.contexts if contexts is not None and contexts.mixed else 1


def sets_of(method: Estimator, policy: Policy) -> int:
    """Return how many sets the policy's contexts make, each of them what a draw holds."""
    M = policy.fewest_rows
    return M // math.gcd(contexts_a_draw(method, policy), M)


@contextmanager
def in_sets(policy: Policy, sets: int, draws: int) -> Iterator[None]:
    """Have the draws of a call share the contexts of a set, inside the block.

    Args:
      policy: The policy; its contexts are those of all sets, one set after the other.
      sets: Their number, a divisor of the number of contexts.
      draws: In the call; a multiple of ``sets``.
    """
    contexts = policy.contexts
    if contexts is None or sets == contexts.count:  # rows of a draw have the draw's context anyway
        yield
        return
    whole = contexts.values
    each = whole.view(sets, -1, *whole.shape[1:]).repeat_interleave(draws // sets, dim=0)
    with contexts.given(each.flatten(0, 1)):
        yield


def portions(policy: Policy, draws: int, at_once: int, sets: int = 0) -> Iterator[int]:
    """Yield how many draws to make in each pass: ``draws`` in all, at most ``at_once`` together.

    Where there are several sets of contexts (0: each context is one), every pass has the same
    number of draws of each, at least two.
    """
    M = sets or policy.fewest_rows
    left = draws if M == 1 else max(2, draws // M)
    if M > 1:
        at_once = min(at_once, NUMBERS // (policy.length**2 * policy.vocabulary))
    size = at_once if M == 1 else max(2, at_once // M)
    while left:
        # A single draw of each context would have no variance: it joins the pass before.
        now = left if M > 1 and left == size + 1 else min(size, left)
        yield now * M
        left -= now


def moments_for(
    policy: Policy, reference: Reference, names: Sequence[str], sets: int = 0
) -> Moments:
    """Return what collects the draws of a policy with the sets of contexts that it has now."""
    M = sets or policy.fewest_rows
    return Moments(reference, names) if M == 1 else ContextMoments(reference, names, M)


class ContextMoments(Moments):
    """As ``Moments``, for draws of M contexts; variance is within contexts.

    The reference is the gradient averaged over the *same* contexts, so that no data noise enters
    the bias either. The interval of the variance is over contexts: it holds for contexts like
    these.

    Args:
      reference: Truth for the bias.
      names: The parameters' names.
      contexts: Their number M.
    """

    def __init__(self, reference: Reference, names: Sequence[str], contexts: int) -> None:
        super().__init__(reference, names)
        self.contexts = contexts
        self.within: list[Tensor] = []
        size = sum(g.numel() for g in reference.gradient)
        self.by_element = torch.zeros(size, dtype=torch.float64)  # variance, summed over draws
        self.between = 0.0  # the same of variance between contexts

    def add(self, found: DrawGradients, by_tensor: bool = True) -> None:
        """Add a batch with the same number of draws of each context, at least two."""
        for total, part in zip(self.sums, found.sums, strict=True):
            total += part.double()
        wanted = by_tensor or self.reference.metric is not None
        distances, squares, between = _within(found, self.contexts, wanted)
        self.distances.append(distances.flatten())
        self.within.append(distances)
        self.by_element += squares
        self.between += between * found.draws

    def _variance(self, q: Tensor, gap2: float) -> tuple[float, float]:
        means = torch.cat(self.within, dim=1).mean(dim=1)
        return float(means.mean()), float(means.std()) / math.sqrt(len(means))

    def _variance_by_tensor(self, mean: Sequence[Tensor]) -> Tensor:
        sizes = [g.numel() for g in mean]
        parts = torch.split(self.by_element / self.draws, sizes)
        return torch.stack([part.sum() for part in parts])

    def metric_variance(self) -> float:
        """See ``Moments.metric_variance``; within contexts."""
        if self.reference.metric is None:
            return math.nan
        P = torch.cat([p.flatten() for p in self.reference.metric]).cpu()
        return float(P @ self.by_element) / self.draws

    def between_variance(self) -> float:
        """Return tr Cov of the gradient of one context drawn at random.

        By the law of total variance, a draw of a random context has this and the variance within
        contexts together. Unbiased for the data that the M contexts were drawn from, but for being
        cut off at 0.
        """
        return max(self.between / self.draws, 0.0)


def _within(found: DrawGradients, contexts: int, by_element: bool) -> tuple[Tensor, Tensor, float]:
    """Return how draws differ within their contexts, and how the contexts' gradients differ.

    Args:
      found: n draws, those of a context consecutive.
      contexts: Their number M, a divisor of n.
      by_element: Whether the second value is wanted.

    Returns:
      Each draw's share of the variance within its context ``[M, n / M]``, whose mean is the
      variance, unbiased; the sum of the same over draws for each element of the parameters, ``[P]``
      (zeros if not wanted), both float64; and tr Cov of the contexts' own gradients, unbiased: the
      noise of their means over n / M draws is subtracted.
    """
    each = found.draws // contexts
    whole = max(1, ROWS // each) * each
    shares, total = [], torch.zeros(sum(g.numel() for g in found.sums), dtype=torch.float64)
    norms = 0.0
    for part in found.chunks(whole):
        gradients = part.detach().view(-1, each, part.shape[1])
        means = gradients.mean(dim=1, keepdim=True)
        norms += float((means.double() ** 2).sum())
        squares = (gradients - means) ** 2
        squares *= each / (each - 1)
        shares.append(squares.sum(dim=2, dtype=torch.float64).cpu())
        if by_element:
            total += squares.sum(dim=(0, 1), dtype=torch.float64).cpu()
    distances = torch.cat(shares)
    mean = sum(float((s.double() ** 2).sum()) for s in found.sums) / found.draws**2
    spread = (norms - contexts * mean) / (contexts - 1) if contexts > 1 else 0.0
    return distances, total, spread - float(distances.mean()) / each


def within_contexts(
    method: Estimator,
    policy: Policy,
    reward: Reward,
    draws: int,
    rng: torch.Generator,
    learned: Learned,
) -> float:
    """Return tr Cov of one draw given its contexts, from two draws of each of half the contexts.

    Made for training, where each draw of the batch has a context of its own and says nothing of the
    variance. Nothing learns here, and all counters are left alone.

    Args:
      method: The estimator.
      policy: The policy, with the contexts of the batch.
      reward: The reward.
      draws: Draws in the batch.
      rng: A stream of its own, so that training does not depend on whether this is asked.
      learned: The estimator's state.
    """
    assert policy.contexts is not None
    sets = max(1, draws // 2)
    some = policy.contexts.values[: sets * contexts_a_draw(method, policy)]
    with untouched(policy, reward, whole=False), policy.contexts.given(some):
        with Tape(policy) as tape, in_sets(policy, sets, 2 * sets):
            surrogate = method.surrogate(policy, reward, 2 * sets, rng, learned)
        found = tape.differentiate(surrogate, check=False)
    return float(_within(found, sets, by_element=False)[0].mean())

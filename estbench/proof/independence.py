"""Whether draws are independent of each other, of their number, and of the draws of other calls.

Independence is tried by intervention: one reward is changed at the same noise, and at most one draw
may move. That is right for every way of drawing noise. Where noise is laid out draw by draw, a draw
must also stay the same when others are added.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from scipy import stats
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from estbench.proof.rewards import rng
from estbench.proof.setting import BrokenRuleError, Make, NotApplicableError, Setting, ensure

__all__ = ["OWN_REWARD", "alone_or_beside", "independent", "one_reward", "other_seeds"]

SIGNIFICANT = 6.0  # standard errors: one false alarm in a hundred million
ROUNDING = 1e-24  # of squares, in double precision

FEW, MANY = 7, 129  # draws; the larger number is above every usual micro-batch
PROBED = 12  # rewards that are changed one by one
CHANGE = 10.0  # what is added to a reward or taken away: far more than rewards differ by
MOVED = 1e-7  # of the largest gradient, above which a draw has moved
SEQUENCES = 8_192  # at most in one call, for what draws in large groups
SOME = 16  # draws a call that larger numbers are compared with, by their law
LAW = 2_048  # draws of each number of them, by which their laws are compared
SAME_LAW = 1e-9  # p-value of a Kolmogorov-Smirnov test, below which two laws differ

OWN_REWARD = (
    "a mean over the batch contains the draw's own reward: leave it out; its bias is 1/n, for n "
    "sequences in the mean"
)


def one_reward(make: Make) -> None:
    """One reward moves one draw at most, at the same noise.

    An evaluation that is the same for every seed (the greedy sequence, the mean field) depends on
    the policy alone, and may move all draws.
    """
    setting = Setting(make)
    setting.gradients(2)  # what is built on first use is there now
    group = setting.method.info.group
    for n in (FEW, MANY):
        if n > FEW and n * group > SEQUENCES:
            continue
        moved = max((len(effect.draws) for effect in _effects(setting, n)), default=0)
        if moved < 2:
            continue
        said = f"with {n} draws a call, the reward of one sequence moves {moved} draws"
        if moved == n and _contains_own(setting):
            raise BrokenRuleError(f"{said}: {OWN_REWARD}")
        raise BrokenRuleError(
            f"{said}: draws must not share a baseline or a scale; declare as `group` the sequences "
            "that need each other"
        )


@dataclass(frozen=True)
class _Effect:
    """What changing the reward of one row did.

    Attributes:
      row: The row.
      draws: The draws that moved.
      size: How far the gradient moved that moved most.
    """

    row: Tensor
    draws: list[int]
    size: float


def _effects(setting: Setting, n: int, probed: int = PROBED) -> list[_Effect]:
    """Return the effect of changing each of some rows, but for those that all draws may use."""
    before, _ = setting.gradients(n)
    rows = setting.seen.rows
    same = [True] * len(rows)
    for seed in (5, 6, 7):
        setting.surrogate(n, seed)
        others = setting.seen.rows
        same = [
            kept and k < len(others) and torch.equal(rows[k], others[k])
            for k, kept in enumerate(same)
        ]
    found = []
    for i, k in enumerate(_spread([k for k, fixed in enumerate(same) if not fixed], probed)):
        with setting.seen.changed(k, CHANGE * (-1) ** i):
            after, _ = setting.gradients(n)
        gaps = (after - before).abs().amax(dim=1)
        scale = max(float(before.abs().max()), float(after.abs().max()))
        draws = (gaps > MOVED * scale).nonzero().flatten().tolist()
        found.append(_Effect(rows[k], draws, float((after - before).norm(dim=1).max())))
    return found


def _spread(values: Sequence[int], count: int) -> list[int]:
    """Return some of the values: the first, the last, and others at random."""
    if len(values) <= count:
        return list(values)
    inner = torch.randperm(len(values) - 2, generator=rng(8))[: count - 2] + 1
    return [values[0], *(values[k] for k in sorted(inner.tolist())), values[-1]]


def _contains_own(setting: Setting) -> bool:
    """Return whether a reward's effect on its own draw is less by 1 / n: then it grows with n."""
    if setting.method.info.group > 1:
        return False
    few = _effects(setting, FEW)
    many = _effects(setting, 4 * FEW, 4 * FEW)
    growth = [b.size / a.size for a in few for b in many if a.size and torch.equal(a.row, b.row)]
    return bool(growth) and median(growth) > 1 + 0.3 / FEW


def alone_or_beside(make: Make) -> None:
    """A draw is the same, to rounding, when others are added after it.

    Where noise is laid out in another way than draw by draw, the law of the draws is compared.
    """
    setting = Setting(make)
    setting.gradients(2)  # what is built on first use is there now
    most = SEQUENCES // setting.method.info.group
    for few, many in ((3, FEW), (FEW, 128), (MANY, 1_024)):
        if many > max(FEW, most):
            continue
        one, first = setting.gradients(few)
        all_, whole = setting.gradients(many)
        same_tokens = torch.equal(first.tokens, whole.tokens[:few])
        if same_tokens and torch.allclose(one, all_[:few], atol=1e-10, rtol=1e-8):
            continue
        if not _noise_draw_by_draw(setting, few, many):
            _same_law(setting, [n for n in (128, 1_024) if n <= most])
            return
        what = "gradients" if same_tokens else "sequences"
        raise BrokenRuleError(
            f"with {many} draws a call the first {few} have other {what} than with {few}, from the "
            "same noise: a draw must not depend on the others, or on how many there are"
        )


class _Noise(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps everything that is made by a generator."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.made: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        given = (*args, *(kwargs or {}).values())
        if isinstance(found, Tensor) and any(isinstance(a, torch.Generator) for a in given):
            self.made.append(found.detach().clone())
        return found


def _noise_draw_by_draw(setting: Setting, few: int, many: int) -> bool:
    """Return whether the noise of the first draws is the same when there are more of them.

    True only where that is certain: all noise has a row for each draw. Of several rows for each, it
    cannot be seen in which order they are used; of a seed, not what is made from it elsewhere.
    """
    made = []
    for n in (few, many):
        with _Noise() as noise:
            setting.surrogate(n)
        made.append(noise.made)
    one, all_ = made
    return (
        bool(one)
        and len(one) == len(all_)
        and all(
            a.dim() > 0 and len(a) == few and len(b) == many and torch.equal(a, b[:few])
            for a, b in zip(one, all_, strict=True)
        )
    )


def _same_law(setting: Setting, sizes: Sequence[int]) -> None:
    """Check that the norms of draws have the same law for these numbers of draws as for 16."""
    total = min(LAW, 2 * SEQUENCES // setting.method.info.group)

    def norms(n: int) -> Tensor:
        calls = range(math.ceil(total / n))
        return torch.cat([setting.gradients(n, 2_000 + k)[0].norm(dim=1) for k in calls])

    few = norms(SOME)
    for n in sizes:
        many = norms(n)
        p_value = float(stats.ks_2samp(few.numpy(), many.numpy()).pvalue)
        ensure(
            p_value > SAME_LAW,
            f"the norms of draws have another law with {n} draws a call than with {SOME} (mean "
            f"{float(many.mean()):.3g}, not {float(few.mean()):.3g}): a draw must not depend on "
            "how many there are",
        )


def independent(make: Make) -> None:
    """Draws of one call are independent: no noise is shared among them, nor among calls."""
    setting = Setting(make)
    n, calls = 8, 300
    draws = torch.stack([setting.gradients(n, seed=1000 + k)[0] for k in range(calls)])
    centred = draws - draws.mean(dim=(0, 1))
    if float(centred.square().sum()) <= ROUNDING * float(draws.square().sum()):
        raise NotApplicableError("its draws do not vary")
    sums = centred.sum(dim=1).square().sum(dim=1) - centred.square().sum(dim=(1, 2))
    # Centring at the grand mean takes a little of each pair away.
    sums = sums + centred.square().sum() / (n * calls) * (n - 1) / calls
    score = float(sums.mean() / (sums.std() / calls**0.5)) if float(sums.std()) else 0.0
    share = float(sums.mean() / centred.square().sum(dim=(1, 2)).mean())
    ensure(
        abs(score) < SIGNIFICANT,
        f"draws of one call are correlated (summed over pairs {share:+.2f} of their variance): "
        "do they share noise?",
    )
    products = (centred[::2] * centred[1::2]).sum(dim=(1, 2))
    deviation = float(products.std())
    score = float(products.mean()) / deviation * len(products) ** 0.5 if deviation else 0.0
    ensure(
        abs(score) < SIGNIFICANT,
        "draws of calls with different seeds are correlated: is noise used again?",
    )
    expected = calls**2 / 2 * _repeated(draws.flatten(0, 1)) ** n
    repeated = _repeated(draws) * calls**2 / 2
    ensure(
        repeated < 2 or expected > 0.01,
        f"{repeated:.0f} pairs of {calls} calls with different seeds have the same draws: is noise "
        "used again?",
    )


def _repeated(values: Tensor) -> float:
    """Return the probability that two of the values ``[n, ...]`` are the same, bit for bit."""
    counts = Counter(value.numpy().tobytes() for value in values)
    n = len(values)
    return sum(count * (count - 1) for count in counts.values()) / (n * (n - 1))


def other_seeds(make: Make) -> None:
    """Other seeds, and a generator that has moved on, give other draws."""
    setting = Setting(make)
    n = max(8, 64 // setting.method.info.group)
    noise = rng(6)
    calls = {
        "seed 4": setting.gradients(n, seed=4)[0],
        "seed 5": Setting(make).gradients(n, seed=5)[0],
        "a generator": setting.gradients(n, seed=noise)[0],
        "the same generator, moved on": setting.gradients(n, seed=noise)[0],
    }
    if all(bool((found == calls["seed 4"][0]).all()) for found in calls.values()):
        raise NotApplicableError("its draws do not vary")
    setting.adapt(16, seed=noise)
    calls["the same generator after adapt"] = setting.gradients(n, seed=noise)[0]
    names = list(calls)
    for i, one in enumerate(names):
        for other in names[:i]:
            ensure(
                not torch.equal(calls[one], calls[other]),
                f"the draws from {other} and from {one} are the same: take all noise from rng, and "
                "use none of it again",
            )

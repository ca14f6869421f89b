"""The measurements from Python: any policy, any reward, any estimators, one table."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from estbench.core import plugins
from estbench.core.errors import UserError, unknown_name
from estbench.core.seeding import stream
from estbench.core.terminal import console
from estbench.estimators import make
from estbench.estimators.base import Estimator
from estbench.meter import notices
from estbench.meter.exact import enumerable
from estbench.meter.measuring import adapt_once
from estbench.meter.measuring import measure as measure_one
from estbench.meter.moments import Reference
from estbench.meter.own import (
    NOTHING,
    OwnReward,
    adapted,
    check_policy,
    check_surrogate,
    evaluating,
)
from estbench.meter.truth import true_gradient
from estbench.meter.world import check_world
from estbench.models.policy import Policy
from estbench.runner.progress import BarDisplay

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["measure"]

ADAPTED_TOGETHER = 128  # sequences in one batch of training what is learned

VARIANCES = (
    "total_variance",
    "variance_low",
    "variance_high",
    "variance_per_sequence",
    "variance_per_sequence_low",
    "variance_per_sequence_high",
)
MEASURED = ("kurtosis", "relative_bias", "bias_low", "bias_high", "snr", "cosine", "mse")
COUNTED = ("hard_evals_per_draw", "relaxed_evals_per_draw")


def measure(
    policy: nn.Module,
    reward: Callable[[Tensor], Any],
    estimators: str | Estimator | Iterable[str | Estimator],
    draws: int = 2048,
    *,
    relaxed: Callable[[Tensor], Tensor] | None = None,
    baseline: str | None = None,
    adapt: int = 2560,
    reference: int = 65_536,
    reward_samples: int = 1,
    seed: int = 0,
    plugin: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure gradient estimators at one policy and reward; nothing of the policy is changed.

    Args:
      policy: An ``nn.Module`` with ``vocabulary`` V, ``length`` T, ``initial_state(n)`` and
        ``step(previous, state)``, as described at ``estbench.Policy``, from which it may inherit.
        It may declare ``end``, ``contexts`` and ``truncation``, and bring faster ways such as
        ``log_probs`` and ``sample_from``. It is measured in evaluation mode: dropout is off.
      reward: Maps tokens int64 ``[n, T]`` to n numbers, as a tensor, an array or a list. It must
        be a function of each sequence alone (see ``reward_samples``).
      estimators: Names of the catalogue (``estbench list estimators``), or estimators.
      draws: Draws of each; one draw takes as many sequences as the estimator's group has.
      relaxed: The reward of relaxed sequences, weights ``[n, T, V]``, as a tensor ``[n]`` that can
        be differentiated. REBAR and RELAX need it.
      baseline: Name of the estimator that ``ratio`` is to; the first if None.
      adapt: Sequences that each estimator trains on first what it learns, in batches of at most
        128; the last draw is a whole one. After that nothing learns.
      reference: Sequences of the gradient that bias is held against, where there are too many
        sequences to enumerate.
      reward_samples: Evaluations of each sequence whose mean is its reward; all of them count. Set
        it above 1 where the reward is noisy. The noise that is left is then a part of the draws'
        variance, and bias is measured against ``reference`` sequences, never enumerated.
      seed: Of all noise: equal seeds give equal tables, but for the seconds.
      plugin: A file with estimators of one's own, which ``estimators`` may then name.
      progress: Show a progress bar where the standard error is a terminal.

    Returns:
      A table with a row for each estimator, in the order given:

      - ``estimator``, ``unbiased`` (as it declares), ``draws``, ``sequences_per_draw``;
      - ``total_variance``, ``variance_low``, ``variance_high``: tr Cov of one draw, 95 % interval;
      - ``variance_per_sequence`` and its interval: that times the sequences a draw takes;
      - ``ratio`` and its interval: of the variance per sequence to the baseline's;
      - ``kurtosis`` of the draws' distance from the mean: above 100 or so, distrust the intervals;
      - ``relative_bias``, ``bias_low``, ``bias_high``: ``|E g - grad| / |grad|``, against
        ``bias_against``: the exact gradient, or a reference whose own noise is subtracted;
      - ``snr``, ``cosine``, ``mse``;
      - ``hard_evals_per_draw``, ``relaxed_evals_per_draw``, ``adapt_evals``,
        ``policy_steps_per_draw``, ``seconds_per_draw`` (to make it, without differentiating);
      - ``meter_fault``: why the meter had to differentiate draw by draw, or "": which parameter,
        in which type of layer, and the change of the policy that avoids it;
      - ``note``: why the numbers of a row are NaN, or "". Where all rewards that the draws met are
        equal and nothing varies, the draws say nothing but how rare other rewards are.

      Where it has to, a warning (``EstbenchWarning``) says so before that begins: which layer, why,
      how long it will take, and that change. The first and the last pass over the draws are
      compared with autograd.

      Before that, policy and reward are checked (``estbench.meter.world``): a reward that is noisy
      or depends on its batch is refused, and so is a policy that does not sample from its
      log-probabilities. A right reward is never refused, a right policy with a probability below
      0.001 for each of its ways to sample.

    Raises:
      UserError: Something does not exist or does not fit; the text says what, and the remedy.
    """
    import pandas as pd

    if plugin is not None:
        plugins.load(Path(plugin))
    for name, value, least in (
        ("draws", draws, 2),
        ("adapt", adapt, 0),
        ("reference", reference, 2),
        ("reward_samples", reward_samples, 1),
    ):
        if not isinstance(value, int) or value < least:
            raise UserError(f"{name} is {value!r}: it must be a whole number of at least {least}")
    own = adapted(policy)
    methods = [_method(e, own) for e in _listed(estimators)]
    names = [method.info.name for method in methods]
    if baseline is not None and baseline not in names:
        raise unknown_name("baseline", baseline, names)
    if torch.is_autocast_enabled(own.device.type):
        raise UserError(
            "torch.autocast is on around estbench.measure, and would round the measurements too: "
            "use it inside the policy's step instead"
        )
    learning = sum(type(method).adapt is not Estimator.adapt for method in methods)
    listed = enumerable(own) and reward_samples == 1
    slowest = own.vocabulary**own.length if listed else reference
    slowest += draws * len(methods) + adapt * learning
    with (
        evaluating(policy),
        notices.listening(_warner(slowest)),
        _progress(progress, len(methods) + 1) as ended,
    ):
        own_reward = OwnReward(reward, relaxed, own.dtype, reward_samples)
        check_policy(own)
        for method in methods:
            _check(method, own, own_reward, seed)
        noisy = reward_samples > 1
        check_world(own, own_reward, stream("measure world", seed, device=own.device), noisy)
        own_reward.range = NOTHING
        noise = stream("measure reference", seed, device=own.device)
        truth = true_gradient(own, own_reward, reference, noise, noisy=noisy)
        constant = listed and _alike(own_reward)
        ended("reference")
        rows = []
        for method in methods:
            row = _row(method, own, own_reward, draws, adapt, seed, truth)
            if row["total_variance"] == 0 and _alike(own_reward) and not constant:
                row = _unseen(row)
            rows.append(row)
            ended(method.info.name)
    first = rows[names.index(baseline) if baseline is not None else 0]
    against = "exact gradient" if listed else f"{reference} sequences"
    return pd.DataFrame([_with_ratio(row, first, against) for row in rows])


def _alike(reward: OwnReward) -> bool:
    """Return whether all rewards in the range that was seen are equal, but for rounding."""
    low, high = reward.range
    return 0 <= high - low <= 1e-6 * max(abs(low), abs(high))


def _unseen(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row of draws that met equal rewards alone: what they measured says nothing."""
    sequences = row["draws"] * row["sequences_per_draw"]
    share = 1 - 0.05 ** (1 / sequences)
    note = (
        f"no reward was seen that differs: at most {100 * share:.2g} % of the sequences are "
        "rewarded otherwise (95 %)"
    )
    notices.warn(f"{row['estimator']}: {note}. Give more draws, or a reward that is less rare")
    unknown = dict.fromkeys((*VARIANCES, *MEASURED), math.nan)
    return {**row, **unknown, "note": note}


def _warner(draws: int) -> Callable[[notices.Slow], None]:
    """Return what warns of a slow loop over so many draws in all."""

    def tell(slow: notices.Slow) -> None:
        notices.warn(slow.line(f"about {notices.duration(slow.seconds * draws)} in all"))

    return tell


@contextmanager
def _progress(wanted: bool, total: int) -> Iterator[Callable[[str], None]]:
    """Show a bar where there is a terminal; yields what is told of each part that ends."""
    if not (wanted and sys.stderr.isatty()):
        yield lambda label: None
        return
    display = BarDisplay(console(sys.stderr))
    display.phase("snapshots", total)
    started, done = time.perf_counter(), 0

    def ended(label: str) -> None:
        nonlocal done
        done += 1
        spent = time.perf_counter() - started
        display.ended(label, "", spent, spent / done * (total - done))

    try:
        yield ended
    finally:
        display.close()


def _listed(estimators: str | Estimator | Iterable[str | Estimator]) -> Sequence[str | Estimator]:
    if isinstance(estimators, str):
        found: list[str | Estimator] = [name.strip() for name in estimators.split(",")]
    else:
        found = [estimators] if isinstance(estimators, Estimator) else list(estimators)
    if not found:
        raise UserError("no estimators: name at least one (see: estbench list estimators)")
    return found


def _method(given: Any, policy: Policy) -> Estimator:
    if isinstance(given, str):
        return make(given, truncation=policy.truncation)
    made = given() if isinstance(given, type) and issubclass(given, Estimator) else given
    if not isinstance(made, Estimator):
        raise UserError(
            f"{type(given).__name__} is no estimator: give a name, or an estbench.Estimator"
        )
    return made


def _check(method: Estimator, policy: Policy, reward: OwnReward, seed: int) -> None:
    name = method.info.name
    if method.info.needs_relaxed_reward and not reward.is_relaxed:
        raise UserError(
            f"{name} evaluates the reward at relaxed tokens, and this one takes tokens only: give "
            f"relaxed=, a function of weights [n, T, V], or leave {name} out"
        )
    learned = method.initial_state(policy, stream("measure check", seed, name))
    rng = stream("measure check", seed, name, "noise", device=policy.device)
    check_surrogate(method, policy, reward, rng, learned)


def _row(
    method: Estimator,
    policy: Policy,
    reward: OwnReward,
    draws: int,
    adapt: int,
    seed: int,
    truth: Reference,
) -> dict[str, Any]:
    name, group = method.info.name, method.info.group
    learned = method.initial_state(policy, stream("measure learned", seed, name))
    rng = stream("measure", seed, name, device=policy.device)
    before = reward.hard_evals + reward.relaxed_evals
    if type(method).adapt is not Estimator.adapt:
        M = policy.fewest_rows
        left = M * math.ceil(adapt / group / M)
        together = M * max(1, ADAPTED_TOGETHER // group // M)
        while left:
            adapt_once(method, policy, reward, min(together, left), rng, learned)
            left -= min(together, left)
    adapted_evals = reward.hard_evals + reward.relaxed_evals - before
    reward.range = NOTHING
    found = measure_one(method, policy, reward, draws * group, rng, learned, truth)
    return {
        "estimator": name,
        "unbiased": method.info.unbiased,
        "draws": found["draws"],
        "sequences_per_draw": group,
        "total_variance": found["total_variance"],
        "variance_low": found["variance_low"],
        "variance_high": found["variance_high"],
        "variance_per_sequence": found["total_variance"] * group,
        "variance_per_sequence_low": found["variance_low"] * group,
        "variance_per_sequence_high": found["variance_high"] * group,
        **{column: found[column] for column in (*MEASURED, *COUNTED)},
        "adapt_evals": adapted_evals,
        "policy_steps_per_draw": found["policy_steps_per_draw"],
        "seconds_per_draw": found["seconds_per_draw"],
        "meter_fault": found["info"]["meter_fault"],
        "note": "",
    }


def _with_ratio(row: dict[str, Any], first: dict[str, Any], against: str) -> dict[str, Any]:
    """Return the row with its ratio to another; both intervals are normal ones on logarithms."""
    own, other = row["variance_per_sequence"], first["variance_per_sequence"]
    ratio = own / other if other > 0 else math.nan
    spread = 0.0 if row is first else math.hypot(_log_spread(row), _log_spread(first))
    added = {
        "ratio": ratio,
        "ratio_low": ratio * math.exp(-spread),
        "ratio_high": ratio * math.exp(spread),
    }
    out = {}
    for column, value in row.items():
        out[column] = value
        if column == "variance_per_sequence_high":
            out |= added
        if column == "bias_high":
            out["bias_against"] = against
    return out


def _log_spread(row: dict[str, Any]) -> float:
    variance = row["total_variance"]
    return math.log(row["variance_high"] / variance) if variance > 0 else 0.0

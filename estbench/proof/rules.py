"""How an estimator has to behave: noise, rows, extremes, costs, and what is fixed when.

None of this shows in a mean. An estimator that breaks one of these rules may be unbiased and still
be measured wrongly, cost more than it says, or turn every parameter into NaN one day.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from estbench.core import noise
from estbench.estimators.base import Draws, Surrogate
from estbench.estimators.formula import evaluate
from estbench.meter.bias import Centred
from estbench.meter.exact import enumerate_sequences
from estbench.meter.gradients import DrawGradients, Tape
from estbench.meter.own import layout_fault
from estbench.models.reward import FunctionReward
from estbench.proof.independence import (
    SIGNIFICANT,
    alone_or_beside,
    independent,
    one_reward,
    other_seeds,
)
from estbench.proof.objective import learned_gradients
from estbench.proof.rewards import function_reward, rng
from estbench.proof.sampling import draws_from_the_policy
from estbench.proof.setting import (
    BrokenRuleError,
    Make,
    NotApplicableError,
    Setting,
    T,
    attempt,
    bits,
    ensure,
)

__all__ = ["EXCUSED", "FROM_POLICY", "RULES", "ConductFinding", "conduct", "kept"]


def contract(make: Make) -> None:
    """Draws say which sequences they come from, in the shapes that the contract gives."""
    setting = Setting(make)
    info = setting.method.info
    found = setting.surrogate(6)
    fault = layout_fault(found, setting.policy, info.group, 6)
    ensure(not fault, fault)
    ensure(not found.tokens.is_floating_point(), f"tokens are {found.tokens.dtype}, not integers")
    inside = bool(((found.tokens >= 0) & (found.tokens < setting.vocabulary)).all())
    ensure(inside, "some tokens lie outside the vocabulary")
    earned = setting.reward(found.tokens.reshape(-1, T)).reshape(6, info.group)
    close = torch.allclose(found.rewards.to(earned.dtype), earned, rtol=1e-5, atol=1e-6)
    relaxed_only = info.hard_evals == "0"  # then they may be those of relaxed sequences
    ensure(close or relaxed_only, "the rewards it reports are not those of the tokens it reports")


def same_bits(make: Make) -> None:
    """Equal seeds give equal bits."""
    first, again = Setting(make), Setting(make)
    one, _ = first.gradients(5)
    first.adapt(16)
    torch.manual_seed(12345)
    random.seed(12345)
    other, _ = again.gradients(5)
    again.adapt(16)
    ensure(torch.equal(one, other), "two calls with equal seeds give different draws")
    after, later = first.gradients(5)[0], again.gradients(5)[0]
    ensure(torch.equal(after, later), "two trainings with equal seeds learn different things")


def no_global_noise(make: Make) -> None:
    """The global random states are neither used nor moved."""
    setting = Setting(make)
    before = _global_states()
    setting.gradients(5)
    setting.adapt(16)
    for name, then, now in zip(("torch", "random", "numpy"), before, _global_states(), strict=True):
        ensure(then == now, f"it draws from the global random state of {name}; use rng")


def fixed_while_drawn(make: Make) -> None:
    """What is learned changes in ``adapt`` alone, and the policy never."""
    setting = Setting(make)
    modes = [part.training for part in setting.policy.modules()]
    setting.gradients(4)  # what is built on first use is there now
    weights = bits(dict(setting.policy.named_parameters()))
    before = bits(setting.state)
    setting.gradients(16)
    ensure(bits(setting.state) == before, "drawing changes what is learned: do that in adapt")
    setting.adapt(16)
    ensure(
        bits(dict(setting.policy.named_parameters())) == weights, "it changes the policy's weights"
    )
    ensure(
        modes == [part.training for part in setting.policy.modules()],
        "it leaves the policy in another mode (training or evaluation) than it found it in",
    )
    trainable = all(p.requires_grad and p.grad is None for p in setting.policy.parameters())
    ensure(trainable, "it leaves gradients at the policy's parameters, or freezes them")


def learns(make: Make) -> None:
    """What is declared as learned is trained, every tensor of it, and nothing else is."""
    setting = Setting(make)
    setting.gradients(4)
    before, modules = bits(setting.state), _modules(setting.state)
    tensors = {
        f"{path}.{name}": p.detach().clone()
        for path, module in modules.items()
        for name, p in module.named_parameters()
    }
    for k in range(3):
        setting.adapt(64, seed=20 + k)
    changed = bits(setting.state) != before
    if not setting.method.info.learned:
        ensure(not changed, "adapt changes its state, but it declares nothing as learned")
        raise NotApplicableError("nothing is learned")
    ensure(changed, "it declares something as learned, and adapt changes nothing")
    for path, module in modules.items():
        for name, p in module.named_parameters():
            same = torch.equal(p.detach(), tensors[f"{path}.{name}"])
            ensure(not same, f"{path}.{name} is never trained: does a gradient reach it?")


def learning_helps(make: Make) -> None:
    """Training lowers the variance where there is something to gain."""
    setting = Setting(make)
    if not setting.method.info.learned:
        raise NotApplicableError("nothing is learned")
    # Any baseline has something to take away.
    setting.reward = Centred(function_reward(setting.vocabulary, T, 2), -1.0)
    setting.state = setting.method.initial_state(setting.policy, rng(2))
    before = _variance(setting)
    for k in range(40):
        setting.adapt(128, seed=100 + k)
    after = _variance(setting)
    ensure(
        after < 0.9 * before,
        f"trained on 40 batches its variance is {after / before:.2f} times the untrained one's",
    )
    # A baseline that learns must not hide a control variate that does not.
    with Tape(setting.policy) as tape:
        whole = setting.surrogate(4096 // setting.method.info.group, seed=7)
    if not isinstance(whole, Surrogate):
        return
    bare = setting.method.without_control(whole, setting.state)
    if bare is not None:
        with_control = _total_variance(tape.differentiate(whole, retain_graph=True))
        ratio = with_control / _total_variance(tape.differentiate(bare))
        ensure(
            ratio < 0.97,
            f"trained on 40 batches, its control variates leave {ratio:.2f} of the variance that "
            "there is without them",
        )


def extremes(make: Make) -> None:
    """Random numbers at their extremes (0 and the largest below 1) give finite gradients."""
    for dtype in (torch.float32, torch.float64):
        setting = Setting(make, dtype)
        with _extreme_noise(dtype):
            for k in range(3):
                found, _ = setting.gradients(24, seed=30 + k)
                ensure(
                    bool(found.isfinite().all()),
                    f"a random number of 0, or just below 1, gives a gradient of NaN ({dtype})",
                )
                setting.adapt(24, seed=40 + k)
        numbers = _numbers(bits(setting.state))
        finite = all(np.isfinite(x) for x in numbers)
        ensure(finite, f"extreme random numbers turn what is learned into NaN ({dtype})")


def constant_reward(make: Make) -> None:
    """A constant reward has no gradient on average."""
    flat = FunctionReward(
        lambda tokens: torch.full((len(tokens),), 0.7, dtype=torch.float64),
        lambda weights: 0.7 + 0 * weights.sum(dim=(1, 2)),
    )
    setting = Setting(make, reward=flat)
    if not setting.method.info.unbiased:
        raise NotApplicableError("declared biased")
    setting.reward.mean = 0.0
    for k in range(6):
        setting.adapt(64, seed=10 + k)
    found, _ = setting.gradients(max(64, 1536 // setting.method.info.group))
    mean = found.mean(dim=0)
    error = float((found.var(dim=0).sum() / len(found)).sqrt())
    ensure(
        float(mean.norm()) < SIGNIFICANT * error + 1e-10,
        f"a constant reward has a mean gradient of norm {float(mean.norm()):.3g}, with a standard "
        f"error of {error:.3g}",
    )


def declared_cost(make: Make) -> None:
    """Declared reward evaluations are those that are counted."""
    setting = Setting(make)
    info = setting.method.info
    setting.surrogate(10)
    counted = {"hard": setting.reward.hard_evals, "relaxed": setting.reward.relaxed_evals}
    for kind, evaluated in {"hard": setting.seen.hard, "relaxed": setting.seen.relaxed}.items():
        ensure(
            evaluated == counted[kind],
            f"its {kind} reward evaluations pass by the counter: {evaluated} were made in a call, "
            f"and {counted[kind]} counted; ask the reward that surrogate is given, as it is",
        )
    declared = {"hard": info.hard_evals, "relaxed": info.relaxed_evals}
    for kind, formula in declared.items():
        try:
            sizes = {"T": T, "V": setting.vocabulary, "K": info.group, "n": 10}
            expected = evaluate(formula, sizes)
        except ValueError as error:
            raise BrokenRuleError(f"{kind}_evals: {error}") from None
        seen = counted[kind] / 10
        ensure(
            expected == seen,
            f"it declares {formula} {kind} reward evaluations a draw, which is {expected:g} at "
            f"T = {T}; {seen:g} were counted",
        )
    relaxed = counted["relaxed"] > 0
    ensure(
        relaxed == info.needs_relaxed_reward,
        f"needs_relaxed_reward is {info.needs_relaxed_reward}, and it "
        f"{'asks' if relaxed else 'does not ask'} for relaxed rewards",
    )


def pathwise(make: Make) -> None:
    """Pathwise terms move with the parameters as their gradients say (finite differences).

    Where the gradient is a sum of gradients of log-probabilities, the terms are weights written as
    a loss, such as exp(log p - log p.detach()) A. Their value need not move; the mean judges them.
    """
    setting = Setting(make)
    if _path(setting.surrogate(2)) is None:
        raise NotApplicableError("no pathwise terms: everything is a weight on log-probabilities")
    if setting.method.info.straight_through:
        raise NotApplicableError("its terms are differentiated by another Jacobian, on purpose")
    n, step = 256, 1e-6
    parameters = [p for p in setting.policy.parameters() if p.requires_grad]
    base = _path(setting.surrogate(n))
    assert base is not None
    direction = [torch.randn(p.shape, generator=rng(6), dtype=p.dtype) for p in parameters]
    probe = torch.ones(n, dtype=torch.float64, requires_grad=True)
    grads = torch.autograd.grad(
        (base * probe).sum(), parameters, create_graph=True, materialize_grads=True
    )
    along = sum(((g * d).sum() for g, d in zip(grads, direction, strict=True)), torch.zeros(()))
    (slope,) = torch.autograd.grad(along, probe, retain_graph=True)
    some = torch.stack([_gradient(value, parameters) for value in base[:16]])
    moved = []
    with torch.no_grad():
        for sign in (1, -2):
            for p, d in zip(parameters, direction, strict=True):
                p.add_(d, alpha=sign * step)
            moved.append(setting.surrogate(n))
        for p, d in zip(parameters, direction, strict=True):
            p.add_(d, alpha=step)
    up, down = (_path(m) for m in moved)
    assert up is not None
    assert down is not None
    difference = ((up - down) / (2 * step)).detach()
    # Where a token jumped in between, there is no derivative to compare with.
    same = (moved[0].tokens == moved[1].tokens).flatten(1).all(dim=1)
    gap = float((difference - slope)[same].norm() / (difference[same].norm() + 1e-12))
    if gap < 1e-3:
        return
    if _by_scores(some, setting, parameters):
        raise NotApplicableError(
            "its pathwise terms are weights on log-probabilities, written as a loss"
        )
    size = f"{gap:.0%} off" if gap < 100 else "their values hardly move"
    raise BrokenRuleError(
        f"its pathwise terms change by something else than their gradient ({size}): a part of "
        "them is detached"
    )


def _by_scores(gradients: Tensor, setting: Setting, parameters: Sequence[Tensor]) -> bool:
    """Return whether gradients ``[n, P]`` are sums of gradients of log-probabilities.

    Of any token after any prefix. The gradient of a relaxed sequence is no such sum, for the policy
    is asked there about prefixes that are no tokens.
    """
    sequences = enumerate_sequences(setting.vocabulary, T)
    log_probs = setting.policy.log_probs(sequences)
    scores = torch.stack(
        [
            _gradient(value, parameters)
            for t in range(T)
            for value in log_probs[(sequences[:, t:] == 0).all(dim=1), t].flatten()
        ]
    )
    weights = torch.linalg.lstsq(scores.t(), gradients.t(), driver="gelsd").solution
    rest = gradients - weights.t() @ scores
    return float(rest.norm()) < 1e-6 * float(gradients.norm())


def _gradient(value: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    found = torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in found])


def _path(found: Draws) -> Tensor | None:
    """Return the pathwise terms; None where there are none."""
    return found.pathwise if isinstance(found, Surrogate) else None


def _global_states() -> tuple[list[int], object, list[int]]:
    numpy_state: Any = np.random.get_state()
    return torch.get_rng_state().tolist(), random.getstate(), numpy_state[1].tolist()


def _modules(state: Any, path: str = "state") -> dict[str, nn.Module]:
    if isinstance(state, nn.Module):
        return {path: state}
    found: dict[str, nn.Module] = {}
    if isinstance(state, dict):
        for key, value in state.items():
            found |= _modules(value, f"{path}.{key}")
    return found


def _numbers(state: Any) -> list[float]:
    if isinstance(state, dict):
        return [x for v in state.values() for x in _numbers(v)]
    if isinstance(state, list):
        return [x for v in state for x in _numbers(v)]
    return [float(state)] if isinstance(state, int | float) else []


def _variance(setting: Setting) -> float:
    draws = max(16, 2048 // setting.method.info.group)
    return float(setting.gradients(draws, seed=7)[0].var(dim=0).sum())


def _total_variance(found: DrawGradients) -> float:
    return float(torch.cat(list(found.chunks())).var(dim=0).sum())


@contextmanager
def _extreme_noise(dtype: torch.dtype) -> Iterator[None]:
    largest = 1 - torch.finfo(dtype).eps / 2

    def made(generator: torch.Generator, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        u = torch.rand(tuple(shape), generator=generator, dtype=dtype)
        picked = torch.randint(3, tuple(shape), generator=generator)
        u = torch.where(picked == 0, torch.zeros_like(u), u)
        u = torch.where(picked == 1, torch.full_like(u, largest), u)
        u[0] = 0.0
        u[-1] = largest
        return u

    with mock.patch.object(noise, "uniform", made):
        yield


RULES: dict[str, Callable[[Make], None]] = {
    "contract": contract,
    "same seed, same bits": same_bits,
    "no global noise": no_global_noise,
    "other seeds, other draws": other_seeds,
    "alone or beside others": alone_or_beside,
    "one reward, one draw": one_reward,
    "independent draws": independent,
    "draws from the policy": draws_from_the_policy,
    "fixed while drawn": fixed_while_drawn,
    "learns": learns,
    "learned gradients": learned_gradients,
    "learning helps": learning_helps,
    "extreme random numbers": extremes,
    "constant reward": constant_reward,
    "declared cost": declared_cost,
    "pathwise terms": pathwise,
}

FROM_POLICY = "draws from the policy"
EXCUSED = {FROM_POLICY, "pathwise terms"}
"""Rules that may be broken on purpose: importance weights correct for another sampler, and a loss
may hold detached parts. Where the mean is proven, breaking them is no fault."""


@dataclass(frozen=True)
class ConductFinding:
    """Whether a rule was kept.

    Attributes:
      rule: Its name in ``RULES``.
      kept: Whether it was kept; None where it does not apply.
      detail: What was seen where it was not kept, or why it does not apply.
    """

    rule: str
    kept: bool | None
    detail: str = ""


def conduct(make: Make, rules: Sequence[str] | None = None) -> list[ConductFinding]:
    """Return a finding for each of some rules, all if None; never raises."""
    return [kept(make, rule) for rule in rules or RULES]


def kept(make: Make, rule: str) -> ConductFinding:
    """Return the finding on a rule, by its name; never raises."""
    return attempt(lambda: _tried(make, rule), partial(ConductFinding, rule, False))


def _tried(make: Make, rule: str) -> ConductFinding:
    try:
        RULES[rule](make)
    except NotApplicableError as reason:
        return ConductFinding(rule, None, str(reason))
    except BrokenRuleError as reason:
        return ConductFinding(rule, False, str(reason))
    return ConductFinding(rule, True)

"""Whether an estimator's tokens are draws from the policy, as it declares by default."""

from __future__ import annotations

import copy
import math

import torch

from estbench.estimators.base import Estimator
from estbench.estimators.formula import evaluate
from estbench.meter.world import TOKENS, sampler_fault
from estbench.models.policy import Policy
from estbench.proof.rewards import rng
from estbench.proof.setting import BrokenRuleError, Make, NotApplicableError, Setting, T, V

__all__ = ["draws_from_the_policy"]

WIDE = 60  # tokens: top-k = 50 and top-p cut nothing off a small vocabulary
DEAREST = 32.0  # reward evaluations a sequence, up to which the wide vocabulary is tried
MOVE = 0.5  # deviation of what every parameter is moved by between two calls
SEEDS = (4, 5)  # a fault has to be seen twice: each test alone has a false alarm in a thousand


def draws_from_the_policy(make: Make) -> None:
    """Tokens are drawn from the policy's probabilities, as they are at the time of the call.

    Three ways to be wrong are tried: on a small vocabulary, on a wide one, and after the policy
    has moved between two calls.
    """
    info = make().info
    if info.sampler != "policy":
        raise NotApplicableError(f"its tokens come from another sampler: {info.sampler}")
    for vocabulary in (V, WIDE):
        if vocabulary == WIDE and not _affordable(make()):
            continue
        setting = Setting(make, vocabulary=vocabulary)
        if fault := _fault(setting, setting.policy):
            raise BrokenRuleError(f"with a vocabulary of {setting.vocabulary}, it {fault}")
    setting = Setting(make)
    setting.gradients(2)
    setting.adapt(16)
    before = copy.deepcopy(setting.policy)
    with torch.no_grad():
        for k, p in enumerate(setting.policy.parameters()):
            p.add_(torch.randn(p.shape, generator=rng(100 + k), dtype=p.dtype), alpha=MOVE)
    if fault := _fault(setting, setting.policy):
        if not _fault(setting, before):
            fault = "draws from the policy as it was before its last update (a stale copy)"
        raise BrokenRuleError(f"once the policy has moved, it {fault}")


def _affordable(method: Estimator) -> bool:
    """Return whether an estimator takes the wide vocabulary, at a bearable number of rewards."""
    if method.refusal(WIDE, T):
        return False
    info = method.info
    sizes = {"T": T, "V": WIDE, "K": info.group, "n": TOKENS}
    try:
        evaluations = evaluate(info.hard_evals, sizes) + evaluate(info.relaxed_evals, sizes)
    except ValueError:
        return False  # "declared cost" says what is wrong with the formula
    return evaluations / info.group <= DEAREST


def _fault(setting: Setting, policy: Policy) -> str:
    """Return how the tokens differ from draws of a policy, or ""."""
    draws = math.ceil(TOKENS / T / setting.method.info.group)
    fault = ""
    for seed in SEEDS:
        tokens = setting.surrogate(draws, seed).tokens.reshape(-1, T)
        # The test's own noise must not be the noise that drew the tokens.
        fault = sampler_fault(policy, tokens, rng(90_000 + seed), remedy="")
        if not fault:
            return ""
    return fault

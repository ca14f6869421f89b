"""Faults that only prompts, ends and a penalty show are found on `arithmetic-tiny`."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from torch import Tensor

from estbench.config.presets import preset
from estbench.estimators import make
from estbench.meter.bias import BiasResult, Centred, Plan, bias_test
from estbench.meter.truth import true_gradient
from estbench.models.prompted_transformer import PromptedTransformer
from estbench.tasks.arithmetic import ArithmeticStage
from estbench.training.session import prepare

EXPERIMENT = preset("language")
MARGIN = 0.1


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def moved(policy: PromptedTransformer, scale: float, seed: int) -> None:
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=rng(seed))


@cache
def problem() -> tuple[ArithmeticStage, PromptedTransformer, Centred, list[Tensor]]:
    """Return the task as trained a little away from where it started, and its exact gradient."""
    stage = prepare(EXPERIMENT, "arithmetic-tiny", 0).stage
    assert isinstance(stage, ArithmeticStage)
    older = copy.deepcopy(stage.policy).requires_grad_(False)
    moved(stage.policy, 0.03, 1)
    stage.policy.contexts.values = stage.task.prompts
    gradient = true_gradient(stage.policy, stage.reward, 2, rng()).gradient
    mean = float(stage.reward(stage.policy.sample(80_000, rng(2))).mean())
    return stage, older, Centred(stage.reward, mean), gradient


def judged(name: str) -> BiasResult:
    stage, older, reward, gradient = problem()
    method = make(name)
    learned = method.initial_state(stage.policy, rng(3))
    if "past" in learned and isinstance(learned["past"], list):
        learned["past"] = [older] * len(learned["past"])
    plan = Plan(first=16_384, growth=4, margin=MARGIN)
    return bias_test(method, stage.policy, reward, gradient, rng(4), learned, plan)


@pytest.mark.parametrize("name", ["dr-grpo-2", "kl-k1"])
def test_half_a_gradient_and_a_penalty_left_out_are_found(name: str) -> None:
    found = judged(name)
    assert found.verdict == "biased", str(found)

"""estbench's Adam: torch's numbers without torch's compiler."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from estbench.models.adam import Adam


def trained(kind: type[torch.optim.Adam], **options: Any) -> list[torch.Tensor]:
    """Return the parameters after some steps, with a pause in which the state is put back."""
    rng = torch.Generator().manual_seed(0)
    parameters = [torch.randn(4, 3, generator=rng), torch.randn(5, generator=rng)]
    groups = [{"params": [parameters[0]]}, {"params": [parameters[1]], "lr": 0.2}]
    optimiser = kind(groups, lr=0.1, **options)
    for index in range(6):
        if index == 3:
            kept, optimiser = optimiser.state_dict(), kind(groups, **options)
            optimiser.load_state_dict(kept)
        optimiser.zero_grad()
        assert all(p.grad is None for p in parameters)
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=rng)
        optimiser.step()
    return parameters


@pytest.mark.parametrize("options", [{}, {"fused": True}, {"amsgrad": True, "weight_decay": 0.1}])
def test_its_numbers_are_torchs_to_the_last_bit(options: dict[str, Any]) -> None:
    for mine, theirs in zip(
        trained(Adam, **options), trained(torch.optim.Adam, **options), strict=True
    ):
        assert torch.equal(mine, theirs)


def test_hooks_for_all_optimisers_hear_of_its_steps() -> None:
    """The check of estimators looks at what is trained through such hooks."""
    heard = []
    hook = register_optimizer_step_post_hook(
        lambda optimiser, args, kwargs: heard.append(optimiser)
    )
    parameter = torch.zeros(1)
    parameter.grad = torch.ones(1)
    optimiser = Adam([parameter])
    optimiser.step()
    hook.remove()
    assert heard == [optimiser]


def test_a_method_that_torch_wraps_in_another_way_stays_wrapped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from estbench.models import adam

    wrapped = torch.optim.Optimizer.zero_grad
    assert adam._bare(wrapped) is not wrapped
    monkeypatch.setattr(adam, "WRAPPERS", {"something else"})
    assert adam._bare(wrapped) is wrapped


@pytest.mark.slow
def test_training_does_not_load_torchs_compiler() -> None:
    code = """
import sys, torch
from estbench.estimators import make
from estbench.meter.step import measured_step
from estbench.models.adam import Adam
from estbench.models.build import build
from estbench.models.reward import Reward
from estbench.training.pretraining import pretrain

policy, discriminator = build(5, 3)
rng = torch.Generator().manual_seed(0)
pretrain(policy, torch.zeros(8, 3, dtype=torch.int64), 1, 4, 1e-3, rng, clip=5.0)
optimiser = Adam(policy.parameters(), fused=True)
method = make("relax")
state = method.initial_state(policy, rng)
measured_step(method, policy, Reward(discriminator), 8, rng, state, optimiser, clip=5.0)
print(*sys.modules)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torch" in out.stdout.split()
    assert "torch._dynamo" not in out.stdout.split()

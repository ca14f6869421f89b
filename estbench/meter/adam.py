"""The metric in which Adam sees a gradient: P = 1 / (sqrt v + eps), from the moments it holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

__all__ = ["metric", "moments_of"]

KEPT = ("exp_avg", "exp_avg_sq")


def moments_of(optimiser: torch.optim.Optimizer, policy: nn.Module) -> dict[str, Any] | None:
    """Return copies of the moments that Adam holds of a policy; None before its first step.

    Returns:
      ``exp_avg`` and ``exp_avg_sq`` (a tensor for each parameter, in the policy's order), ``step``
      (steps taken), and the optimiser's ``lr``, ``betas`` and ``eps``.
    """
    parameters = list(policy.parameters())
    if not all(optimiser.state.get(p) for p in parameters):
        return None
    states = [optimiser.state[p] for p in parameters]
    settings = optimiser.param_groups[0]
    return {
        **{name: [state[name].detach().clone().cpu() for state in states] for name in KEPT},
        "step": int(states[0]["step"]),
        "lr": float(settings["lr"]),
        # A tuple of its own: a file whose bytes count tells shared ones from equal ones.
        "betas": tuple(float(beta) for beta in settings["betas"]),
        "eps": float(settings["eps"]),
    }


def metric(moments: Mapping[str, Any] | None, device: str = "cpu") -> list[torch.Tensor] | None:
    """Return the diagonal P of Adam's metric, a float64 tensor for each parameter.

    v is corrected for its start at 0, as Adam does (Kingma and Ba 2015, algorithm 1).

    Args:
      moments: What ``moments_of`` returned; where it is None, so is the metric.
      device: Where the tensors go.
    """
    if moments is None:
        return None
    correction = 1 - moments["betas"][1] ** moments["step"]
    seconds = (v.double().to(device) / correction for v in moments["exp_avg_sq"])
    return [1 / (v.sqrt() + moments["eps"]) for v in seconds]

"""What a run records batch by batch: metrics of the training batch, and curves of all metrics."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from estbench.estimators.base import Draws
from estbench.meter.gradients import DrawGradients
from estbench.meter.moments import total_variance
from estbench.tasks.base import Task
from estbench.training.state_dict import Stateful

__all__ = ["Curves", "output_bias_draws", "step_metrics", "variance_metrics"]


def step_metrics(
    gradients: DrawGradients, surrogate: Draws, group: int, task: Task
) -> dict[str, float]:
    """Return what the training batch itself says about the gradient.

    ``total_variance`` is tr Cov of a draw times its number of sequences: per sequence, so that
    groups compare. ``bias_element_variance`` is the paper's quantity, the variance over the batch
    of one element, the output bias of the token x, likewise per sequence.
    """
    metrics = {
        **variance_metrics(total_variance(gradients) * group),
        "mean_norm2": float(sum((m.double() ** 2).sum() for m in gradients.mean())),
        "reward_mean": float(surrogate.rewards.double().mean()),
    }
    if task.paper_token is not None and gradients.draws > 1:
        element = output_bias_draws(gradients)[:, task.paper_token].double()
        metrics["bias_element_variance"] = float(element.var()) * group
        metrics["log_bias_element_variance"] = _log(metrics["bias_element_variance"])
    return metrics


def variance_metrics(variance: float) -> dict[str, float]:
    """Return the variance per sequence, and its logarithm."""
    return {"total_variance": variance, "log_variance": _log(variance)}


def output_bias_draws(gradients: DrawGradients) -> Tensor:
    """Return every draw's gradient of the generator's output bias, ``[n, V]``."""
    return gradients.tensor("output.bias")


def _log(value: float) -> float:
    return math.log(value) if value > 0 else math.nan


class Curves(Stateful):
    """Metrics by batch; a metric that is not evaluated at a batch is None there."""

    changing = ("steps", "evals", "seconds", "metrics")

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.evals: list[int] = []
        self.seconds: list[float] = []
        self.metrics: dict[str, list[float | None]] = {}

    def add(self, step: int, evals: int, seconds: float, metrics: dict[str, float]) -> None:
        """Add a batch."""
        for name in metrics:
            if name not in self.metrics:
                self.metrics[name] = [None] * len(self.steps)
        self.steps.append(step)
        self.evals.append(evals)
        self.seconds.append(seconds)
        for name, values in self.metrics.items():
            value = metrics.get(name)
            values.append(value if value is not None and math.isfinite(value) else None)

    def payload(self) -> dict[str, Any]:
        """Return the curves as JSON holds them."""
        return {
            "step": self.steps,
            "reward_evals": self.evals,
            "seconds": self.seconds,
            "metrics": self.metrics,
        }

    def final(self) -> dict[str, float | None]:
        """Return each metric's last value."""
        last = {}
        for name, values in self.metrics.items():
            known = [v for v in values if v is not None]
            last[name] = known[-1] if known else None
        return last

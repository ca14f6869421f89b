"""The toy on which REBAR and RELAX were introduced: minimise E (b - t)^2 over a Bernoulli's logit.

Tucker et al. (2017) took t = .45, Grathwohl et al. (2018, figure 1) t = .499. For t < 1/2 the best
b is 0, and the nearer t is to 1/2 the less is gained by it: the gradient is
(1 - 2t) theta (1 - theta), while a draw of REINFORCE is of the size of t^2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from estbench.config.experiment import TrainingSettings
from estbench.core.registry import register
from estbench.models.factorised import FactorisedPolicy
from estbench.models.policy import Policy
from estbench.tasks.declaring import ENTROPY, MetricInfo, TaskInfo
from estbench.tasks.fixed import FixedRewardTask

__all__ = ["TARGETS", "BernoulliTask"]

TARGETS = {
    "bernoulli": (0.499,),
    "bernoulli-49": (0.49,),
    "bernoulli-45": (0.45,),
    "bernoullis": (0.45, 0.49, 0.499, 0.501, 0.51, 0.55),
}


METRICS = {
    "loss": MetricInfo("loss E (b - t)²", "", "lower"),
    "excess_loss": MetricInfo("loss above the least", "", "lower"),
    "theta": MetricInfo("θ of the worse outcome", "", "lower"),
    "entropy": ENTROPY,
}


@register
class BernoulliTask(FixedRewardTask):
    """T independent Bernoullis, the loss a sum over them; everything about it is exact.

    Args:
      info: One of ``members``.
      seed: Is not used.
      data_size: Is not used.

    Attributes:
      targets: t of each Bernoulli, float64 ``[T]``.
      best: The sequence of least loss, int64 ``[T]``: 0 for t < 1/2, else 1.
    """

    members = tuple(
        TaskInfo(name, summary, 2, len(TARGETS[name]), "theta", METRICS)
        for name, summary in (
            ("bernoulli", "the REBAR and RELAX toy: E (b - t)^2, one Bernoulli, t = .499"),
            ("bernoulli-49", "the same, t = .49"),
            ("bernoulli-45", "the same, t = .45"),
            ("bernoullis", "six Bernoullis, a target each, from .45 to .55: their sum"),
        )
    )

    def __init__(self, info: TaskInfo, seed: int, data_size: int) -> None:
        self.info = info
        self.tokens = ("0", "1")
        self.targets = torch.tensor(TARGETS[info.name], dtype=torch.float64)
        self.best = (self.targets > 0.5).to(torch.int64)
        self.train = self.heldout = self.best.unsqueeze(0)

    def start(self, settings: TrainingSettings) -> Policy:
        """Return a policy of T logits, all 0."""
        made = FactorisedPolicy(2, self.length, bias=False)
        torch.nn.init.zeros_(made.logits.weight)
        return made

    def reward(self, sequences: Tensor) -> Tensor:
        """Return minus the loss, ``[n]``, of tokens int64 ``[n, T]`` or weights ``[n, T, 2]``."""
        b = sequences[..., 1] if sequences.is_floating_point() else sequences.to(torch.float32)
        return -((b - self.targets.to(b)) ** 2).sum(dim=1)

    @torch.no_grad()
    def full_quality(self, policy: Policy, rng: torch.Generator) -> dict[str, float]:
        """Return the expected loss, what of it is too much, the mean theta and the entropy."""
        log_p = policy.log_probs(torch.zeros(1, self.length, dtype=torch.int64))[0].double().cpu()
        p = log_p.exp()
        losses = torch.stack([self.targets**2, (1 - self.targets) ** 2], dim=1)
        excess = losses - losses.min(dim=1, keepdim=True).values
        worse = p.gather(1, 1 - self.best.unsqueeze(1))
        return {
            "loss": float((p * losses).sum()),
            "excess_loss": float((p * excess).sum()),
            "theta": float(worse.mean()),
            "entropy": float(-(p * log_p).sum(dim=1).mean()),
        }

"""Coupled tokens at every position: ARM, DisARM (U2G) and CARMS.

Each compares tokens that were drawn together after the same prefix, so that what the prefix is
worth cancels; see ``per_step`` for sequences and ``coupling`` for the joint laws.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from estbench.estimators.base import EstimatorInfo, register
from estbench.estimators.coupling import antithetic_sticks
from estbench.estimators.per_step import PerStep, declared_evals
from estbench.models.policy import Policy

__all__ = ["Arm", "Coupled", "pairwise"]


def pairwise(
    log_probs: Tensor, options: Tensor, values: Tensor, ratios: Tensor
) -> tuple[Tensor, Tensor]:
    """Return l of the options ``[n, T, K]`` and their weights in ``coupling``'s g.

    Args:
      log_probs: l with its graph ``[n, T, V]``.
      options: Tokens ``[n, T, K]``.
      values: Estimates of their Q ``[n, T, K]``.
      ratios: r ``[n, T, K, K]``.
    """
    K = options.shape[2]
    gaps = values.unsqueeze(3) - values.unsqueeze(2)
    return log_probs.gather(2, options), (ratios * gaps).sum(dim=3) / (K * (K - 1))


class Arm(PerStep):
    """g = sum_t [Q_t(b'_t) - Q_t(b_t)] (u_t - 1/2) grad phi_t, for V = 2.

    phi = l(1) - l(0), b = 1[u < sigma(phi)], b' = 1[u > sigma(-phi)]: the same uniform, read from
    its two ends. Yin and Zhou 2019, theorem 1, at every position, with Q of both tokens by
    rollouts. Unbiased. Needs two tokens and hard rewards.

    Args:
      rollouts: Completions N of each token; 0 for one.
    """

    def __init__(self, rollouts: int = 0) -> None:
        super().__init__(rollouts)
        self.info = EstimatorInfo(
            name="arm",
            summary="ARM at every position: two tokens from u and 1 - u (V = 2)",
            source="Yin & Zhou 2019, theorem 1",
            baseline="coupled tokens",
            hard_evals=declared_evals(2, self.rollouts),
        )

    def refusal(self, vocabulary: int, length: int) -> str:
        if vocabulary == 2:
            return ""
        return f"arm is for V = 2 tokens, not {vocabulary}: disarm takes any number"

    def options(self, vocabulary: int) -> int:
        return 2

    def noise(self, policy: Policy) -> tuple[int, ...]:
        return (1,)

    def choose(self, log_probs: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        theta = log_probs[:, 1:].exp()
        tokens = torch.cat([uniforms < theta, uniforms > 1 - theta], dim=1).long()
        return tokens, uniforms - 0.5

    def weights(
        self, log_probs: Tensor, options: Tensor, values: Tensor, remembered: Tensor
    ) -> tuple[Tensor, Tensor]:
        slope = (values[:, :, 1:] - values[:, :, :1]) * remembered
        return log_probs, torch.cat([-slope, slope], dim=2)


class Coupled(PerStep):
    """g = sum_t 1 / (K (K - 1)) sum_{i != j} r_ij [Q_t(z_i) - Q_t(z_j)] grad l_t(z_i).

    z_1..z_K come from antithetic stick-breaking at every position; see ``coupling`` for r. K = 2 is
    DisARM's importance-weighted form for categoricals (Dong, Mnih and Tucker 2021, section 3),
    which for V = 2 is DisARM itself, 1/2 [Q(b) - Q(b~)] (-1)^b~ 1[b != b~] sigma(|phi|) (Dong,
    Mnih and Tucker 2020, section 3), also known as U2G (Yin et al. 2020). K > 2 is CARMS
    (Dimitriev and Zhou 2021b), with sticks in place of its inverse CDF, whose pairs have gaps for
    some p; for V = 2 that is ARMS (Dimitriev and Zhou 2021a). Unbiased. Needs hard rewards.

    Args:
      name: Name in the catalogue.
      count: Tokens K at a position, at least 2.
      rollouts: Completions N of each token; 0 for one.
      summary: One line for the catalogue.
      source: Paper and equation.
    """

    def __init__(
        self, name: str, count: int, rollouts: int = 0, summary: str = "", source: str = ""
    ) -> None:
        super().__init__(rollouts)
        self.count = count
        self.info = EstimatorInfo(
            name=name,
            summary=summary,
            source=source,
            baseline="coupled tokens",
            hard_evals=declared_evals(count, self.rollouts),
        )

    def options(self, vocabulary: int) -> int:
        return self.count

    def noise(self, policy: Policy) -> tuple[int, ...]:
        return (policy.vocabulary - 1, 1 if self.count == 2 else self.count)

    def choose(self, log_probs: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        return antithetic_sticks(log_probs, uniforms, self.count)

    def weights(
        self, log_probs: Tensor, options: Tensor, values: Tensor, remembered: Tensor
    ) -> tuple[Tensor, Tensor]:
        return pairwise(log_probs, options, values, remembered)


register(Arm)
register(
    partial(
        Coupled,
        "disarm",
        2,
        summary="DisARM (U2G) at every position: two antithetic tokens by stick-breaking",
        source="Dong, Mnih & Tucker 2021, section 3",
    )
)
register(
    partial(
        Coupled,
        "carms",
        4,
        summary="CARMS at every position: four jointly antithetic tokens",
        source="Dimitriev & Zhou 2021, CARMS; its pairs by sticks",
    )
)

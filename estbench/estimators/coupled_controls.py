"""Negative control of the coupled family: a coupling that leaves pairs of tokens out."""

from __future__ import annotations

from torch import Tensor

from estbench.estimators.base import EstimatorInfo, register
from estbench.estimators.coupled import pairwise
from estbench.estimators.coupling import inverse_cdf_pair
from estbench.estimators.per_step import PerStep, declared_evals
from estbench.models.policy import Policy

__all__ = ["InverseCdfPair"]


class InverseCdfPair(PerStep):
    """DisARM's importance-weighted form with the tokens that u and 1 - u pick from p's CDF.

    Every pair that comes is weighted by p(z) p(z') / p(z, z'), but with three tokens or more some
    pairs never come (the first two of three equally likely ones, say): their terms are missing.
    With two tokens there is no gap, and this is DisARM.

    Args:
      rollouts: Completions N of each token; 0 for one.
    """

    def __init__(self, rollouts: int = 0) -> None:
        super().__init__(rollouts)
        self.info = EstimatorInfo(
            name="biased-inverse-cdf",
            summary="negative control: DisARM with the pair of tokens from u and 1 - u",
            source="Dong, Mnih & Tucker 2021, section 3, with another coupling",
            unbiased=False,
            why_biased="some pairs of tokens never come",
            control=True,
            baseline="coupled tokens",
            hard_evals=declared_evals(2, self.rollouts),
        )

    def options(self, vocabulary: int) -> int:
        return 2

    def noise(self, policy: Policy) -> tuple[int, ...]:
        return (1,)

    def choose(self, log_probs: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        return inverse_cdf_pair(log_probs, uniforms)

    def weights(
        self, log_probs: Tensor, options: Tensor, values: Tensor, remembered: Tensor
    ) -> tuple[Tensor, Tensor]:
        return pairwise(log_probs, options, values, remembered)


register(InverseCdfPair)

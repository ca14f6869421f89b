"""ARSM: one point on the simplex, and the tokens it picks when two of its entries are swapped."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from estbench.core import noise
from estbench.estimators.base import EstimatorInfo, register
from estbench.estimators.per_step import PerStep
from estbench.models.policy import Policy

__all__ = ["Arsm"]

MOST = 16  # tokens: 120 completions a position


class Arsm(PerStep):
    """g = sum_t sum_c w_tc grad l_t(c), w_c = 1/V sum_j [F_cj - 1/V sum_m F_mj] (1 - V pi_j).

    pi ~ Dir(1_V), b = argmin_i (log pi_i - l_i), and F_cj estimates Q of the token that pi picks
    with its entries c and j swapped (the sequence's own where c = j). Yin, Yue and Zhou 2019,
    at every position, with Q by rollouts; for V = 2 it is ARM. Swaps that pick the same
    token share the mean of their completions. Unbiased. Needs hard rewards, and V (V - 1) / 2
    completions a position, so that it refuses vocabularies beyond 16.

    Args:
      rollouts: Completions N of each swap; 0 for one.
    """

    def __init__(self, rollouts: int = 0) -> None:
        super().__init__(rollouts)
        N = self.rollouts
        each = f"({N}(V(V - 1)/2 + 1) - 1)" if N > 1 else "V(V - 1)/2"
        self.info = EstimatorInfo(
            name="arsm",
            summary="ARSM at every position: a point of the simplex with its entries swapped",
            source="Yin, Yue & Zhou 2019",
            baseline="coupled tokens",
            hard_evals=f"1 + {each} T" if N > 1 else "1 + T V(V - 1)/2",
        )

    def refusal(self, vocabulary: int, length: int) -> str:
        if vocabulary <= MOST:
            return ""
        evals = 1 + vocabulary * (vocabulary - 1) // 2 * length * self.rollouts
        return (
            f"arsm needs V(V - 1)/2 evaluations a position, {evals:,} a draw at V = {vocabulary} "
            f"and T = {length}: it is for V up to {MOST}; disarm takes any number"
        )

    def options(self, vocabulary: int) -> int:
        return 1 + vocabulary * (vocabulary - 1) // 2

    def noise(self, policy: Policy) -> tuple[int, ...]:
        return (policy.vocabulary,)

    def choose(self, log_probs: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        pi = noise.exponential(uniforms)
        pi = pi / pi.sum(dim=1, keepdim=True)
        swaps, _ = swapped(log_probs.shape[1])
        logs = pi.clamp_min(torch.finfo(pi.dtype).tiny).log()
        return (logs[:, swaps] - log_probs.unsqueeze(1)).argmin(dim=2), pi

    def weights(
        self, log_probs: Tensor, options: Tensor, values: Tensor, remembered: Tensor
    ) -> tuple[Tensor, Tensor]:
        V = log_probs.shape[2]
        _, place = swapped(V)
        table = values[:, :, place]
        gaps = table - table.mean(dim=2, keepdim=True)
        # They sum to 0 over c, so that weights on l are weights on the logits.
        return log_probs, (gaps * (1 - V * remembered).unsqueeze(2)).mean(dim=3)


def swapped(vocabulary: int) -> tuple[Tensor, Tensor]:
    """Return permutations ``[K, V]``, the identity first, and where the swap of c and j stands."""
    pairs = list(combinations(range(vocabulary), 2))
    swaps = torch.arange(vocabulary).repeat(1 + len(pairs), 1)
    place = torch.zeros(vocabulary, vocabulary, dtype=torch.int64)
    for k, (c, j) in enumerate(pairs, start=1):
        swaps[k, c], swaps[k, j] = j, c
        place[c, j] = place[j, c] = k
    return swaps, place


register(Arsm)

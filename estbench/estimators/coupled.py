"""Coupled tokens at every position: ARM, DisARM (U2G), CARMS and ARSM.

Each compares tokens that were drawn together after the same prefix, so that what the prefix is
worth cancels; see ``per_step`` for sequences and ``coupling`` for the joint laws.
"""

from __future__ import annotations

from functools import partial
from itertools import combinations

import torch
from torch import Tensor

from estbench.core import noise
from estbench.estimators.base import EstimatorInfo, register
from estbench.estimators.coupling import antithetic_sticks
from estbench.estimators.per_step import PerStep, declared_evals
from estbench.models.policy import Policy

__all__ = ["Arm", "Arsm", "Coupled", "pairwise", "swapped"]

MOST = 16  # tokens of ARSM: 120 completions a position


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


_disarm = "DisARM (U2G) at every position: two antithetic tokens by stick-breaking"
_carms = "CARMS at every position: four jointly antithetic tokens"
_dong = "Dong, Mnih & Tucker 2021, section 3"
_dimitriev = "Dimitriev & Zhou 2021, CARMS; its pairs by sticks"
for _member in (
    Arsm,
    Arm,
    partial(Coupled, "disarm", 2, summary=_disarm, source=_dong),
    partial(Coupled, "carms", 4, summary=_carms, source=_dimitriev),
):
    register(_member)

"""The exact gradient, by listing every sequence: no noise, the floor of every comparison.

    g = sum over all b of p(b) (f(b) - E f) grad log p(b)

It is what the others estimate, wherever there are few enough sequences; elsewhere it refuses.
"""

from __future__ import annotations

import torch
from torch import Tensor

from estbench.core.errors import UserError
from estbench.estimators.base import (
    Direct,
    Estimator,
    EstimatorInfo,
    Learned,
    Reward,
    Section,
    register,
)
from estbench.models.enumeration import LARGEST, enumerate_sequences
from estbench.models.policy import Policy, at_tokens

__all__ = ["ExactGradient"]

CHUNK = 2048  # sequences at a time


@register
class ExactGradient(Estimator):
    """g = sum_s f(s) grad p(s), the exact gradient as a sum over all V^T sequences s.

    That is theorem 1 of Sutton et al. 2000, written out.
    Every draw of a call is the same gradient, which is computed once, with V^T hard evaluations.
    The sequences that it reports are drawn from the policy, for people to look at; their rewards
    are among those evaluated.
    """

    section = Section.WITHOUT_DERIVATIVE
    hue = "rloo"

    info = EstimatorInfo(
        name="exact",
        summary="the exact gradient, a sum over all sequences: no variance, the floor of figures",
        source="Sutton et al. 2000, theorem 1",
        baseline="mean",
        hard_evals="V^T / n",
        version=2,  # 1 left a little of rounding where all rewards are equal
    )

    without_contexts = "it lists the sequences of one policy, not of one a context"

    def refusal(self, vocabulary: int, length: int) -> str:
        if vocabulary**length <= LARGEST:
            return ""
        return f"exact lists V^T = {vocabulary}^{length} sequences, more than {LARGEST:,}"

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: Learned
    ) -> Direct:
        """All draws are the same."""
        if policy.contexts is not None:
            raise UserError(f"exact: {self.without_contexts}")
        V, T = policy.vocabulary, policy.length
        sequences = enumerate_sequences(V, T).to(policy.device)
        parts = torch.split(sequences, CHUNK)
        with torch.no_grad():
            f = torch.cat([reward(part) for part in parts])
            p = torch.cat([_log_p(policy, part) for part in parts]).double().exp()
            p = p / p.sum()
            # A constant has no gradient: of equal rewards not even rounding must be left.
            gaps = f.double() - f[0].double()
            weights = (p * (gaps - p @ gaps)).to(policy.dtype)
        tokens = policy.sample(draws, rng)
        place = V ** torch.arange(T - 1, -1, -1, device=tokens.device)
        rewards = f[(tokens * place).sum(dim=1)]
        parameters = [q for q in policy.parameters() if q.requires_grad]
        gradient = [torch.zeros_like(q) for q in parameters]
        with torch.enable_grad():
            for part, weight in zip(parts, torch.split(weights, CHUNK), strict=True):
                total = (_log_p(policy, part) * weight).sum()
                found = torch.autograd.grad(total, parameters, materialize_grads=True)
                gradient = [a + b for a, b in zip(gradient, found, strict=True)]

        def gradients(start: int, stop: int) -> list[Tensor]:
            return [g.unsqueeze(0).expand(stop - start, *g.shape) for g in gradient]

        return Direct(draws, gradients, tokens.unsqueeze(1), rewards.unsqueeze(1))


def _log_p(policy: Policy, sequences: Tensor) -> Tensor:
    """Return log p(b) ``[n]`` of sequences ``[n, T]``."""
    return at_tokens(policy.log_probs(sequences), sequences).sum(dim=1)

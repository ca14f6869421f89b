"""Estimators whose variance is known in closed form on small problems, to hold the meter against.

They are written from their papers' equations, for problems of one token or of few sequences, and
are no part of the catalogue. All keep the contract: the gradient of value i is draw i.
"""

from __future__ import annotations

from itertools import combinations, permutations
from typing import Any

import torch
from torch import Tensor

from estbench.core import noise
from estbench.estimators.base import Estimator, EstimatorInfo, Reward, Surrogate
from estbench.estimators.gumbel import one_hot
from estbench.meter.exact import enumerate_sequences
from estbench.models.policy import Policy, choose_by_uniform

State = dict[str, Any]


class Arm(Estimator):
    """g = [f(b') - f(b)] (u - 1/2), b' = 1[u > sigma(-phi)], b = 1[u < sigma(phi)].

    For one Bernoulli of logit phi. Yin and Zhou 2019, theorem 1.
    """

    info = EstimatorInfo("arm", "ARM", "Yin & Zhou 2019, theorem 1", group=2, hard_evals="2")

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: State
    ) -> Surrogate:
        """See ``Estimator.surrogate``; a draw is one antithetic pair."""
        u = noise.uniforms(rng, draws, {"u": ()}, policy.dtype)["u"]
        log_probs = _only(policy, draws)
        theta = log_probs[:, 1].detach().exp()
        pair = torch.stack([u > 1 - theta, u < theta], dim=1).long()
        rewards = reward(pair.reshape(-1, 1)).reshape(draws, 2)
        slope = self.slope(pair, rewards, u, theta)
        # l_1 - l_0 is the logit itself.
        weights = torch.stack([-slope, slope], dim=1)
        return Surrogate(log_probs, weights, pair.unsqueeze(2), rewards)

    def slope(self, pair: Tensor, rewards: Tensor, u: Tensor, theta: Tensor) -> Tensor:
        """Return the draws' derivatives in the logit ``[n]``, for pairs (b', b) ``[n, 2]``."""
        return (rewards[:, 0] - rewards[:, 1]) * (u - 0.5)


class DisArm(Arm):
    """g = 1/2 [f(b') - f(b)] (-1)^b 1[b' != b] sigma(|phi|): ARM's mean given the pair.

    Dong, Mnih and Tucker 2020, section 3.
    """

    info = EstimatorInfo(
        "disarm", "DisARM", "Dong, Mnih & Tucker 2020, section 3", group=2, hard_evals="2"
    )

    def slope(self, pair: Tensor, rewards: Tensor, u: Tensor, theta: Tensor) -> Tensor:
        """See ``Arm.slope``."""
        sign = 1.0 - 2.0 * pair[:, 1]
        differ = pair[:, 0] != pair[:, 1]
        return 0.5 * (rewards[:, 0] - rewards[:, 1]) * sign * differ * theta.maximum(1 - theta)


class Arsm(Estimator):
    """g_c = 1/V sum_j [f(b^{c<->j}) - 1/V sum_m f(b^{m<->j})] (1 - V pi_j), pi ~ Dir(1).

    For one categorical. b = argmin_i (log pi_i - l_i), and b^{c<->j} the same with pi_c and pi_j
    exchanged. V (V - 1) / 2 + 1 evaluations. Yin, Yue and Zhou 2019.
    """

    def __init__(self, vocabulary: int) -> None:
        pairs = list(combinations(range(vocabulary), 2))
        self.swaps = torch.arange(vocabulary).repeat(1 + len(pairs), 1)
        self.place = torch.zeros(vocabulary, vocabulary, dtype=torch.int64)
        for k, (c, j) in enumerate(pairs, start=1):
            self.swaps[k, c], self.swaps[k, j] = j, c
            self.place[c, j] = self.place[j, c] = k
        K = len(self.swaps)
        self.info = EstimatorInfo(
            "arsm", "ARSM", "Yin, Yue & Zhou 2019", group=K, hard_evals=str(K)
        )

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: State
    ) -> Surrogate:
        """See ``Estimator.surrogate``; a draw is one pi with all its exchanges."""
        V = policy.vocabulary
        u = noise.uniforms(rng, draws, {"u": (V - 1,)}, policy.dtype)["u"]
        pi = dirichlet(u)
        log_probs = _only(policy, draws)
        exchanged = pi[:, self.swaps].log() - log_probs.detach().unsqueeze(1)
        tokens = exchanged.argmin(dim=2)
        rewards = reward(tokens.reshape(-1, 1)).reshape(tokens.shape)
        table = rewards[:, self.place]
        differences = table - table.mean(dim=1, keepdim=True)
        weights = (differences * (1 - V * pi).unsqueeze(1)).mean(dim=2)
        # They sum to 0, so that d sum_c w_c log_softmax_c / dl is w itself.
        return Surrogate(log_probs, weights, tokens.unsqueeze(2), rewards)


def dirichlet(u: Tensor) -> Tensor:
    """Return points ``[n, V]`` uniform on the simplex from uniforms ``[n, V - 1]``.

    A stick is broken: what is left of it after j pieces times a Beta(1, V - 1 - j) number.
    """
    n, rest = u.shape
    left, pieces = u.new_ones(n), []
    for j in range(rest):
        share = 1 - (1 - u[:, j]) ** (1 / (rest - j))
        pieces.append(left * share)
        left = left * (1 - share)
    tiny = torch.finfo(u.dtype).tiny
    return torch.stack([*pieces, left], dim=1).clamp_min(tiny)


class UnorderedSet(Estimator):
    """g = sum_{s in S} p(s) R(S, s) S_s [f(s) - sum_{s' in S} p(s') R^{D-s}(S, s') f(s')].

    S is k of all V^T sequences without replacement, as a set; R(S, s) = p^{D-s}(S-s) / p(S) and
    R^{D-s}(S, s') = p^{D-s-s'}(S-s-s') / p^{D-s}(S-s), with 1 for s' = s. Kool et al. 2020,
    "Estimating gradients for discrete random variables by sampling without replacement".

    Args:
      k: Sequences in a set, at least 2.
    """

    def __init__(self, k: int) -> None:
        self.k = k
        self.info = EstimatorInfo(
            f"unordered-{k}",
            f"the unordered set estimator, k = {k}",
            "Kool et al. 2020",
            group=k,
            hard_evals=str(k),
        )

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: State
    ) -> Surrogate:
        """See ``Estimator.surrogate``; a draw is a set, by Gumbel-top-k."""
        log_p = sequence_log_probs(policy)
        u = noise.uniforms(rng, draws, {"u": (len(log_p),)}, policy.dtype)["u"]
        chosen = (log_p + noise.gumbel(u)).topk(self.k, dim=1).indices
        return self.of(policy, reward, chosen)

    def of(self, policy: Policy, reward: Reward, chosen: Tensor) -> Surrogate:
        """Return the draws of given sets, as indices int64 ``[n, k]`` of sequences."""
        n, k = chosen.shape
        sequences = enumerate_sequences(policy.vocabulary, policy.length)
        p = sequence_log_probs(policy).exp()[chosen]
        tokens = sequences[chosen]
        rewards = reward(tokens.reshape(n * k, -1)).reshape(n, k)
        whole = set_probability(p, p.new_ones(n))
        weights = []
        for s in range(k):
            others = [i for i in range(k) if i != s]
            without = set_probability(p[:, others], 1 - p[:, s])
            baseline = p[:, s] * rewards[:, s]
            for t in others:
                rest = [i for i in others if i != t]
                share = set_probability(p[:, rest], 1 - p[:, s] - p[:, t]) / without
                baseline = baseline + p[:, t] * share * rewards[:, t]
            weights.append(p[:, s] * without / whole * (rewards[:, s] - baseline))
        log_probs = policy.log_probs(tokens.reshape(n * k, -1))
        scores = log_probs.gather(2, tokens.reshape(n * k, -1, 1)).sum(dim=(1, 2))
        return Surrogate(scores.reshape(n, k), torch.stack(weights, dim=1), tokens, rewards)


@torch.no_grad()
def sequence_log_probs(policy: Policy) -> Tensor:
    """Return log-probabilities ``[V^T]`` of all sequences."""
    sequences = enumerate_sequences(policy.vocabulary, policy.length)
    return policy.log_probs(sequences).gather(2, sequences.unsqueeze(2)).sum(dim=(1, 2))


def set_probability(p: Tensor, total: Tensor) -> Tensor:
    """Return the probability ``[n]`` that k draws without replacement are these, in any order.

    Args:
      p: Their probabilities ``[n, k]``.
      total: Probability of all that may be drawn ``[n]``.
    """
    found = torch.zeros_like(total)
    for order in permutations(range(p.shape[1])):
        product, left = torch.ones_like(total), total
        for i in order:
            product, left = product * p[:, i] / left, left - p[:, i]
        found = found + product
    return found


class StraightThrough(Estimator):
    """g = J(p) f'(D), D the one-hot of a token drawn from p, J(q) = diag(q) - q q'.

    For one categorical; biased unless f is linear. Bengio et al. 2013.
    """

    info = EstimatorInfo(
        "straight-through",
        "the straight-through estimator",
        "Bengio et al. 2013",
        unbiased=False,
        why_biased="the token is differentiated as if it were p",
        needs_relaxed_reward=True,
        relaxed_evals="1",
    )

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: State
    ) -> Surrogate:
        """See ``Estimator.surrogate``; a draw is one token."""
        u = noise.uniforms(rng, draws, {"u": (1,)}, policy.dtype)["u"]
        return self.of(policy, reward, policy.sample_by(draws, choose_by_uniform(u)))

    def of(self, policy: Policy, reward: Reward, tokens: Tensor) -> Surrogate:
        """Return the draws of given tokens, int64 ``[n, 1]``."""
        log_probs = _only(policy, len(tokens))
        p = log_probs.detach().exp()
        with torch.enable_grad():
            token = one_hot(tokens, policy.vocabulary, policy.dtype).requires_grad_()
            (slope,) = torch.autograd.grad(reward.relaxed(token).sum(), token)
        rewards = reward(tokens).unsqueeze(1)
        weights = self.weights(p, token.detach()[:, 0], slope[:, 0])
        return Surrogate(log_probs, weights, tokens.unsqueeze(1), rewards)

    def weights(self, p: Tensor, token: Tensor, slope: Tensor) -> Tensor:
        """Return the draws in the logits ``[n, V]``, which sum to 0, for f'(D) ``[n, V]``."""
        return _jacobian(p, slope)


class ReinMax(StraightThrough):
    """g = [2 J((p + D) / 2) - 1/2 J(p)] f'(D): Heun's rule, without bias for quadratic f.

    At temperature 1. Liu et al. 2023, algorithm 2.
    """

    info = EstimatorInfo(
        "reinmax",
        "ReinMax",
        "Liu et al. 2023, algorithm 2",
        unbiased=False,
        why_biased="a rule of second order stands for the differences of f",
        needs_relaxed_reward=True,
        relaxed_evals="1",
    )

    def weights(self, p: Tensor, token: Tensor, slope: Tensor) -> Tensor:
        """See ``StraightThrough.weights``."""
        return 2 * _jacobian((p + token) / 2, slope) - 0.5 * _jacobian(p, slope)


def _jacobian(q: Tensor, slope: Tensor) -> Tensor:
    """Return J(q) times a vector, row by row."""
    return q * (slope - (q * slope).sum(dim=1, keepdim=True))


def _only(policy: Policy, n: int) -> Tensor:
    """Return n rows of the log-probabilities ``[n, V]`` of a policy of one token."""
    assert policy.length == 1
    return policy.log_probs(torch.zeros(n, 1, dtype=torch.int64))[:, 0]


def enumerated(
    method: UnorderedSet | StraightThrough, policy: Policy, reward: Reward
) -> tuple[Tensor, Surrogate]:
    """Return all draws that there are, once each, and their probabilities ``[n]``."""
    p = sequence_log_probs(policy).exp()
    if isinstance(method, StraightThrough):
        return p, method.of(policy, reward, enumerate_sequences(policy.vocabulary, 1))
    sets = torch.tensor(list(combinations(range(len(p)), method.k)))
    return set_probability(p[sets], p.new_ones(len(sets))), method.of(policy, reward, sets)

"""RODEO: control variates from a discrete Stein operator, for leave-one-out.

Redrawing one position of a sequence from its law given all others leaves p where it is. So for any
function h of a sequence

    (A h)(x) = sum_t [sum_v p(x with v at t | x elsewhere) h(x with v at t) - h(x)]

has mean 0 under p, and so has A of the vector h grad log p. Neighbours are scored by the policy
alone; none is given to the reward. (Shi et al. 2022, "Gradient estimation with discrete Stein
operators", sections 3 and 4; theirs is A / T, which h makes up for.)
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from estbench.core import noise
from estbench.core.errors import UserError
from estbench.estimators.base import (
    Component,
    EstimatorInfo,
    Learned,
    PerDrawGradients,
    Reward,
    Section,
    Surrogate,
    register,
)
from estbench.estimators.baselines import moving_deviation, moving_moments, update_moments
from estbench.estimators.coefficients import Coefficients
from estbench.estimators.control_weights import Tuned, combine, learn
from estbench.models.policy import Policy, at_tokens
from estbench.models.sequence_network import SequenceNetwork
from estbench.models.trees import insert_rows, map_rows, repeat_rows

__all__ = ["Rodeo", "neighbours", "score_neighbours"]

MOST = 64  # neighbours of a sequence


def others(tokens: Tensor, vocabulary: int) -> Tensor:
    """Return the tokens that are not those given, int64 ``[..., T, V - 1]``."""
    shift = torch.arange(1, vocabulary, device=tokens.device)
    return (tokens.unsqueeze(-1) + shift) % vocabulary


def neighbours(tokens: Tensor, vocabulary: int) -> Tensor:
    """Return all sequences that differ at one position, int64 ``[..., T, V - 1, T]``."""
    T = tokens.shape[-1]
    here = torch.eye(T, dtype=torch.bool, device=tokens.device).unsqueeze(1)
    moved = others(tokens, vocabulary).unsqueeze(-1)
    return torch.where(here, moved, tokens[..., None, None, :])


def score_neighbours(policy: Policy, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a sequence and its neighbours are scored by, with its graph.

    A neighbour shares its prefix with the sequence, and l there; what is left to find is how the
    rest of the sequence follows another token. All advance together, a row for each.

    Returns:
      l along the sequence ``[n, T, V]``, and the log-probability of b_{>t} after b_{<t} and each
      other token at t, ``[n, T, V - 1]``.
    """
    n, T = tokens.shape
    V = policy.vocabulary
    moved = others(tokens, V)
    log_probs, state = policy.step(None, policy.initial_state(n))
    own = [log_probs]
    rest = log_probs.new_zeros(n, 0)
    for s in range(1, T):
        before = map_rows(state, lambda x: x.reshape(n, -1, *x.shape[1:])[:, 0])
        state = insert_rows([state, repeat_rows(before, V - 1)], n)
        same = tokens[:, s - 1 : s].expand(n, 1 + (s - 1) * (V - 1))
        fed = torch.cat([same, moved[:, s - 1]], dim=1)
        log_probs, state = policy.step(fed.reshape(-1), state)
        rows = log_probs.reshape(n, -1, V)
        own.append(rows[:, 0])
        following = tokens[:, s].view(n, 1, 1).expand(n, s * (V - 1), 1)
        found = rows[:, 1:].gather(2, following).squeeze(2)
        rest = torch.nn.functional.pad(rest, (0, V - 1)) + found
    rest = torch.nn.functional.pad(rest, (0, V - 1))
    return torch.stack(own, dim=1), rest.reshape(n, T, V - 1)


class Rodeo(Tuned):
    """g = 1/K sum_k [R_k - mean_{j != k} (R_j + a (A h)(x_j))] S_k + b/K sum_k (A h S)(x_k).

    S_k = grad log p(x_k) over K sequences, A the Gibbs Stein operator. The first Stein term makes
    leave-one-out's guess at E f a better one (it is independent of x_k whatever it is), the second
    is a control variate of its own, of mean 0. Shi et al. 2022, section 4. Here h is a network of
    a whole sequence, trained on the variance of past draws; theirs also takes the other sequences'
    rewards and slopes, and any h is unbiased. a and b are solved for on past draws, within [0, 1].

    Unbiased. Needs hard rewards, no more than leave-one-out does, and the log-probabilities of
    T (V - 1) neighbours of every sequence, differentiated: it refuses more than 64.

    Args:
      group: Sequences K a draw, at least 2.
      learning_rate: Adam's, for the network's weights.
      scores: Adam's, for its scores of tokens.
      name: Name in the catalogue.
    """

    section = Section.COUPLED
    hue = "evolution"

    def __init__(
        self, group: int = 8, learning_rate: float = 1e-2, scores: float = 5e-2, name: str = "rodeo"
    ) -> None:
        self.group = group
        self.learning_rate = learning_rate
        self.scores = scores
        bounds = {"global": (0.0, 1.0), "local": (0.0, 1.0)}
        self.coefficients = Coefficients(("global", "local"), bounds=bounds)
        self.info = EstimatorInfo(
            name=name,
            summary=f"RODEO: leave-one-out in groups of {group} with Stein control variates",
            source="Shi et al. 2022, section 4",
            baseline="leave-one-out",
            group=group,
            learned=("phi", "global", "local"),
            hard_evals=str(group),
            version=2,  # 1 learned less from small rewards
        )

    def refusal(self, vocabulary: int, length: int) -> str:
        found = length * (vocabulary - 1)
        if found <= MOST:
            return ""
        return (
            f"rodeo scores T(V - 1) = {found:,} neighbours of every sequence at V = {vocabulary} "
            f"and T = {length}: it is for {MOST} at most"
        )

    def initial_state(self, policy: Policy, rng: torch.Generator) -> Learned:
        network = SequenceNetwork(policy.vocabulary, policy.length, rng)
        network = network.to(policy.device, policy.dtype)
        return {
            **super().initial_state(policy, rng),
            "rewards": moving_moments(),
            "network": network,
            "optimiser": network.optimiser(self.learning_rate, self.scores),
        }

    def surrogate(
        self, policy: Policy, reward: Reward, draws: int, rng: torch.Generator, state: Learned
    ) -> Surrogate:
        """A draw is a group of K sequences."""
        K, T, V = self.group, policy.length, policy.vocabulary
        if refusal := self.refusal(V, T):
            raise UserError(refusal)
        u = noise.uniforms(rng, draws * K, {"tokens": (T,)}, policy.dtype)["tokens"]
        tokens = policy.sample_from(u)
        rewards = reward(tokens).reshape(draws, K)
        own, rest = score_neighbours(policy, tokens)
        kernel = _kernel(own.detach(), rest.detach(), tokens).reshape(draws, K, -1)
        grouped = tokens.reshape(draws, K, T)
        near = neighbours(grouped, V).flatten(2, 3)
        # A sequence first, then its neighbours, position by position.
        sequences = torch.cat([grouped.unsqueeze(2), near], dim=2)
        learned = self._components(kernel, sequences, state)
        centred = (rewards - rewards.mean(dim=1, keepdim=True)) / (K - 1)
        score = _spread(_alone(centred, kernel), grouped, V)
        components = (Component("score", score), *learned)
        coefficients = self.coefficients.values(state["coefficients"])
        fixed = tuple(replace(c, weights=c.weights.detach()) for c in components)
        return Surrogate.of(
            torch.cat([own.flatten(1), rest.flatten(1)], dim=1),
            combine(components, coefficients),
            tokens,
            rewards,
            K,
            components=fixed,
            info=coefficients,
            cache={"kernel": kernel, "sequences": sequences},
        )

    def adapt(
        self, policy: Policy, surrogate: Surrogate, gradients: PerDrawGradients, state: Learned
    ) -> None:
        """Phi takes a step at coefficients of 1."""
        super().adapt(policy, surrogate, gradients, state)
        update_moments(state["rewards"], surrogate.rewards)
        cache = surrogate.cache
        learned = self._components(cache["kernel"], cache["sequences"], state)
        weights = combine((surrogate.components[0], *learned), {"global": 1.0, "local": 1.0})
        loss = gradients.mean_squared_norm(surrogate, weights, None)
        learn(state["network"], state["optimiser"], loss)

    def _components(
        self, kernel: Tensor, sequences: Tensor, state: Learned
    ) -> tuple[Component, Component]:
        """Return the two Stein terms, with their graph in phi.

        Args:
          kernel: The operator's weights on a sequence and its neighbours ``[n, K, m]``.
          sequences: These sequences, int64 ``[n, K, m, T]``.
          state: The estimator's state.
        """
        K = self.group
        tokens = sequences[:, :, 0]
        network = state["network"]
        unit = moving_deviation(state["rewards"]) or 1.0
        local = kernel * (unit * network(sequences))  # A (h S), as weights on log p
        stein = local.sum(dim=2)  # A h
        of_others = (stein.sum(dim=1, keepdim=True) - stein) / (K - 1)
        V = _vocabulary(kernel, tokens)
        return (
            Component("global", _spread(_alone(-of_others / K, kernel), tokens, V)),
            Component("local", _spread(local / K, tokens, V)),
        )


def _kernel(own: Tensor, rest: Tensor, tokens: Tensor) -> Tensor:
    """Return the Stein operator's weights on a sequence and its neighbours.

    Args:
      own: l along the sequence ``[n, T, V]``.
      rest: See ``score_neighbours``.
      tokens: The sequence, int64 ``[n, T]``.

    Returns:
      ``[n, 1 + T (V - 1)]``; they add up to 0.
    """
    length, vocabulary = own.shape[1:]
    chosen = at_tokens(own, tokens)
    # What position t leaves as it is: b_t, and b_{>t} after it.
    stays_put = chosen.flip(1).cumsum(dim=1).flip(1)
    moves = own.gather(2, others(tokens, vocabulary)) + rest
    share = torch.cat([stays_put.unsqueeze(2), moves], dim=2).softmax(dim=2)
    stays = share[:, :, 0].sum(dim=1, keepdim=True) - length
    return torch.cat([stays, share[:, :, 1:].flatten(1)], dim=1)


def _spread(weights: Tensor, tokens: Tensor, vocabulary: int) -> Tensor:
    """Return weights on log p of a sequence and its neighbours as weights on what scores them.

    Args:
      weights: ``[n, K, 1 + T (V - 1)]``.
      tokens: The sequences, int64 ``[n, K, T]``.
      vocabulary: V.

    Returns:
      ``[n, K (T V + T (V - 1))]``, a sequence's own l first.
    """
    each = weights[..., 1:].reshape(*tokens.shape, vocabulary - 1)
    moved = each.sum(dim=-1)
    # b_s is also in the prefix of whatever differs from the sequence after s.
    later = moved.sum(dim=-1, keepdim=True) - moved.cumsum(dim=-1)
    on_own = weights.new_zeros(*tokens.shape, vocabulary)
    on_own = on_own.scatter_add(-1, others(tokens, vocabulary), each)
    on_own = on_own.scatter_add(-1, tokens.unsqueeze(-1), (weights[..., :1] + later).unsqueeze(-1))
    return torch.cat([on_own.flatten(2), each.flatten(2)], dim=2).flatten(1)


def _alone(weights: Tensor, kernel: Tensor) -> Tensor:
    """Return weights ``[n, K]`` on the sequences themselves as weights on all, ``[n, K, m]``."""
    return torch.nn.functional.pad(weights.unsqueeze(2), (0, kernel.shape[2] - 1))


def _vocabulary(kernel: Tensor, tokens: Tensor) -> int:
    """Return V of weights ``[..., 1 + T (V - 1)]`` for tokens ``[..., T]``."""
    return 1 + (kernel.shape[-1] - 1) // tokens.shape[-1]


register(Rodeo)

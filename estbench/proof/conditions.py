"""Problems with the conditions that estimators run in: sequences that end, many tokens, prompts.

Each is small enough for all of its possible sequences to be listed, and its noise is small enough
for a verdict at a margin of 2 % after the first or second look. Faults that need a condition to
show (a length, a wide vocabulary, a late position) move the mean by several margins here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from estbench.models.contexts import Contexts
from estbench.models.policy import Policy, keep_ending, sequence_lengths
from estbench.proof.rewards import SmoothReward, rng

__all__ = ["CONDITIONS", "RecurrentPolicy", "drawn", "drawn_size", "possible_sequences"]


class RecurrentPolicy(Policy):
    """A recurrent network of a few tanh units, with what a problem needs of conditions.

    Args:
      vocabulary: Number of tokens V.
      length: Sequence length T.
      width: Units of the network.
      end: The token that ends a sequence, or None.
      free: The positions at which there is a choice; elsewhere the token is 0. None: all.
      contexts: Prompts ``[M, width + 1]``: the state before the first token, and the level of the
        reward. None: zeros.
      dropout: Probability with which a unit is left out in training mode.
      codes: What the network sees and says of each token, ``[V, D]``, fixed; None: one-hots. With
        few numbers a token the noise of a draw does not grow with V.
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        width: int,
        *,
        end: int | None = None,
        free: Sequence[int] | None = None,
        contexts: Tensor | None = None,
        dropout: float = 0.0,
        codes: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.vocabulary, self.length, self.width = vocabulary, length, width
        self.end = end
        self.free = range(length) if free is None else free
        self.contexts = None if contexts is None else Contexts(contexts)
        self.codes = torch.eye(vocabulary, dtype=torch.float64) if codes is None else codes
        size = self.codes.shape[1]
        self.token = nn.Linear(size, width, bias=False, dtype=torch.float64)
        self.memory = nn.Linear(width, width, dtype=torch.float64)
        self.output = nn.Linear(width, size, dtype=torch.float64)
        self.dropout = nn.Dropout(dropout)
        self._forced = torch.tensor([t not in self.free for t in range(length)])
        self.eval()

    @torch.no_grad()
    def initialise(self, scale: float, rng: torch.Generator) -> RecurrentPolicy:
        """Draw parameters from normal(0, scale), an orthogonal memory; return self."""
        for parameter in self.parameters():
            parameter.normal_(0, scale, generator=rng)
        square = torch.randn(self.width, self.width, generator=rng, dtype=torch.float64)
        self.memory.weight.copy_(torch.linalg.qr(square).Q)
        return self

    def initial_state(self, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the prompts' states, the positions, and which rows have ended."""
        hidden = self.output.weight.new_zeros(n, self.width)
        if self.contexts is not None:
            hidden = self.contexts.rows(n)[:, : self.width]
        return hidden, torch.zeros(n, dtype=torch.int64), torch.zeros(n, dtype=torch.bool)

    def step(
        self, previous: Tensor | None, state: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        hidden, position, ended = state
        if previous is not None:
            if previous.is_floating_point():
                seen = previous @ self.codes
            else:
                seen = self.codes[previous]
                if self.end is not None:  # a relaxed future is not cut
                    ended = ended | (previous == self.end)
            hidden = (self.token(seen) + self.memory(hidden)).tanh()
        logits = self.output(self.dropout(hidden)) @ self.codes.T
        log_probs = logits.log_softmax(dim=-1)
        if self.end is not None:
            log_probs = keep_ending(log_probs, ended, self.end)
        if len(self.free) < self.length:
            log_probs = keep_ending(log_probs, self._forced[position], 0)
        return log_probs, (hidden, position + 1, ended)


def possible_sequences(policy: RecurrentPolicy) -> Tensor:
    """Return all sequences that a policy can draw, int64 ``[N, T]``; for each context in turn."""
    rows: list[list[int]] = [[]]
    for t in range(policy.length):
        longer = []
        for row in rows:
            if policy.end is not None and policy.end in row:
                choices: Sequence[int] = (policy.end,)
            else:
                choices = range(policy.vocabulary) if t in policy.free else (0,)
            longer += [[*row, token] for token in choices]
        rows = longer
    return torch.tensor(rows).repeat(policy.fewest_rows, 1)


Function = Callable[[Tensor], Tensor]
Made = tuple[RecurrentPolicy, Function]


def lengths(sequences: Tensor, end: int) -> Tensor:
    """Return how long sequences are, the end token included, ``[n]``; differentiable in weights."""
    if not sequences.is_floating_point():
        return sequence_lengths(sequences, end).double()
    stays = 1 - sequences[..., end]
    return 1 + stays[:, :-1].cumprod(dim=1).sum(dim=1)


def ends() -> Made:
    """V = 4, T <= 5 with an end token: 364 sequences; the reward grows with the length."""
    policy = RecurrentPolicy(4, 5, 2, end=3).initialise(0.9, rng(7))
    smooth = SmoothReward(4, 5, 7)
    return policy, lambda x: smooth(x) + lengths(x, 3)


def wide() -> Made:
    """V = 60, T = 2: a sampler that leaves the ten least likely tokens out is 27 % off."""
    codes = 2 * torch.rand(60, 1, generator=rng(100), dtype=torch.float64) - 1
    policy = RecurrentPolicy(60, 2, 2, codes=codes).initialise(1.0, rng(0))
    first = 1.5 * torch.randn(2, 4, generator=rng(0), dtype=torch.float64)
    second = torch.randn(4, generator=rng(50), dtype=torch.float64)

    def reward(x: Tensor) -> Tensor:
        seen = x @ codes if x.is_floating_point() else codes[x]
        return (seen.flatten(1) @ first).tanh() @ second

    return policy, reward


def long() -> Made:
    """V = 2, T = 24, a choice at eight positions: 256 sequences, and a memory over all of them.

    What forgets positions beyond the twelfth is 97 % off, and backpropagation that is cut every
    eight steps 33 %.
    """
    free = (0, 3, 6, 9, 13, 16, 19, 23)
    policy = RecurrentPolicy(2, 24, 2, free=free).initialise(0.9, rng(5))
    smooth = SmoothReward(2, len(free), 5)
    return policy, lambda x: smooth(x[:, list(free)])


def large() -> Made:
    """V = 3, T = 3, rewards of hundreds with long tails: what clips them at 10 is 80 % off."""
    policy = RecurrentPolicy(3, 3, 2).initialise(0.9, rng(18))
    smooth = SmoothReward(3, 3, 18)
    return policy, lambda x: 1000 + 100 * (1.5 * smooth(x)).sinh()


def prompts() -> Made:
    """V = 3, T <= 4 with an end token, given one of four prompts with rewards of their own.

    Rewards that are read for the prompts in reverse order are 45 % off.
    """
    states = torch.randn(4, 2, generator=rng(215), dtype=torch.float64)
    levels = torch.tensor([[-1.0], [-0.3], [0.4], [1.0]], dtype=torch.float64)
    contexts = torch.cat([states, levels], dim=1)
    policy = RecurrentPolicy(3, 4, 2, end=2, contexts=contexts).initialise(0.9, rng(13))
    smooth = SmoothReward(3, 4, 13)

    def reward(x: Tensor) -> Tensor:
        assert policy.contexts is not None
        level = policy.contexts.rows(len(x))[:, policy.width]
        return (2 + 1.4 * level) * smooth(x) + level + (lengths(x, 2) - 3).clamp_min(0)

    return policy, reward


def dropout() -> Made:
    """V = 3, T = 3; half of the units would be left out by a policy in training mode."""
    policy = RecurrentPolicy(3, 3, 3, dropout=0.5).initialise(0.9, rng(11))
    return policy, SmoothReward(3, 3, 11)


CONDITIONS: Mapping[str, tuple[tuple[int, int], Callable[[], Made]]] = {
    "ends": ((4, 5), ends),
    "wide": ((60, 2), wide),
    "long": ((2, 24), long),
    "large": ((3, 3), large),
    "prompts": ((3, 4), prompts),
    "dropout": ((3, 3), dropout),
}
"""By name: V and T, known before it is made, and what makes it."""

DRAWN_SIZES = ((3, 2), (4, 2), (5, 2), (6, 2), (4, 3), (6, 3), (4, 4), (5, 4))
"""V and T of problems drawn at random: those of no other problem of the check."""


def drawn_size(seed: int) -> tuple[int, int]:
    """Return V and T of the problem that a seed draws."""
    return DRAWN_SIZES[int(torch.randint(len(DRAWN_SIZES), (), generator=rng(seed)))]


def drawn(seed: int, attempt: int = 0) -> Made:
    """V, T, parameters and rewards at random: nobody can know them beforehand."""
    V, T = drawn_size(seed)
    noise = rng(1000 * seed + attempt)
    policy = RecurrentPolicy(V, T, 2).initialise(0.9, noise)
    smooth = SmoothReward(V, T, 1000 * seed + attempt)
    return policy, smooth

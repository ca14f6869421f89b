"""Rewards: functions of whole sequences that count how often they are asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from estbench.core.errors import unknown_name
from estbench.core.registry import REWARDS, Declared, Registry
from estbench.core.seeding import stream

__all__ = [
    "CONTROLS",
    "TRANSFORMS",
    "Discriminator",
    "FunctionReward",
    "Reward",
    "UninformedReward",
    "rollout_rewards",
]

TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "p": torch.sigmoid,
    "log_p": nn.functional.logsigmoid,
    "logit": lambda logit: logit,
    "exp_p": lambda logit: logit.sigmoid().exp(),
}
"""What is made of the discriminator's logit.

``p`` is the probability p_D of "real", the paper's reward; ``exp_p`` is what its published curves
were made with (its GPU path), in [1, e], which shifts the ranking of estimators that have no
baseline.
"""

ROWS = 512  # per call: the LSTM's buffers stay in cache, up to twice as fast at 10,000 rows


class Discriminator(nn.Module):
    """Base class of discriminators: a network that says how real a sequence looks.

    One that is registered can be chosen by name (``discriminator = "cnn"``). It may have
    ``training_logits(tokens, rng)``, which are ``forward`` with dropout, ``penalty()``, which is
    added to the loss that it is trained on, and what ``Reward`` lists. No row may depend on another
    one, as it would with batch normalisation.
    """

    registry: ClassVar[Registry] = REWARDS
    info: ClassVar[Declared]

    @classmethod
    def of(cls, vocabulary: int, length: int) -> Self:
        """Return one for sequences of ``length`` tokens out of ``vocabulary``."""
        return cls(vocabulary, length)

    def initialise(self, rng: torch.Generator) -> Discriminator:
        """Draw all parameters anew; return self."""
        raise NotImplementedError

    def forward(self, sequences: Tensor) -> Tensor:
        """Return the logit of "real", ``[n]``.

        Args:
          sequences: Tokens int64 ``[n, T]``, or weights ``[n, T, V]``, in which it is
            differentiable; a row of one-hot weights has the logit of its tokens.
        """
        raise NotImplementedError


class Reward:
    """A discriminator's output as the reward of a sequence.

    While it evaluates, the discriminator is in evaluation mode and its parameters are constants:
    no gradient reaches them, through the relaxed reward either.

    Args:
      discriminator: Maps tokens int64 ``[n, T]`` and weights ``[n, T, V]`` to logits ``[n]``. May
        have ``rollout_logits(tokens, completed)``, faster for rollouts that share prefixes, and
        ``rows``, how many sequences of tokens to give it at once.
      transform: A name in ``TRANSFORMS``.

    Attributes:
      is_relaxed: True: accepts relaxed sequences.
      hard_evals: Sequences of tokens evaluated so far.
      relaxed_evals: Relaxed sequences evaluated so far.

    Raises:
      UserError: The transform does not exist.
    """

    is_relaxed = True

    def __init__(self, discriminator: nn.Module, transform: str = "p") -> None:
        if transform not in TRANSFORMS:
            raise unknown_name("reward", transform, TRANSFORMS)
        self.discriminator = discriminator
        self.transform = transform
        self.hard_evals = 0
        self.relaxed_evals = 0

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return rewards ``[n]`` of sequences int64 ``[n, T]``, without a graph."""
        self.hard_evals += tokens.shape[0]
        return self._evaluate(tokens)

    def of_rollouts(self, tokens: Tensor, completed: Tensor) -> Tensor:
        """Return rewards ``[n, T - 1, N]`` of rollouts, without a graph.

        Each counts as one hard evaluation.

        Args:
          tokens: The sequences whose prefixes were completed, int64 ``[n, T]``.
          completed: int64 ``[n, T - 1, N, T]``; ``completed[i, t, :, : t + 1]`` are the first
            t + 1 tokens of ``tokens[i]``.
        """
        logits = getattr(self.discriminator, "rollout_logits", None)
        if logits is None:
            return self(completed.flatten(0, 2)).view(completed.shape[:3])
        self.hard_evals += completed.shape[:3].numel()
        with torch.no_grad(), _frozen(self.discriminator):
            return TRANSFORMS[self.transform](logits(tokens, completed))

    def relaxed(self, weights: Tensor) -> Tensor:
        """Return rewards ``[n]`` of relaxed sequences ``[n, T, V]``, differentiable in them.

        A row that is a one-hot has the reward of its token: exactly, bit for bit, where the
        discriminator is the LSTM, and to rounding where it is the TextCNN.
        """
        self.relaxed_evals += weights.shape[0]
        return self._evaluate(weights if torch.is_grad_enabled() else weights.detach())

    def _evaluate(self, sequences: Tensor) -> Tensor:
        """Evaluate in gradient mode, needed or not: kernels of the two modes round differently.

        Nothing is recorded where the sequences need no gradient, for the parameters are frozen.
        """
        hard = not sequences.is_floating_point()
        step = getattr(self.discriminator, "rows", ROWS) if hard else ROWS
        with torch.enable_grad(), _frozen(self.discriminator):
            logits = [self.discriminator(rows) for rows in torch.split(sequences, step)]
            return TRANSFORMS[self.transform](logits[0] if len(logits) == 1 else torch.cat(logits))


MIXING = (0xFF51AFD7ED558CCD - 2**64, 0xC4CEB9FE1A85EC53 - 2**64)  # MurmurHash3's finaliser
CONTROLS = ("constant", "random")
"""Rewards that know nothing of the data: what happens without an adversary?"""


class UninformedReward(Reward):
    """A control arm: in place of the discriminator's reward, one that does not ask it.

    ``constant`` is 1/2 for every sequence. ``random`` is uniform on [0, 1]: a hash of the tokens,
    so that it is a function of the sequence as any reward is, the same in every run, and unrelated
    between sequences. It takes tokens only.

    Args:
      discriminator: The task's, which is trained beside it and tells real from generated.
      kind: A name in ``CONTROLS``.
      vocabulary: Number of tokens V.
      length: Sequence length T.
    """

    def __init__(self, discriminator: nn.Module, kind: str, vocabulary: int, length: int) -> None:
        super().__init__(discriminator)
        self.transform = kind
        self.is_relaxed = kind == "constant"
        numbers = stream("random reward")
        # A sum of independent 64-bit numbers, one for each token at each position, that overflows.
        size = (length, vocabulary)
        self.numbers = torch.randint(-(2**63), 2**63 - 1, size, generator=numbers)

    def of_rollouts(self, tokens: Tensor, completed: Tensor) -> Tensor:
        """Return rewards ``[n, T - 1, N]`` of rollouts, without a graph."""
        return self(completed.flatten(0, 2)).view(completed.shape[:3])

    def relaxed(self, weights: Tensor) -> Tensor:
        """Return rewards ``[n]`` of relaxed sequences ``[n, T, V]``.

        Raises:
          TypeError: The reward is ``random``.
        """
        if not self.is_relaxed:
            raise TypeError('reward = "random" takes tokens only')
        return super().relaxed(weights)

    def _evaluate(self, sequences: Tensor) -> Tensor:
        if self.transform == "constant":
            # The graph of weights is kept, for an estimator differentiates in them.
            floats = sequences if sequences.is_floating_point() else sequences.float()
            return 0.5 + 0.0 * floats.flatten(1).sum(1)
        places = torch.arange(sequences.shape[1], device=sequences.device)
        hashed = self.numbers.to(sequences.device)[places, sequences].sum(1)
        for factor in MIXING:  # else two tokens would differ by the same number in every sequence
            hashed = (hashed ^ (hashed >> 33)) * factor
        return (hashed >> 40).add(2**23).float() / 2**24


class FunctionReward:
    """A plain function as the reward.

    Args:
      function: Maps tokens int64 ``[n, T]`` to rewards ``[n]``.
      relaxed: Maps weights ``[n, T, V]`` to rewards ``[n]``; None if there is no such thing.

    Attributes:
      is_relaxed: Whether relaxed sequences are accepted.
      hard_evals: Sequences of tokens evaluated so far.
      relaxed_evals: Relaxed sequences evaluated so far.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        relaxed: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.function = function
        self.relaxed_function = relaxed
        self.is_relaxed = relaxed is not None
        self.hard_evals = 0
        self.relaxed_evals = 0

    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Tensor:
        """Return rewards ``[n]`` of sequences int64 ``[n, T]``, without a graph."""
        self.hard_evals += tokens.shape[0]
        return self.function(tokens)

    def relaxed(self, weights: Tensor) -> Tensor:
        """Return rewards ``[n]`` of relaxed sequences ``[n, T, V]``, differentiable in them."""
        if self.relaxed_function is None:
            raise TypeError("this reward takes tokens only: it was made without `relaxed`")
        self.relaxed_evals += weights.shape[0]
        return self.relaxed_function(weights)


def rollout_rewards(
    reward: Callable[[Tensor], Tensor], tokens: Tensor, completed: Tensor
) -> Tensor:
    """Return rewards ``[n, T - 1, N]`` of rollouts, by any reward.

    Args:
      reward: Maps tokens int64 ``[n, T]`` to rewards ``[n]``; its own ``of_rollouts`` is used if it
        has one.
      tokens: The sequences whose prefixes were completed, int64 ``[n, T]``.
      completed: Rollouts int64 ``[n, T - 1, N, T]``, as for ``Reward.of_rollouts``.
    """
    if hasattr(reward, "of_rollouts"):
        rewards: Tensor = reward.of_rollouts(tokens, completed)
        return rewards
    return reward(completed.flatten(0, 2)).reshape(completed.shape[:3])


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Evaluation mode and constant parameters inside; everything as it was afterwards."""
    trained = [p for p in module.parameters() if p.requires_grad]
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        for part, mode in modes:
            part.training = mode

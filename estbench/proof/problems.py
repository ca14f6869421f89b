"""Enumerable problems that estimators are tested on, each with its exact gradient.

Every reward is centred by its exact mean: the gradient is the same, and a bias of 2 % is found with
up to 10,000 times fewer draws.
"""

from __future__ import annotations

import copy
import math
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor, nn

from estbench import tasks
from estbench.core.seeding import stream
from estbench.estimators.base import Estimator
from estbench.meter.bias import Centred
from estbench.meter.exact import Exact, exact
from estbench.models.adam import Adam
from estbench.models.lstm_discriminator import LSTMDiscriminator
from estbench.models.lstm_generator import Generator
from estbench.models.penalty import Penalised
from estbench.models.policy import Policy
from estbench.models.reward import FunctionReward, Reward
from estbench.proof.conditions import (
    CONDITIONS,
    Made,
    RecurrentPolicy,
    drawn,
    drawn_size,
    possible_sequences,
)
from estbench.proof.rewards import function_reward, rng
from estbench.training.discriminator import train_discriminator
from estbench.training.pretraining import pretrain


@dataclass(frozen=True)
class Problem:
    """A policy with a reward that is centred by its exact mean, and the truth about them."""

    policy: Policy
    reward: Centred
    exact: Exact

    @property
    def gradient(self) -> list[Tensor]:
        return self.exact.gradient

    @property
    def difficulty(self) -> float:
        """tr Cov / |grad J|^2 of REINFORCE on the centred reward."""
        mean = self.exact.mean_reward
        return self.exact.reinforce_variance(mean) / self.exact.squared_norm


def problem(policy: Policy, reward: FunctionReward | Penalised | Reward) -> Problem:
    """Return the problem of a policy and a reward."""
    sequences = possible_sequences(policy) if isinstance(policy, RecurrentPolicy) else None
    truth = exact(policy, reward, sequences=sequences)
    return Problem(policy, Centred(reward, truth.mean_reward), truth)


@cache
def tiny(dtype: torch.dtype = torch.float64) -> Problem:
    """V = 3, T = 3: 27 sequences, an LSTM of 4 units, a smooth reward."""
    return _recurrent(3, 3, dtype)


@cache
def binary(dtype: torch.dtype = torch.float64) -> Problem:
    """V = 2, T = 4: 16 sequences, an LSTM of 4 units, a smooth reward."""
    return _recurrent(2, 4, dtype)


def _recurrent(vocabulary: int, length: int, dtype: torch.dtype) -> Problem:
    policy = Generator(vocabulary, length, embedding=4, hidden=4, dtype=torch.float64)
    policy.initialise("normal", 0.7, rng(1))
    return problem(policy.to(dtype), function_reward(vocabulary, length, 1, dtype))


HARDEST = 15.0
"""tr Cov / |grad J|^2 of REINFORCE up to which a bias of 2 % is found with the planned draws."""


@cache
def expressions(dtype: torch.dtype = torch.float64, transform: str = "logit") -> Problem:
    """`expressions-3`: 125 sequences, the paper's LSTMs, both partly trained.

    Args:
      dtype: Of both networks.
      transform: What of the discriminator's logit is the reward.
    """
    policy, discriminator = _partly_trained()
    policy = copy.deepcopy(policy).to(dtype)
    made = problem(policy, Reward(copy.deepcopy(discriminator).to(dtype), transform))
    assert made.difficulty <= HARDEST, f"{transform}: {made.difficulty:.1f}"
    return made


@cache
def _partly_trained() -> tuple[Generator, LSTMDiscriminator]:
    task = tasks.make("expressions-3", 0, 10_000)
    policy = Generator(5, 3).initialise(*task.initialisation, stream("test generator"))
    pretrain(policy, task.train, 1, 128, 1e-3, rng(1))
    discriminator = LSTMDiscriminator(5).initialise(stream("test discriminator"))
    optimiser = Adam(discriminator.parameters(), lr=1e-3)
    fake = policy.sample(80 * 128, rng(2))
    train_discriminator(discriminator, optimiser, task.train, fake, 80, 128, rng(3))
    return policy, discriminator


class _Independent(Policy):
    """A policy whose tokens do not depend on each other: there is nothing to remember."""

    def initial_state(self, n: int) -> Tensor:
        """See ``Policy.initial_state``."""
        return torch.ones(n, 1, dtype=torch.float64)


class BernoulliPolicy(_Independent):
    """Independent Bernoullis that share one logit: log p = log_softmax([0, logit])."""

    def __init__(self, length: int, logit: float) -> None:
        super().__init__()
        self.vocabulary, self.length = 2, length
        self.logit = nn.Linear(1, 1, bias=False, dtype=torch.float64)
        nn.init.constant_(self.logit.weight, logit)

    def step(self, previous: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
        logit = self.logit(state)
        return torch.cat([torch.zeros_like(logit), logit], dim=1).log_softmax(dim=1), state


class CategoricalPolicy(_Independent):
    """One token out of V, a logit each."""

    def __init__(self, logits: Sequence[float]) -> None:
        super().__init__()
        self.vocabulary, self.length = len(logits), 1
        self.logits = nn.Linear(1, len(logits), bias=False, dtype=torch.float64)
        with torch.no_grad():
            self.logits.weight.copy_(torch.tensor(logits, dtype=torch.float64).unsqueeze(1))

    def step(self, previous: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
        return self.logits(state).log_softmax(dim=1), state


CATEGORICAL_LOGITS = (0.3, -0.8, 1.1, 0.0)
WORTH = torch.tensor([1.0, -0.5, 0.3, 2.0], dtype=torch.float64)


def _linear(x: Tensor) -> Tensor:
    return x @ WORTH


def _quadratic(x: Tensor) -> Tensor:
    # Not a function of the worth alone: on the corners of the simplex that would be linear again.
    products = torch.tensor(
        [[1, 0.5, -1, 0], [0.5, -1, 0.3, 1], [-1, 0.3, 0.5, -0.7], [0, 1, -0.7, 2]],
        dtype=torch.float64,
    )
    return ((x @ products) * x).sum(dim=1)


def _rough(x: Tensor) -> Tensor:
    """Swings several times between two corners: what a relaxation says there is of no use."""
    return (7 * (x @ WORTH)).sin() + (x * x).sum(dim=1)


CATEGORICAL = {"linear": _linear, "quadratic": _quadratic, "rough": _rough}


def categorical(kind: str) -> tuple[CategoricalPolicy, FunctionReward]:
    """One categorical, V = 4, with a linear, quadratic or rough reward."""
    function = CATEGORICAL[kind]

    def reward(tokens: Tensor) -> Tensor:
        return function(nn.functional.one_hot(tokens[:, 0], 4).double())

    def relaxed(weights: Tensor) -> Tensor:
        return function(weights[:, 0])

    return CategoricalPolicy(CATEGORICAL_LOGITS), FunctionReward(reward, relaxed)


def bernoulli(theta: float, target: float) -> tuple[BernoulliPolicy, FunctionReward]:
    """E (b - t)^2 with p(b = 1) = theta."""

    def reward(sequences: Tensor) -> Tensor:
        b = sequences[:, 0, 1] if sequences.is_floating_point() else sequences[:, 0].double()
        return (b - target) ** 2

    return BernoulliPolicy(1, math.log(theta / (1 - theta))), FunctionReward(reward, reward)


def three_bernoullis(logit: float) -> tuple[BernoulliPolicy, FunctionReward]:
    """E sum_i (b_i - p_i)^2 with p = (.6, .51, .48)."""
    targets = torch.tensor([0.6, 0.51, 0.48], dtype=torch.float64)

    def reward(sequences: Tensor) -> Tensor:
        b = sequences[..., 1] if sequences.is_floating_point() else sequences.double()
        return ((b - targets) ** 2).sum(dim=1)

    return BernoulliPolicy(3, logit), FunctionReward(reward, reward)


def conditioned(make: Callable[[], Made]) -> Problem:
    """Return a problem of ``conditions``; its reward is hard and relaxed."""
    policy, reward = make()
    return problem(policy, FunctionReward(reward, reward))


def penalised() -> Problem:
    """V = 3, T <= 4 with an end token, and E R - 0.5 KL(policy || reference) as the objective.

    A KL that is left out is 81 % off; k2 of each token 22 %, k3 24 %.
    """
    policy, reference = (
        RecurrentPolicy(3, 4, 2, end=2).initialise(0.9, rng(seed)) for seed in (25, 525)
    )
    smooth = function_reward(3, 4, 25)
    return problem(policy, Penalised(smooth, policy, reference, beta=0.5))


EASY = 6.0
"""The same of a problem drawn at random, so that it takes few draws."""


def at_random(seed: int) -> Problem:
    """Return a problem whose V, T, policy and rewards come from a seed.

    The first attempt at which REINFORCE is not too noisy is taken.
    """
    attempts = (conditioned(partial(drawn, seed, attempt)) for attempt in range(1000))
    return next(made for made in attempts if made.difficulty <= EASY)


_TABLE: Mapping[str, tuple[tuple[int, int], Callable[[], Problem]]] = {
    "bernoulli-.5-.45": ((2, 1), lambda: problem(*bernoulli(0.5, 0.45))),
    "bernoulli-.2-.45": ((2, 1), lambda: problem(*bernoulli(0.2, 0.45))),
    "bernoulli-.9-.45": ((2, 1), lambda: problem(*bernoulli(0.9, 0.45))),
    "three-bernoullis": ((2, 3), lambda: problem(*three_bernoullis(0.0))),
    "three-bernoullis-rare": ((2, 3), lambda: problem(*three_bernoullis(-2.0))),
    "categorical-linear": ((4, 1), lambda: problem(*categorical("linear"))),
    "categorical-quadratic": ((4, 1), lambda: problem(*categorical("quadratic"))),
    "categorical-rough": ((4, 1), lambda: problem(*categorical("rough"))),
    "autoregressive": ((3, 3), tiny),
    "autoregressive-binary": ((2, 4), binary),
    **{name: (size, partial(conditioned, make)) for name, (size, make) in CONDITIONS.items()},
    "kl": ((3, 4), penalised),
    "expressions-3": ((5, 3), expressions),
    "expressions-3-float32": ((5, 3), lambda: expressions(torch.float32)),
}

PROBLEMS: Mapping[str, Callable[[], Problem]] = {name: make for name, (_, make) in _TABLE.items()}
"""The problems that ``estbench check`` uses, by name, from the smallest to the largest."""

SIZES: Mapping[str, tuple[int, int]] = {name: size for name, (size, _) in _TABLE.items()}
"""V and T of each problem, known before it is made."""

SMALL = tuple(name for name in PROBLEMS if name.startswith(("bernoulli", "three", "categorical")))
"""Problems of independent tokens, which cost next to nothing."""

AUTOREGRESSIVE = ("autoregressive", "autoregressive-binary")
"""One of these is tried on an estimator, the first that it fits."""

RANDOM = re.compile(r"drawn-([0-9]{1,9})")
"""The name of a problem that is drawn at random says its seed."""


def new_seed() -> int:
    """Return a seed of a problem that nobody can know beforehand."""
    return secrets.randbelow(1_000_000)


def size_of(name: str) -> tuple[int, int]:
    """Return V and T of the problem of a name."""
    drawn_by = RANDOM.fullmatch(name)
    return drawn_size(int(drawn_by[1])) if drawn_by else SIZES[name]


def exists(name: str) -> bool:
    """Return whether there is a problem of that name."""
    return name in PROBLEMS or bool(RANDOM.fullmatch(name))


def problems_for(method: Estimator, seed: int | None = None) -> list[str]:
    """Return the problems that an estimator is asked to fit.

    The binary autoregressive one is for those that the larger one is too large for.

    Args:
      method: The estimator.
      seed: Of the problem that is drawn at random; None for no such problem.
    """
    larger, smaller = AUTOREGRESSIVE
    spare = larger if method.refusal(*SIZES[larger]) else smaller
    found = [name for name in PROBLEMS if name != spare]
    return found if seed is None else [*found, f"drawn-{seed}"]


@cache
def named(name: str) -> Problem:
    """Return the problem of a name in ``PROBLEMS``, or of ``drawn-SEED``."""
    drawn_by = RANDOM.fullmatch(name)
    return at_random(int(drawn_by[1])) if drawn_by else PROBLEMS[name]()

"""Sums as a language-model task: a prompt such as "17+25=", and an answer that is right or not.

The policy is a small causal transformer that is pre-trained on right answers until it solves a
share of the prompts that the settings choose. Then an estimator trains it on the reward, which is
1 for the right answer and 0 for any other. An exact-match reward makes the success rate, its mean,
the probability of one answer, so that no sampling is needed to know it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from estbench import tasks
from estbench.config.experiment import Experiment, TrainingSettings
from estbench.core.errors import UserError
from estbench.core.registry import register
from estbench.core.seeding import stream
from estbench.models.enumeration import enumerate_sequences
from estbench.models.penalty import Penalised
from estbench.models.policy import Policy, at_tokens, has_ended, sequence_lengths
from estbench.models.prompted_transformer import PromptedTransformer
from estbench.models.reward import FunctionReward
from estbench.tasks.base import Task
from estbench.tasks.declaring import ENTROPY, MetricInfo, TaskInfo
from estbench.tasks.stage import Stage

__all__ = ["ArithmeticStage", "ArithmeticTask", "ExactMatch", "quality", "success"]

MEASURED = 32  # prompts on which gradients are compared, the same ones for every estimator
EVALUATED = 1024  # prompts, at most, that a success rate is a mean over
ALL_LISTED = 1_000_000  # problems; of more, some are drawn
STALENESS = (1, 4, 16)  # steps by which a snapshot's older policies are older


class ExactMatch(FunctionReward):
    """1 for the answer that solves the prompt, end token included, else 0.

    An answer that is cut off has no end token, and is wrong.

    Args:
      policy: Whose prompts the rows answer.
      form: What an answer earns beside that if it is a number that ends.

    Where the form earns nothing, relaxed answers are accepted: their reward is the probability of
    the right answer, if tokens were drawn from their weights.
    """

    def __init__(self, policy: PromptedTransformer, form: float = 0.0) -> None:
        super().__init__(self._of_tokens, None if form else self._of_weights)
        self.policy = policy
        self.form = form

    def _of_tokens(self, tokens: Tensor) -> Tensor:
        right = (tokens == self.policy.solutions(len(tokens))).all(dim=1)
        found = right.to(self.policy.dtype)
        return found + self.form * self.is_number(tokens) if self.form else found

    def _of_weights(self, weights: Tensor) -> Tensor:
        return at_tokens(weights, self.policy.solutions(len(weights))).prod(dim=1)

    def is_number(self, tokens: Tensor) -> Tensor:
        """Return whether answers ``[n, T]`` are one digit or more, then the end token."""
        end, digits = self.policy.end, tokens < self.policy.vocabulary - 2
        written = ~has_ended(tokens, end) & (tokens != end)
        return digits[:, 0] & (digits | ~written).all(dim=1) & (tokens == end).any(dim=1)

    def only_rewarded(self) -> Tensor | None:
        """Return the one answer to each prompt that earns anything, ``[M, T]``; None if others do.

        The gradient of the expected reward is then known from these answers alone.
        """
        return None if self.form else self.policy.solutions(self.policy.contexts.count)


class ArithmeticStage(Stage):
    """The policy, its reward, the pre-trained policy, and older policies of the trajectory.

    Args:
      experiment: Settings.
      task: Name of the task.
      seed: The replicate.

    Attributes:
      task: The prompts.
      reference: The policy as pre-training left it.
    """

    policy: PromptedTransformer
    conditional = True

    def __init__(self, experiment: Experiment, task: str, seed: int) -> None:
        settings = experiment.training_for(task)
        made = tasks.make(task, seed, settings.data_size, **tasks.options(task, settings))
        assert isinstance(made, ArithmeticTask)
        self.task = made
        self.policy = made.start(settings).to(experiment.device)
        self.reference, *older = (self._copy() for _ in range(1 + len(STALENESS)))
        self.reward = exact = ExactMatch(self.policy, settings.format_reward)
        if settings.beta:
            self.reward = Penalised(exact, self.policy, self.reference, settings.beta)
        self.past = dict(zip(STALENESS, older, strict=True))
        self.parts: Mapping[str, nn.Module] = {
            "policy": self.policy,
            "reference": self.reference,
            **{f"older-{steps}": policy for steps, policy in self.past.items()},
        }

    def _copy(self) -> PromptedTransformer:
        return copy.deepcopy(self.policy).requires_grad_(False)

    def older(self, steps: int) -> Policy | None:
        """See ``Stage.older``."""
        return self.past.get(steps)

    def next_batch(self, contexts: int, rng: torch.Generator) -> None:
        """See ``Stage.next_batch``: prompts that are trained on, each at most once."""
        given, prompts = self.policy.contexts, self.task.prompts
        rows = torch.randperm(len(prompts), generator=rng)
        given.values = prompts[rows.repeat(-(-contexts // len(rows)))[:contexts]]
        given.generated = 0

    @contextmanager
    def measured(self) -> Iterator[None]:
        """See ``Stage.measured``: the first prompts of the seed's order."""
        with self.policy.contexts.given(self.task.prompts[:MEASURED]):
            yield

    @contextmanager
    def whole(self) -> Iterator[None]:
        """See ``Stage.whole``: the prompts that are trained on, or as many as are evaluated."""
        with self.policy.contexts.given(self.task.prompts[:EVALUATED]):
            yield


METRICS = {
    "success_heldout": MetricInfo("success rate, held-out prompts", "", "higher"),
    "success": MetricInfo("success rate, training prompts", "", "higher"),
    "entropy": ENTROPY,
    "mean_length": MetricInfo("mean length of an answer", "tokens", "neither"),
    "kl_reference": MetricInfo("KL(policy || pre-trained)", "nats per answer", "neither"),
    "equal_groups": MetricInfo("groups whose rewards are all equal", "", "lower"),
    "tokens": MetricInfo("tokens generated in a step", "tokens", "neither"),
}
OPTIONS = ("length", "generator_width", "generator_blocks", "success_rate", "beta", "format_reward")


@register
class ArithmeticTask(Task):
    """Sums of two numbers; a sequence is an answer, and a context a prompt with its solution.

    Args:
      info: One of ``members``.
      seed: Which prompts are for training, and which are held out.
      data_size: Training prompts at most; of ``arithmetic-tiny`` those of the pre-training.
      length: Longest answer T; the numbers have T - 2 digits. 0 is the task's own.
      options: Are settings of the policy and the reward; see ``start``.

    Attributes:
      examples: What the policy is pre-trained on: prompts with solutions, int64 ``[N, P + T]``.
      prompts: Those that estimators train on, ``[M, P + T]``; the first of ``examples``.
      unseen: Those that nothing is trained on.
      train: Solutions of ``examples``, int64 ``[N, T]``.
      heldout: Solutions of ``unseen``.
    """

    kind = "language model"
    stage = ArithmeticStage
    end: int

    members = (
        TaskInfo(
            "arithmetic",
            "answers to prompts such as 17+25=, reward 1 if right; a pre-trained transformer",
            12,
            4,
            "success_heldout",
            METRICS,
            options=OPTIONS,
            end=True,
        ),
        TaskInfo(
            "arithmetic-tiny",
            "the same in base 4: 8 prompts, whose answers can all be listed",
            6,
            3,
            "success",
            METRICS,
            options=OPTIONS,
            end=True,
        ),
    )

    def __init__(
        self, info: TaskInfo, seed: int, data_size: int, length: int = 0, **options: Any
    ) -> None:
        self.info = info
        self.base, self.digits = info.vocabulary - 2, (length or info.length) - 2
        self.end = info.vocabulary - 1
        self.tokens = (*(str(digit) for digit in range(self.base)), "+", "")
        tiny = info.name == "arithmetic-tiny"
        rng, unseen = stream("data", info.name, seed), 8 if tiny else EVALUATED
        problems = _some(self.base ** (2 * self.digits), unseen + data_size, rng)
        rows = self._written(problems)
        self.unseen, self.examples = rows[:unseen], rows[unseen:]
        self.prompts = self.examples[:8] if tiny else self.examples
        self.train, self.heldout = (x[:, -self.digits - 2 :] for x in (self.examples, self.unseen))

    @classmethod
    def check(
        cls, info: TaskInfo, length: int = 0, generator_width: int = 0, **options: Any
    ) -> None:
        """See ``Task.check``."""
        most = info.length if info.name == "arithmetic-tiny" else 8
        if length and not 3 <= length <= most:
            raise UserError(f"length = {length}: answers of {info.name} have 3 to {most} tokens")
        if generator_width % 16:
            raise UserError(f"generator_width = {generator_width}: must be a multiple of 16")

    def _written(self, problems: Tensor) -> Tensor:
        """Return problems int64 ``[n]`` as prompts with their solutions, ``[n, P + T]``."""
        size, T = self.base**self.digits, self.digits + 2
        pair = torch.stack([problems // size, problems % size], dim=1)
        places = self.base ** torch.arange(self.digits, -1, -1)
        digits = pair.unsqueeze(2) // places[1:] % self.base  # [n, 2, digits]
        plus = torch.full_like(problems, self.base).unsqueeze(1)
        total = pair.sum(dim=1, keepdim=True) // places % self.base  # [n, digits + 1]
        # Leading zeros are left out, but for the last digit.
        zeros = ((total == 0).cumprod(dim=1)[:, :-1]).sum(dim=1, keepdim=True)
        place = torch.arange(T) + zeros
        padded = nn.functional.pad(total, (0, T), value=self.end)
        return torch.cat([digits[:, 0], plus, digits[:, 1], padded.gather(1, place)], dim=1)

    def start(self, settings: TrainingSettings) -> PromptedTransformer:
        """Return the policy, not yet initialised."""
        tiny = self.info.name == "arithmetic-tiny"
        width = settings.generator_width or (16 if tiny else 64)
        return PromptedTransformer(
            len(self.tokens),
            self.digits + 2,
            self.prompts[:1],
            self.end,
            width,
            settings.generator_blocks or (1 if tiny else 2),
            heads=max(1, width // 16),
        )

    def quality(self, policy: Policy, tokens: Tensor, rng: torch.Generator) -> dict[str, float]:
        """See ``Task.quality``; quality needs the pre-trained policy too."""
        return {}

    def full_quality(self, policy: Policy, rng: torch.Generator) -> dict[str, float]:
        return {}

    def prompted(self, prompts: Tensor, answers: Tensor) -> list[str]:
        """Return prompts ``[n, P + T]`` with answers ``[n, T]`` as text, such as "17+25=42"."""
        asked = self.format(prompts[:, : -answers.shape[1]])
        return [f"{a}={b}" for a, b in zip(asked, self.format(answers), strict=True)]


def _some(total: int, count: int, rng: torch.Generator) -> Tensor:
    """Return ``count`` different numbers below ``total`` in random order; all if there are fewer.

    The first ones are the same whatever the count.
    """
    if total <= ALL_LISTED:
        return torch.randperm(total, generator=rng)[:count]
    drawn = torch.randint(total, (ALL_LISTED,), generator=rng).tolist()
    return torch.tensor(list(dict.fromkeys(drawn))[:count])


@torch.no_grad()
def success(policy: PromptedTransformer, prompts: Tensor) -> float:
    """Return the mean probability of the right answer to prompts ``[M, P + T]``."""
    with policy.contexts.given(prompts):
        right = policy.solutions(len(prompts))
        log_p = at_tokens(policy.log_probs(right), right).sum(dim=1)
    return float(log_p.double().exp().mean())


@torch.no_grad()
def quality(
    policy: PromptedTransformer,
    reference: PromptedTransformer,
    prompts: Tensor,
    rng: torch.Generator,
) -> dict[str, float]:
    """Return entropy, length and divergence from the pre-trained policy, means over prompts.

    What follows a prefix is known, so that only prefixes are drawn, an answer for each prompt;
    where all answers can be listed, they are, and the values are exact.

    Args:
      policy: The policy.
      reference: The policy as pre-training left it; it has the same contexts.
      prompts: ``[M, P + T]``.
      rng: Draws the answers.
    """
    M, V, T = len(prompts), policy.vocabulary, policy.length
    with policy.contexts.given(prompts):
        if M * V**T <= EVALUATED * 16:
            tokens = enumerate_sequences(V, T).to(policy.device).repeat(M, 1)
            log_p = policy.log_probs(tokens).double()
            weights = at_tokens(log_p, tokens).sum(dim=1).exp() / M
        else:
            tokens = policy.sample(M, rng)
            log_p = policy.log_probs(tokens).double()
            weights = torch.full_like(log_p[:, 0, 0], 1 / M)
        log_r = reference.log_probs(tokens).double()
    p, lengths = log_p.exp(), sequence_lengths(tokens, policy.end).double()
    entropy, divergence = -(p * log_p).sum(dim=(1, 2)), (p * (log_p - log_r)).sum(dim=(1, 2))
    length = weights @ lengths
    return {
        "entropy": float(weights @ entropy / length),
        "mean_length": float(length),
        "kl_reference": float(weights @ divergence),
    }

"""The contract of a task: data, metrics, and how its policy is trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from estbench.config.experiment import TrainingSettings
from estbench.core.errors import UserError
from estbench.core.registry import TASKS, Registry
from estbench.models.policy import Policy
from estbench.tasks.declaring import Size, TaskInfo
from estbench.tasks.stage import AdversarialStage, Stage

__all__ = ["Task"]

KINDS = (
    "adversarial",
    "fixed reward",
    "autoencoder",
    "language model",
)  # in the order in which they are listed


class Task:
    """A data distribution with its metrics, made for one seed.

    A subclass is made as ``cls(info, seed, data_size, **options)``: with one of the declared infos,
    the seed that its data follow from, the number of training sequences, and the settings that
    ``info.options`` names. It is registered by ``estbench.register``, with all of its ``members``,
    or with its ``info`` where it has a single one.

    Attributes:
      members: What each task of the class declares.
      kind: How it is trained.
      stage: The class of its policy and reward.
      settings: A frozen dataclass that inherits from ``estbench.TrainingSettings``, if the task has
        settings of its own. They are set in ``[per_task.NAME]``, and those that ``info.options``
        names are given to the constructor.
      info: Name, sizes and metrics.
      tokens: Printed name of each token, length V.
      separator: What stands between tokens in print.
      train: Training sequences, int64 ``[N, T]``.
      heldout: Sequences of the same distribution that nothing is trained on, int64 ``[M, T]``.
      initialisation: Law and scale of the generator's initial parameters.
      end: The token that ends a sequence and fills it up to T; None where all have length T.
      paper_token: The token whose output bias the paper reports the variance of; None if none.
    """

    registry: ClassVar[Registry] = TASKS
    members: ClassVar[tuple[TaskInfo, ...]] = ()
    kind: ClassVar[Literal["adversarial", "fixed reward", "autoencoder", "language model"]] = (
        "adversarial"
    )
    stage: ClassVar[type[Stage]] = AdversarialStage
    settings: ClassVar[type[TrainingSettings] | None] = None

    info: TaskInfo
    tokens: tuple[str, ...]
    separator: str = ""
    train: Tensor
    heldout: Tensor
    initialisation: tuple[str, float]
    end: int | None = None
    paper_token: int | None = None

    @classmethod
    def check(cls, info: TaskInfo, **options: Any) -> None:
        """Check options before anything is computed.

        Raises:
          UserError: The task cannot be made of them.
        """

    @classmethod
    def size(cls, **options: Any) -> Size:
        """Return V, T and the end token, if they depend on data rather than on ``info``."""
        raise NotImplementedError

    @classmethod
    def fingerprint(cls, **options: Any) -> str:
        """Return a hash of the files that the data come from; "" if there are none."""
        return ""

    @classmethod
    def describe(cls, **options: Any) -> str:
        """Return a line on the data that was read; "" if none was."""
        return ""

    @property
    def name(self) -> str:
        """The task's name, everywhere."""
        return self.info.name

    @property
    def vocabulary(self) -> int:
        """Number of tokens V."""
        return len(self.tokens)

    @property
    def length(self) -> int:
        """Sequence length T."""
        return self.train.shape[1]

    def quality(self, policy: Policy, tokens: Tensor, rng: torch.Generator) -> dict[str, float]:
        """Return what a small sample tells: cheap enough for every batch.

        Args:
          policy: The generator.
          tokens: Its samples, int64 ``[n, T]``.
          rng: Stream for what is random here.
        """
        raise NotImplementedError

    def full_quality(self, policy: Policy, rng: torch.Generator) -> dict[str, float]:
        """Return what is exact or needs a large sample; same names, same expectations.

        It leaves out metrics that depend on the sample's size (distinct sequences, bigram KL), so
        that ``quality(...) | full_quality(...)`` is the complete set, comparable along a run.
        """
        raise NotImplementedError

    def format(self, tokens: Tensor) -> list[str]:
        """Return sequences int64 ``[n, T]`` as text, one string a row."""
        return [self.separator.join(self.tokens[v] for v in row) for row in tokens.tolist()]


@dataclass(frozen=True)
class _Entry:
    """A task in the registry.

    Attributes:
      info: What it declares.
      origin: Its class.
    """

    info: TaskInfo
    origin: type[Task]


def _declared(task: Any) -> Iterator[tuple[str, int, _Entry]]:
    """Yield what a class of tasks registers; see ``Registry.read``."""
    declared = task.members or (vars(task).get("info"),)
    for info in declared:
        if not isinstance(info, TaskInfo):
            raise UserError(
                f"{task.__qualname__} has no info: set info = estbench.TaskInfo(name=..., "
                "summary=..., vocabulary=..., length=..., primary_metric=..., metrics={...})"
            )
        if info.primary_metric not in info.metrics:
            raise UserError(
                f"{info.name}: primary_metric is {info.primary_metric!r}, which is not one of its "
                f"metrics: {', '.join(info.metrics)}"
            )
        yield info.name, KINDS.index(task.kind), _Entry(replace(info, kind=task.kind), task)


TASKS.read = _declared

"""What the trainer knows of a task."""

from __future__ import annotations

import torch
from torch import Tensor

from estbench.models.policy import Policy
from estbench.tasks.catalogue import TaskInfo

__all__ = ["Task"]


class Task:
    """A data distribution with its metrics, made for one seed.

    Attributes:
      info: Name, sizes and metrics.
      tokens: Printed name of each token, length V.
      separator: What stands between tokens in print.
      train: Training sequences, int64 ``[N, T]``.
      heldout: Sequences of the same distribution that nothing is trained on, int64 ``[M, T]``.
      initialisation: Law and scale of the generator's initial parameters.
      end: The token that ends a sequence and fills it up to T; None where all have length T.
      paper_token: The token whose output bias the paper reports the variance of; None if none.
    """

    info: TaskInfo
    tokens: tuple[str, ...]
    separator: str = ""
    train: Tensor
    heldout: Tensor
    initialisation: tuple[str, float]
    end: int | None = None
    paper_token: int | None = None

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

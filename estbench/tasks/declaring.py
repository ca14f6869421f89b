"""What a task declares about itself: sizes, metrics and settings. It imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["DISTINCT", "ENTROPY", "MetricInfo", "Size", "TaskInfo"]


@dataclass(frozen=True)
class MetricInfo:
    """How to label a metric and which way is better.

    Attributes:
      label: For axes and column heads.
      unit: Empty for a fraction.
      better: "higher", "lower" or "neither".
    """

    label: str
    unit: str
    better: Literal["higher", "lower", "neither"]


@dataclass(frozen=True)
class TaskInfo:
    """What a task declares about itself.

    Attributes:
      name: Its name, everywhere.
      summary: One line.
      vocabulary: Number of tokens V.
      length: Sequence length T.
      primary_metric: The metric of headline figures, a key of ``metrics``.
      metrics: By name.
      options: Training settings that the task takes, such as ``vocabulary``; V and T above are
        what it has without them, 0 where they come from the data.
      end: Whether its last token, V - 1, ends a sequence and fills it up to length T.
      kind: How it is trained: "adversarial" (generator against discriminator), "fixed reward",
        "autoencoder" (an encoder as the policy, and a decoder), or "language model" (a policy that
        answers prompts, pre-trained on right answers). The task's class sets it.
      needs: A package that is an extra of the installation, as (module, package, extra); or none.
    """

    name: str
    summary: str
    vocabulary: int
    length: int
    primary_metric: str
    metrics: dict[str, MetricInfo]
    options: tuple[str, ...] = ()
    end: bool = False
    kind: Literal["adversarial", "fixed reward", "autoencoder", "language model"] = "adversarial"
    needs: tuple[str, str, str] | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> TaskInfo:
        """Return what a row of the generated catalogue says."""
        metrics = {name: MetricInfo(**metric) for name, metric in row["metrics"].items()}
        needs = tuple(row["needs"]) if row["needs"] else None
        options = tuple(row["options"])
        return cls(**{**row, "metrics": metrics, "options": options, "needs": needs})


@dataclass(frozen=True)
class Size:
    """How large a task's sequences are.

    Attributes:
      vocabulary: Number of tokens V.
      length: Sequence length T.
      end: The token that ends a sequence and fills it up, or None.
    """

    vocabulary: int
    length: int
    end: int | None = None


DISTINCT = MetricInfo("distinct sequences in the sample", "", "higher")
ENTROPY = MetricInfo("generator entropy", "nats per token", "neither")

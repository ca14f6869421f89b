"""What each task is and what its metrics mean, without the code that computes them.

A new task is a class in a file of its own and an entry here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from estbench.errors import unknown_name

__all__ = ["MetricInfo", "TaskInfo", "builder", "info", "names"]


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
    """

    name: str
    summary: str
    vocabulary: int
    length: int
    primary_metric: str
    metrics: dict[str, MetricInfo]


_DISTINCT = MetricInfo("distinct sequences in the sample", "", "higher")
_ENTROPY = MetricInfo("generator entropy", "nats per token", "neither")
_GRAMMAR_METRICS = {
    "goodness": MetricInfo("goodness", "windows", "higher"),
    "p_valid": MetricInfo("P(valid)", "", "higher"),
    "tv": MetricInfo("total variation to the grammar", "", "lower"),
    "kl": MetricInfo("KL(grammar || generator)", "nats per token", "lower"),
    "bigram_kl": MetricInfo("bigram KL(grammar || generator)", "nats", "lower"),
    "distinct": _DISTINCT,
    "entropy": _ENTROPY,
}
_ORACLE_METRICS = {
    "nll_oracle": MetricInfo("oracle NLL", "nats per token", "lower"),
    "nll_gen": MetricInfo("held-out NLL", "nats per token", "lower"),
    "kl_reverse": MetricInfo("KL(generator || oracle)", "nats per token", "lower"),
    "kl_forward": MetricInfo("KL(oracle || generator)", "nats per token", "lower"),
    "distinct": _DISTINCT,
    "entropy": _ENTROPY,
}

_EXPRESSIONS = "estbench.tasks.expressions:ExpressionsTask"
_ORACLE = "estbench.tasks.oracle:OracleTask"
_TASKS = {
    task.name: (task, where)
    for task, where in (
        (
            TaskInfo(
                "expressions-3",
                "arithmetic strings x op x, operators uniform over + - * / (the paper's, T=3)",
                5,
                3,
                "goodness",
                _GRAMMAR_METRICS,
            ),
            _EXPRESSIONS,
        ),
        (
            TaskInfo(
                "expressions-15",
                "arithmetic strings x op x op ... x of 15 tokens (the paper's, T=15)",
                5,
                15,
                "goodness",
                _GRAMMAR_METRICS,
            ),
            _EXPRESSIONS,
        ),
        (
            TaskInfo(
                "expressions-padded",
                "arithmetic strings of 1 to 15 tokens, S -> x | S op S, padded with _",
                6,
                15,
                "goodness",
                _GRAMMAR_METRICS,
            ),
            _EXPRESSIONS,
        ),
        (
            TaskInfo(
                "oracle-small",
                "sequences of a seeded N(0, 1) LSTM oracle, V=50, T=8 (SeqGAN's protocol, small)",
                50,
                8,
                "nll_oracle",
                _ORACLE_METRICS,
            ),
            _ORACLE,
        ),
    )
}


def names() -> list[str]:
    """Return the names of all tasks."""
    return list(_TASKS)


def info(name: str) -> TaskInfo:
    """Return what a task declares about itself.

    Raises:
      UserError: The task does not exist.
    """
    return _entry(name)[0]


def builder(name: str) -> Callable[..., Any]:
    """Return the class of a task; this is what imports torch."""
    module, _, attribute = _entry(name)[1].partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return found


def _entry(name: str) -> tuple[TaskInfo, str]:
    if name not in _TASKS:
        raise unknown_name("task", name, _TASKS)
    return _TASKS[name]

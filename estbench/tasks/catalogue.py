"""What each task is and what its metrics mean, without the code that computes them.

A new task is a class in a file of its own and an entry here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from estbench.errors import unknown_name

__all__ = ["MetricInfo", "Size", "TaskInfo", "builder", "info", "names"]


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
      kind: How it is trained: "adversarial" (generator against discriminator), "fixed reward", or
        "autoencoder" (an encoder as the policy, and a decoder).
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
    kind: Literal["adversarial", "fixed reward", "autoencoder"] = "adversarial"
    needs: tuple[str, str, str] | None = None


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
    "nll_sum": MetricInfo("oracle NLL + held-out NLL", "nats per token", "lower"),
    "kl_reverse": MetricInfo("KL(generator || oracle)", "nats per token", "lower"),
    "kl_forward": MetricInfo("KL(oracle || generator)", "nats per token", "lower"),
    "distinct": _DISTINCT,
    "distinct_2": MetricInfo("distinct bigrams", "of all", "neither"),
    "unique": MetricInfo("distinct sequences in a large sample", "", "higher"),
    "copied": MetricInfo("copied from the training data", "", "lower"),
    "entropy": _ENTROPY,
    "oracle_entropy": MetricInfo("oracle's entropy", "nats per token", "neither"),
}
_ORACLE_OPTIONS = (
    "vocabulary",
    "length",
    "oracle_width",
    "oracle_seed",
    "oracle_weights",
    "quality_sequences",
)
_TEXT_METRICS = {
    "nll_gen": MetricInfo("held-out NLL", "nats per token", "lower"),
    "bleu_2": MetricInfo("BLEU-2 to held-out text", "", "higher"),
    "bleu_3": MetricInfo("BLEU-3 to held-out text", "", "higher"),
    "bleu_4": MetricInfo("BLEU-4 to held-out text", "", "higher"),
    "bleu_5": MetricInfo("BLEU-5 to held-out text", "", "higher"),
    "self_bleu_2": MetricInfo("self-BLEU-2", "", "lower"),
    "self_bleu_3": MetricInfo("self-BLEU-3", "", "lower"),
    "self_bleu_4": MetricInfo("self-BLEU-4", "", "lower"),
    "self_bleu_5": MetricInfo("self-BLEU-5", "", "lower"),
    "distinct": _DISTINCT,
    "distinct_2": MetricInfo("distinct bigrams", "of all", "neither"),
    "distinct_3": MetricInfo("distinct trigrams in a large sample", "of all", "neither"),
    "unique": MetricInfo("distinct sequences in a large sample", "", "higher"),
    "copied": MetricInfo("copied from the training data", "", "lower"),
    "mean_length": MetricInfo("mean length", "tokens", "neither"),
    "entropy": _ENTROPY,
}
_BERNOULLI_METRICS = {
    "loss": MetricInfo("loss E (b - t)²", "", "lower"),
    "excess_loss": MetricInfo("loss above the least", "", "lower"),
    "theta": MetricInfo("θ of the worse outcome", "", "lower"),
    "entropy": _ENTROPY,
}
_ROUGH_METRICS = {
    "expected_reward": MetricInfo("expected reward", "", "higher"),
    "p_best": MetricInfo("P(best sequence)", "", "higher"),
    "entropy": _ENTROPY,
}
_AUTOENCODER_METRICS = {
    "elbo_train": MetricInfo("training ELBO", "nats", "higher"),
    "elbo_test": MetricInfo("test ELBO", "nats", "higher"),
    "reconstruction": MetricInfo("training log p(x | b)", "nats", "higher"),
    "rate": MetricInfo("training KL(q(b | x) || p(b))", "nats", "neither"),
}
_SCIKIT_LEARN = ("sklearn", "scikit-learn", "digits")

_BERNOULLI = "estbench.tasks.bernoulli:BernoulliTask"
_DIGITS = "estbench.tasks.digits:DigitsTask"
_EXPRESSIONS = "estbench.tasks.expressions:ExpressionsTask"
_ORACLE = "estbench.tasks.oracle:OracleTask"
_ROUGH = "estbench.tasks.rough:RoughTask"
_TEXT = "estbench.tasks.text:TextTask"
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
                end=True,
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
                _ORACLE_OPTIONS,
            ),
            _ORACLE,
        ),
        (
            TaskInfo(
                "oracle",
                "the same at the published size, V=5000, T=20, or any other; drawn or from a file",
                5000,
                20,
                "nll_oracle",
                _ORACLE_METRICS,
                _ORACLE_OPTIONS,
            ),
            _ORACLE,
        ),
        (
            TaskInfo(
                "text",
                "lines of a text, in words or characters; V and T come from the data",
                0,
                0,
                "nll_gen",
                _TEXT_METRICS,
                ("data", "level", "length", "vocabulary", "minimum_count", "quality_sequences"),
                end=True,
            ),
            _TEXT,
        ),
        *(
            (
                TaskInfo(
                    name,
                    summary,
                    2,
                    length,
                    "theta",
                    _BERNOULLI_METRICS,
                    kind="fixed reward",
                ),
                _BERNOULLI,
            )
            for name, length, summary in (
                ("bernoulli", 1, "the REBAR and RELAX toy: E (b - t)^2, one Bernoulli, t = .499"),
                ("bernoulli-49", 1, "the same, t = .49"),
                ("bernoulli-45", 1, "the same, t = .45"),
                ("bernoullis", 6, "six Bernoullis, a target each, from .45 to .55: their sum"),
            )
        ),
        (
            TaskInfo(
                "rough",
                "a fixed random reward for each of 5^3 sequences, unrelated to its neighbours'",
                5,
                3,
                "expected_reward",
                _ROUGH_METRICS,
                kind="fixed reward",
            ),
            _ROUGH,
        ),
        *(
            (
                TaskInfo(
                    name,
                    summary,
                    vocabulary,
                    length,
                    "elbo_train",
                    _AUTOENCODER_METRICS,
                    kind="autoencoder",
                    needs=_SCIKIT_LEARN,
                ),
                _DIGITS,
            )
            for name, vocabulary, length, summary in (
                ("digits", 2, 200, "discrete VAE on 8 x 8 digits: 200 Bernoulli latents"),
                (
                    "digits-categorical",
                    10,
                    20,
                    "discrete VAE on 8 x 8 digits: 20 categorical latents of 10 values",
                ),
            )
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
        raise unknown_name("task", name, _TASKS, "(see: estbench list tasks)")
    return _TASKS[name]

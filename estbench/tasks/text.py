"""A user's own text as the data distribution, with the metrics of the SeqGAN literature.

A sequence ends with the end symbol or after T tokens; whatever follows the end counts nowhere.
Figures per token are per *real* token: the end symbol counts once, padding does not, and totals
are divided by totals, so that exp(nll_gen) is the perplexity.
"""

from __future__ import annotations

import importlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from estbench.core.errors import UserError
from estbench.core.registry import register
from estbench.models.policy import Policy, at_tokens, has_ended
from estbench.tasks import corpus
from estbench.tasks.base import Task
from estbench.tasks.declaring import DISTINCT, ENTROPY, MetricInfo, Size, TaskInfo

__all__ = ["Bleu", "TextTask", "distinct_ngrams"]

Sentence = tuple[int, ...]

FULL_SAMPLES = 500  # of the generator in a full evaluation
HYPOTHESES = 200  # of them for BLEU, self-BLEU (the field's usual 200 to 500) and entropy
REFERENCES = 500  # held-out lines that BLEU scores them against
ORDERS = (2, 3, 4, 5)
CHUNK = 2**22  # log-probabilities held at once: 16 MB of float32, and a few copies


METRICS = {
    "nll_gen": MetricInfo("held-out NLL", "nats per token", "lower"),
    **{f"bleu_{n}": MetricInfo(f"BLEU-{n} to held-out text", "", "higher") for n in ORDERS},
    **{f"self_bleu_{n}": MetricInfo(f"self-BLEU-{n}", "", "lower") for n in ORDERS},
    "distinct": DISTINCT,
    "distinct_2": MetricInfo("distinct bigrams", "of all", "neither"),
    "distinct_3": MetricInfo("distinct trigrams in a large sample", "of all", "neither"),
    "unique": MetricInfo("distinct sequences in a large sample", "", "higher"),
    "copied": MetricInfo("copied from the training data", "", "lower"),
    "mean_length": MetricInfo("mean length", "tokens", "neither"),
    "entropy": ENTROPY,
}


@register
class TextTask(Task):
    """Lines of a text, one a sequence (see ``corpus``).

    Args:
      info: One of ``members``; V and T come from the text.
      seed: What is held out, and which training lines are used in which order.
      data_size: At most this many training sequences.
      data: A text file, or one of ``corpus.READY``.
      level: "words" or "characters".
      length: T; 0: the longest line's, at most 20 words or 40 characters.
      vocabulary: Most tokens to keep; 0: 5000.
      minimum_count: Tokens that stand less often are not kept.
      quality_sequences: Sequences drawn in a full evaluation; 0: 500.

    Attributes:
      corpus: What was read; its ``summary()`` tells how many lines were left out and why.
      end: Id of the end symbol, V - 1.

    Raises:
      UserError: Something is wrong with the text or a setting, or NLTK is not installed.
    """

    members = (
        TaskInfo(
            "text",
            "lines of a text, in words or characters; V and T come from the data",
            0,
            0,
            "nll_gen",
            METRICS,
            ("data", "level", "length", "vocabulary", "minimum_count", "quality_sequences"),
            end=True,
        ),
    )

    initialisation = ("normal", 0.1)
    end: int

    def __init__(
        self,
        info: TaskInfo,
        seed: int,
        data_size: int,
        data: str = "",
        level: str = "words",
        length: int = 0,
        vocabulary: int = 0,
        minimum_count: int = 1,
        quality_sequences: int = 0,
    ) -> None:
        _check_nltk()
        self.full_samples = _full_samples(quality_sequences)
        self.corpus = corpus.load(data, level, length, vocabulary, minimum_count)
        self.info = replace(info, vocabulary=self.corpus.vocabulary, length=self.corpus.length)
        self.tokens = self.corpus.tokens
        self.end = self.corpus.end
        self.separator = " " if level == "words" else ""
        train, heldout = corpus.split(self.corpus, seed, data_size)
        self.train, self.heldout = torch.tensor(train), torch.tensor(heldout)

    @classmethod
    def check(cls, info: TaskInfo, quality_sequences: int = 0, **options: Any) -> None:
        """Raise what making the task would raise; ``options`` are those of ``corpus.load``."""
        _check_nltk()
        _full_samples(quality_sequences)
        corpus.load(**options)

    @classmethod
    def size(cls, quality_sequences: int = 0, **options: Any) -> Size:
        """Return V, T and the end symbol that a text and its options give."""
        found = corpus.load(**options)
        return Size(found.vocabulary, found.length, found.end)

    @classmethod
    def fingerprint(cls, **options: Any) -> str:
        """Return the SHA-256 of the text."""
        return corpus.fingerprint(options["data"]) if options["data"] else ""

    @classmethod
    def describe(cls, quality_sequences: int = 0, **options: Any) -> str:
        """Return a line on what was read and what was left out."""
        return corpus.load(**options).summary() if options["data"] else ""

    def format(self, tokens: Tensor) -> list[str]:
        """Return sequences int64 ``[n, T]`` as text, each up to its end symbol."""
        return list(self.corpus.texts(tokens.cpu().numpy()))

    def quality(self, policy: Policy, tokens: Tensor, rng: torch.Generator) -> dict[str, float]:
        """Return distinct sequences, distinct bigrams, entropy and mean length of a sample."""
        sentences = self._sentences(tokens)
        return {
            "distinct": len(set(sentences)) / len(sentences),
            "distinct_2": distinct_ngrams(sentences, 2),
            "entropy": _entropy(policy, tokens, self.end),
            "mean_length": _mean_length(sentences),
        }

    def full_quality(self, policy: Policy, rng: torch.Generator) -> dict[str, float]:
        """Return held-out NLL, BLEU, self-BLEU, and what a larger sample tells of the generator.

        ``bleu_n`` is the mean sentence BLEU of 200 sequences against all of (at most) 500 held-out
        lines, the same ones throughout a seed; ``self_bleu_n`` that of each of the 200 against
        the 199 others. Both with smoothing method 1 (Chen and Cherry 2014).
        """
        tokens = policy.sample(self.full_samples, rng)
        sentences = self._sentences(tokens)
        scored = sentences[:HYPOTHESES]
        among_themselves = Bleu(scored)
        bleu = _means(self._references.score(sentence) for sentence in scored)
        self_bleu = _means(among_themselves.score(s, leave_out=i) for i, s in enumerate(scored))
        return {
            "nll_gen": _nll(policy, self.heldout, self.end),
            **{f"bleu_{n}": value for n, value in zip(ORDERS, bleu, strict=True)},
            **{f"self_bleu_{n}": value for n, value in zip(ORDERS, self_bleu, strict=True)},
            "distinct_3": distinct_ngrams(sentences, 3),
            "unique": len(set(sentences)) / len(sentences),
            "copied": sum(sentence in self._training for sentence in sentences) / len(sentences),
            "entropy": _entropy(policy, tokens[:HYPOTHESES], self.end),
            "mean_length": _mean_length(sentences),
        }

    def _sentences(self, tokens: Tensor) -> list[Sentence]:
        lengths = _lengths(tokens, self.end).tolist()
        return [tuple(row[:n]) for row, n in zip(tokens.tolist(), lengths, strict=True)]

    @cached_property
    def _training(self) -> set[Sentence]:
        return set(self._sentences(self.train))

    @cached_property
    def _references(self) -> Bleu:
        # The held-out lines are in random order: the first ones are a sample.
        return Bleu(self._sentences(self.heldout[:REFERENCES]))


class Bleu:
    """BLEU-2 to -5 against all sentences of a fixed set, whose n-grams are counted once.

    Equal to NLTK's ``sentence_bleu`` with smoothing method 1 and uniform weights, which counts
    the n-grams of every reference anew for every sentence. A clipped count needs, of every n-gram,
    only the largest count in any one reference, and the second largest where that one is left out.

    Args:
      references: Token sequences, at least one.
    """

    def __init__(self, references: Sequence[Sentence]) -> None:
        self.lengths = Counter(map(len, references))
        self.sizes = [len(reference) for reference in references]
        # By order: n-gram -> (largest count, whose, largest count of the others).
        self.largest: list[dict[Sentence, tuple[int, int, int]]] = []
        for n in range(1, ORDERS[-1] + 1):
            largest: dict[Sentence, tuple[int, int, int]] = {}
            for owner, reference in enumerate(references):
                for gram, count in Counter(_ngrams(reference, n)).items():
                    first, whose, second = largest.get(gram, (0, -1, 0))
                    if count > first:
                        largest[gram] = count, owner, first
                    elif count > second:
                        largest[gram] = first, whose, count
            self.largest.append(largest)

    def score(self, sentence: Sentence, leave_out: int | None = None) -> list[float]:
        """Return BLEU-2, -3, -4 and -5 of a sentence, in [0, 1].

        Args:
          sentence: Token sequence.
          leave_out: Index of a reference to do without: the sentence itself, for self-BLEU.
        """
        nltk = _nltk_bleu()
        precisions = []
        for n, largest in enumerate(self.largest, 1):
            matched = total = 0
            for gram, count in Counter(_ngrams(sentence, n)).items():
                first, whose, second = largest.get(gram, (0, -1, 0))
                matched += min(count, second if whose == leave_out else first)
                total += count
            if not matched and n == 1:
                return [0.0] * len(ORDERS)
            precisions.append(nltk.Fraction(matched, max(1, total), _normalize=False))
        penalty = nltk.brevity_penalty(self._closest(len(sentence), leave_out), len(sentence))
        smoothed = nltk.SmoothingFunction().method1(precisions)
        logs = [math.log(precision) for precision in smoothed]
        return [penalty * math.exp(math.fsum(x / n for x in logs[:n])) for n in ORDERS]

    def _closest(self, length: int, leave_out: int | None) -> int:
        """Return the reference length nearest to a sentence's, the shorter one of two."""
        gone = None if leave_out is None else self.sizes[leave_out]
        left = (size for size, count in self.lengths.items() if count > (size == gone))
        return min(left, key=lambda size: (abs(size - length), size))


def distinct_ngrams(sentences: Sequence[Sentence], n: int) -> float:
    """Return distinct-n (Li et al. 2016): distinct n-grams over n-grams, all sentences pooled.

    It falls with the number of sentences whatever the policy: compare at equal numbers. 0 where
    no sentence has n tokens.
    """
    grams = [gram for sentence in sentences for gram in _ngrams(sentence, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def _ngrams(sentence: Sentence, n: int) -> Iterator[Sentence]:
    return (sentence[i : i + n] for i in range(len(sentence) - n + 1))


def _full_samples(quality_sequences: int) -> int:
    """Return the number of sequences in a full evaluation."""
    if quality_sequences == 1:
        raise UserError(
            "quality_sequences = 1: a text's must be at least 2, as self-BLEU compares each "
            f"sequence with the others; or 0 for {FULL_SAMPLES}"
        )
    return quality_sequences or FULL_SAMPLES


def _check_nltk() -> None:
    """Raise now what would otherwise be raised by the first full evaluation."""
    if find_spec("nltk") is None:
        raise UserError("BLEU of the task text needs nltk: pip install 'estbench[text]'")


def _nltk_bleu() -> ModuleType:
    return importlib.import_module("nltk.translate.bleu_score")


def _means(scores: Iterator[list[float]]) -> list[float]:
    columns = list(zip(*scores, strict=True))
    return [math.fsum(column) / len(column) for column in columns]


def _mean_length(sentences: Sequence[Sentence]) -> float:
    return sum(map(len, sentences)) / len(sentences)


def _lengths(tokens: Tensor, end: int) -> Tensor:
    """Return numbers of tokens before the end symbol, int64 ``[n]``."""
    return (~(has_ended(tokens, end) | (tokens == end))).sum(dim=1)


def _chunks(policy: Policy, tokens: Tensor, end: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield sequences, which positions are real, and log-probabilities ``[m, t, V]`` along them.

    A few rows at a time: at V = 5000 the log-probabilities of 4,096 sequences take 1.6 GB. Rows
    come by length, and what is padding in all rows of a chunk is not computed.
    """
    rows = max(1, CHUNK // (tokens.shape[1] * policy.vocabulary))
    lengths = _lengths(tokens, end)
    for chosen in torch.split(lengths.argsort(stable=True), rows):
        longest = int(lengths[chosen[-1]]) + 1  # the end symbol is real
        chunk = tokens[chosen, :longest].to(policy.device)
        yield chunk, ~has_ended(chunk, end), policy.log_probs(chunk)


@torch.no_grad()
def _nll(policy: Policy, tokens: Tensor, end: int) -> float:
    """Return -log q of sequences int64 ``[n, T]``, in nats per real token."""
    nats = count = 0.0
    for chunk, alive, log_q in _chunks(policy, tokens, end):
        taken = at_tokens(log_q, chunk)[alive]
        nats -= taken.double().sum().item()
        count += alive.sum().item()
    return nats / count


@torch.no_grad()
def _entropy(policy: Policy, tokens: Tensor, end: int) -> float:
    """Return the entropy of a policy on its own samples int64 ``[n, T]``, nats per real token.

    Each position's conditional entropy is taken exactly (as in ``estimates``).
    """
    nats = count = 0.0
    for _, alive, log_q in _chunks(policy, tokens, end):
        # A token that the policy rules out has log-probability -inf and adds 0, not NaN.
        lowest = torch.finfo(log_q.dtype).min
        entropies = -(log_q.exp() * log_q.clamp_min(lowest)).sum(dim=2)
        nats += entropies[alive].double().sum().item()
        count += alive.sum().item()
    return nats / count

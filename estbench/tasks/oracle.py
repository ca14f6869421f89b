"""SeqGAN's synthetic oracle (Yu et al. 2017): a randomly drawn LSTM is the data distribution.

With the oracle at hand both directions of KL can be estimated. NLL_oracle alone can be gamed (a
cold generator that repeats likely sequences wins), so it always comes with its companions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from estbench.core.errors import UserError
from estbench.core.registry import register
from estbench.core.seeding import stream
from estbench.models.lstm_generator import Generator
from estbench.models.policy import Policy
from estbench.tasks.base import Task
from estbench.tasks.declaring import DISTINCT, ENTROPY, MetricInfo, TaskInfo
from estbench.tasks.estimates import copied, cross_entropies, distinct, distinct_ngrams
from estbench.tasks.weights import file_hash, load_into, read_arrays, sizes

__all__ = ["OracleTask"]

# Sequences of a full evaluation and held-out ones; the literature's evaluations take 10,000.
SAMPLES = {"oracle-small": (2_048, 4_096)}
PUBLISHED_SAMPLES = (10_000, 10_000)
LARGEST_VOCABULARY, LONGEST = 1_000_000, 10_000


METRICS = {
    "nll_oracle": MetricInfo("oracle NLL", "nats per token", "lower"),
    "nll_gen": MetricInfo("held-out NLL", "nats per token", "lower"),
    "nll_sum": MetricInfo("oracle NLL + held-out NLL", "nats per token", "lower"),
    "kl_reverse": MetricInfo("KL(generator || oracle)", "nats per token", "lower"),
    "kl_forward": MetricInfo("KL(oracle || generator)", "nats per token", "lower"),
    "distinct": DISTINCT,
    "distinct_2": MetricInfo("distinct bigrams", "of all", "neither"),
    "unique": MetricInfo("distinct sequences in a large sample", "", "higher"),
    "copied": MetricInfo("copied from the training data", "", "lower"),
    "entropy": ENTROPY,
    "oracle_entropy": MetricInfo("oracle's entropy", "nats per token", "neither"),
}
OPTIONS = (
    "vocabulary",
    "length",
    "oracle_width",
    "oracle_seed",
    "oracle_weights",
    "quality_sequences",
)


@register
class OracleTask(Task):
    """Sequences of an LSTM of the generator's own class with N(0, 1) parameters, or from a file.

    All its metrics are in nats per token and Rao-Blackwellised (``estimates``), the reverse ones
    on the generator's prefixes and the forward ones on held-out prefixes, so that
    kl_reverse = nll_oracle - entropy and kl_forward = nll_gen - oracle entropy hold to rounding
    and neither is ever negative.

    Args:
      info: One of ``members``.
      seed: Data follow from (name, seed).
      data_size: Training sequences.
      oracle_seed: Which oracle; the same one for every ``seed``.
      vocabulary: V; 0 for the catalogue's.
      length: T; 0 for the catalogue's.
      oracle_width: Width of its embedding and of its LSTM.
      oracle_weights: A file with its parameters instead (``weights``); "" for none.
      quality_sequences: Sequences in a full evaluation, and held-out ones; 0 for 10,000 each
        (``oracle-small``: 2,048 and 4,096).

    Attributes:
      oracle: The oracle, frozen.
      oracle_entropy: Its entropy in nats per token, from its exact conditional entropies along the
        held-out sequences.
      oracle_entropy_error: Standard error of that.

    Raises:
      UserError: The file is no oracle of this vocabulary and width, or a number is out of range.
    """

    members = (
        TaskInfo(
            "oracle-small",
            "sequences of a seeded N(0, 1) LSTM oracle, V=50, T=8 (SeqGAN's protocol, small)",
            50,
            8,
            "nll_oracle",
            METRICS,
            OPTIONS,
        ),
        TaskInfo(
            "oracle",
            "the same at the published size, V=5000, T=20, or any other; drawn or from a file",
            5000,
            20,
            "nll_oracle",
            METRICS,
            OPTIONS,
        ),
    )

    initialisation = ("normal", 0.1)
    separator = " "

    def __init__(
        self,
        info: TaskInfo,
        seed: int,
        data_size: int,
        oracle_seed: int = 0,
        vocabulary: int = 0,
        length: int = 0,
        oracle_width: int = 32,
        oracle_weights: str = "",
        quality_sequences: int = 0,
    ) -> None:
        self.info = info
        V, T = self._sizes(info, vocabulary, length)
        self.tokens = tuple(str(v) for v in range(V))
        own, heldout = SAMPLES.get(info.name, PUBLISHED_SAMPLES)
        self.full_samples = quality_sequences or own
        self.oracle = Generator(V, T, embedding=oracle_width, hidden=oracle_width)
        self.oracle.requires_grad_(False)
        law: tuple[str | int, ...] = (info.name, oracle_seed)
        if oracle_weights:
            arrays = read_arrays(Path(oracle_weights))
            load_into(self.oracle, arrays, Path(oracle_weights))
            law = (info.name, file_hash(Path(oracle_weights)))
        else:
            if (V, T, oracle_width) != (info.vocabulary, info.length, 32):
                law = (*law, V, T, oracle_width)
            self.oracle.initialise("normal", 1.0, stream("oracle", *law))
        self.train = self.oracle.sample(data_size, stream("data", *law, seed))
        self.heldout = self.oracle.sample(
            quality_sequences or heldout, stream("heldout", *law, seed)
        )
        (entropies,) = cross_entropies(self.oracle, [], self.heldout)
        self.oracle_entropy = entropies.mean().item()
        self.oracle_entropy_error = (entropies.std() / len(entropies) ** 0.5).item()

    @staticmethod
    def _sizes(info: TaskInfo, vocabulary: int, length: int) -> tuple[int, int]:
        V, T = vocabulary or info.vocabulary, length or info.length
        for name, value, low, high in (
            ("vocabulary", V, 2, LARGEST_VOCABULARY),
            ("length", T, 2, LONGEST),
        ):
            if not low <= value <= high:
                raise UserError(f"{name} = {value}: an oracle's must be from {low} to {high}")
        return V, T

    @classmethod
    def check(cls, info: TaskInfo, **options: Any) -> None:
        """Check options before anything is computed.

        Raises:
          UserError: As the class.
        """
        V, _ = cls._sizes(info, options["vocabulary"], options["length"])
        oracle_width = options["oracle_width"]
        if options["oracle_weights"]:
            path = Path(options["oracle_weights"])
            found = sizes(read_arrays(path), path)
            if found != (V, oracle_width, oracle_width):
                raise UserError(
                    f"{path} holds an oracle of vocabulary = {found[0]}, embedding {found[1]} and "
                    f"LSTM {found[2]}; the experiment has vocabulary = {V}, oracle_width = "
                    f"{oracle_width}: set them alike"
                )

    @classmethod
    def fingerprint(cls, **options: Any) -> str:
        """Return a hash of the file of parameters; "" if the oracle is drawn."""
        file = options["oracle_weights"]
        return file_hash(Path(file)) if file else ""

    def quality(self, policy: Policy, tokens: Tensor, rng: torch.Generator) -> dict[str, float]:
        """Return NLL_oracle, reverse KL, entropy and distinct as a sample tells them."""
        return {
            **self._reverse(policy, tokens),
            "distinct": distinct(tokens),
            "distinct_2": distinct_ngrams(tokens, 2),
        }

    def full_quality(self, policy: Policy, rng: torch.Generator) -> dict[str, float]:
        """Return both directions, from a large sample and from all held-out sequences."""
        _, scored = cross_entropies(self.oracle, [policy], self.heldout)
        nll_gen = scored.mean().item()
        sample = policy.sample(self.full_samples, rng)
        reverse = self._reverse(policy, sample)
        return {
            **reverse,
            "nll_gen": nll_gen,
            "nll_sum": reverse["nll_oracle"] + nll_gen,
            "kl_forward": nll_gen - self.oracle_entropy,
            "unique": distinct(sample),
            "copied": copied(sample, self.train),
            "oracle_entropy": self.oracle_entropy,
        }

    def _reverse(self, policy: Policy, tokens: Tensor) -> dict[str, float]:
        found = cross_entropies(policy, [self.oracle], tokens)
        entropy, nll_oracle = (values.mean().item() for values in found)
        return {"nll_oracle": nll_oracle, "kl_reverse": nll_oracle - entropy, "entropy": entropy}

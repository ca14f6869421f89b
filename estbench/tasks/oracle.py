"""SeqGAN's synthetic oracle (Yu et al. 2017): a randomly drawn LSTM is the data distribution.

With the oracle at hand both directions of KL can be estimated. NLL_oracle alone can be gamed (a
cold generator that repeats likely sequences wins), so it always comes with its companions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from estbench.models.generator import Generator
from estbench.models.policy import Policy
from estbench.seeding import stream
from estbench.tasks.base import Task
from estbench.tasks.catalogue import TaskInfo
from estbench.tasks.estimates import cross_entropy, distinct, log_probs_in_chunks

__all__ = ["OracleTask"]

HELDOUT = 4_096
FULL_SAMPLES = 2_048


class OracleTask(Task):
    """Sequences of an LSTM of the generator's own class with N(0, 1) parameters.

    All its metrics are in nats per token and Rao-Blackwellised (``estimates``), the reverse ones
    on the generator's prefixes and the forward ones on held-out prefixes, so that
    kl_reverse = nll_oracle - entropy and kl_forward = nll_gen - oracle entropy hold to rounding
    and neither is ever negative.

    Args:
      info: From the catalogue.
      seed: Data follow from (name, seed).
      data_size: Training sequences.
      oracle_seed: Which oracle; the same one for every ``seed``.

    Attributes:
      oracle: The oracle, frozen.
      oracle_entropy: Its entropy in nats per token, estimated on the held-out sequences.
      oracle_entropy_error: Standard error of that.
    """

    initialisation = ("normal", 0.1)
    separator = " "

    def __init__(self, info: TaskInfo, seed: int, data_size: int, oracle_seed: int = 0) -> None:
        self.info = info
        self.tokens = tuple(str(v) for v in range(info.vocabulary))
        rng = stream("oracle", info.name, oracle_seed)
        self.oracle = Generator(info.vocabulary, info.length).initialise("normal", 1.0, rng)
        self.oracle.requires_grad_(False)
        self.train = self.oracle.sample(data_size, stream("data", info.name, oracle_seed, seed))
        self.heldout = self.oracle.sample(HELDOUT, stream("heldout", info.name, oracle_seed, seed))
        self._heldout_log_p = log_probs_in_chunks(self.oracle, self.heldout)
        entropies = cross_entropy(self._heldout_log_p, self._heldout_log_p)
        self.oracle_entropy = entropies.mean().item()
        self.oracle_entropy_error = (entropies.std() / len(entropies) ** 0.5).item()

    def quality(self, policy: Policy, tokens: Tensor, rng: torch.Generator) -> dict[str, float]:
        """Return NLL_oracle, reverse KL, entropy and distinct as a sample tells them."""
        return {**self._reverse(policy, tokens), "distinct": distinct(tokens)}

    def full_quality(self, policy: Policy, rng: torch.Generator) -> dict[str, float]:
        """Return both directions, from a large sample and from all held-out sequences."""
        log_q = log_probs_in_chunks(policy, self.heldout)
        nll_gen = cross_entropy(self._heldout_log_p, log_q).mean().item()
        return {
            **self._reverse(policy, policy.sample(FULL_SAMPLES, rng)),
            "nll_gen": nll_gen,
            "kl_forward": nll_gen - self.oracle_entropy,
        }

    def _reverse(self, policy: Policy, tokens: Tensor) -> dict[str, float]:
        log_p = log_probs_in_chunks(self.oracle, tokens)
        log_q = log_probs_in_chunks(policy, tokens)
        nll_oracle = cross_entropy(log_q, log_p).mean().item()
        entropy = cross_entropy(log_q, log_q).mean().item()
        return {"nll_oracle": nll_oracle, "kl_reverse": nll_oracle - entropy, "entropy": entropy}

"""A discrete variational autoencoder: encoder q(b | x), decoder p(x, b), and the bound as a reward.

The encoder is the policy: it draws a code b, T tokens out of V, given an image x. The reward of a
code is the integrand of the evidence lower bound, f(b) = log p(x, b) - log q(b | x), so that the
expected reward is the bound. (NVIL: Mnih and Gregor 2014, equation 3.)

f depends on the encoder's parameters itself. That term of the gradient is E[grad -log q] = 0, and
it is left out of every draw: rewards are numbers, and the gradient of the expected reward with f
held fixed is the gradient of the bound.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from estbench.models.contexts import Contexts
from estbench.models.factorised import FactorisedPolicy

__all__ = ["Decoder", "Encoder", "EvidenceBound"]


class Encoder(FactorisedPolicy):
    """q(b | x): independent tokens, logits linear in the image (a sigmoid belief network's).

    Its contexts are images of zeros and ones; the layer sees them as -1 and 1.
    """

    contexts: Contexts

    def inputs(self, n: int) -> Tensor:
        return 2 * super().inputs(n) - 1


class Decoder(nn.Module):
    """p(x, b) = p(b) prod_j p(x_j | b): a learned factorised prior, pixels linear in the code.

    Args:
      vocabulary: Number of tokens V.
      length: Number of positions T.
      pixels: Pixels D of an image.
      dtype: float32 or float64.
    """

    def __init__(
        self, vocabulary: int, length: int, pixels: int, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.length = length
        self.prior = nn.Parameter(torch.zeros(length, vocabulary, dtype=dtype))
        width = length * (1 if vocabulary == 2 else vocabulary)
        self.pixels = nn.Linear(width, pixels, dtype=dtype)

    @torch.no_grad()
    def initialise(self, rng: torch.Generator, mean: Tensor) -> Decoder:
        """Start from codes that hardly matter and pixels as frequent as in the data; return self.

        Args:
          rng: Draws the weights from uniform(-s, s), s = 1 / sqrt(width of the code).
          mean: Frequency of each pixel ``[D]``, strictly between 0 and 1.
        """
        scale = 1 / math.sqrt(self.pixels.in_features)
        self.pixels.weight.uniform_(-scale, scale, generator=rng)
        self.pixels.bias.copy_(mean.logit())
        self.prior.zero_()
        return self

    def forward(self, codes: Tensor) -> Tensor:
        """Return pixel logits ``[n, D]`` of codes as weights ``[n, T, V]``, hard or relaxed."""
        seen = 2 * codes[..., 1] - 1 if self.vocabulary == 2 else codes.flatten(1)
        logits: Tensor = self.pixels(seen)
        return logits

    def log_likelihood(self, images: Tensor, codes: Tensor) -> Tensor:
        """Return log p(x | b) ``[n]`` of images ``[n, D]`` given codes ``[n, T, V]``."""
        logits = self(codes)
        # log sigmoid(l) for a pixel that is on, log sigmoid(-l) for one that is off.
        return nn.functional.logsigmoid((2 * images - 1) * logits).sum(dim=1)

    def log_prior(self, codes: Tensor) -> Tensor:
        """Return log p(b) ``[n]`` of codes ``[n, T, V]``; linear in the weights."""
        return (codes * self.prior.log_softmax(dim=1)).sum(dim=(1, 2))


class EvidenceBound:
    """f(b) = log p(x, b) - log q(b | x) in nats, x being the context that the encoder is given.

    On relaxed codes p(x | b) sees the weights and both log p(b) and log q(b | x) are linear in
    them, as in Tucker et al. (2017). Parameters of encoder and decoder are constants throughout.

    Args:
      encoder: q; its contexts are the images.
      decoder: p.

    Attributes:
      is_relaxed: True: accepts relaxed codes.
      holds_log_prob: True: minus the policy's own log-probability is a term of it, so that it
        changes with the policy.
      hard_evals: Codes evaluated so far.
      relaxed_evals: Relaxed codes evaluated so far.
    """

    is_relaxed = True
    holds_log_prob = True

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        self.encoder = encoder
        self.decoder = decoder
        self.hard_evals = 0
        self.relaxed_evals = 0

    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Tensor:
        """Return f ``[n]`` of codes int64 ``[n, T]``, without a graph."""
        self.hard_evals += tokens.shape[0]
        return sum(self.terms(self.one_hot(tokens)))  # type: ignore[return-value]

    def relaxed(self, weights: Tensor) -> Tensor:
        """Return f ``[n]`` of relaxed codes ``[n, T, V]``, differentiable in them."""
        self.relaxed_evals += weights.shape[0]
        parameters = [p for p in self.decoder.parameters() if p.requires_grad]
        for p in parameters:
            p.requires_grad_(False)
        try:
            return sum(self.terms(weights))  # type: ignore[return-value]
        finally:
            for p in parameters:
                p.requires_grad_(True)

    def terms(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p(x | b) and log p(b) - log q(b | x), each ``[n]``, of codes ``[n, T, V]``.

        The mean of the first is the reconstruction, of the second minus the rate, KL(q || p).
        """
        n = codes.shape[0]
        with torch.no_grad():
            log_q = self.encoder.table(n)
        images = self.encoder.contexts.rows(n).to(codes)
        likelihood = self.decoder.log_likelihood(images, codes)
        return likelihood, self.decoder.log_prior(codes) - (codes * log_q).sum(dim=(1, 2))

    def one_hot(self, tokens: Tensor) -> Tensor:
        """Return codes ``[n, T, V]`` of tokens int64 ``[n, T]``."""
        return nn.functional.one_hot(tokens, self.encoder.vocabulary).to(self.encoder.dtype)

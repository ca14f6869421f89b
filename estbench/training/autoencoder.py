"""The discrete autoencoder's session: an estimator trains the encoder, backpropagation the decoder.

Both take one step a batch, on the same images and codes: the decoder up the gradient of
log p(x, b) for the codes that the encoder drew before its own step. That gradient needs no
estimator, for the law of the codes does not depend on the decoder.
"""

from __future__ import annotations

import math

import torch

from estbench.config.experiment import Experiment
from estbench.core.seeding import stream
from estbench.estimators.base import Draws
from estbench.models.adam import Adam
from estbench.models.autoencoder import Decoder, Encoder, EvidenceBound
from estbench.tasks.digits import CODES, DigitsStage, evidence
from estbench.training.resume import Phases
from estbench.training.session import Session

__all__ = ["AutoencoderSession", "decoder_step"]

SHADES = " .:-=+*#%@"  # of pixel probabilities, in text


class AutoencoderSession(Session):
    """Encoder, decoder and images."""

    changing = (*Session.changing, "decoder_optimiser")

    stage: DigitsStage

    def __init__(self, experiment: Experiment, task: str, seed: int) -> None:
        self.settings = experiment.training_for(task)
        self.stage = stage = DigitsStage(experiment, task, seed)
        self.task = stage.task
        images = stage.task.images
        encoder, decoder = stage.policy.to("cpu"), stage.decoder.to("cpu")
        encoder.initialise(1 / math.sqrt(images.shape[1]), stream("encoder", task, seed))
        # One image more of each kind: pixels that are never on must not have a logit of -inf.
        frequency = (images.sum(dim=0) + 1) / (len(images) + 2)
        decoder.initialise(stream("decoder", task, seed), frequency.cpu())
        encoder.to(experiment.device)
        decoder.to(experiment.device)
        self.optimiser = Adam(
            encoder.parameters(), lr=self.settings.generator_learning_rate, fused=True
        )
        self.decoder_optimiser = Adam(
            decoder.parameters(), lr=self.settings.decoder_learning_rate, fused=True
        )

    @property
    def policy(self) -> Encoder:
        """The encoder."""
        return self.stage.policy

    @property
    def reward(self) -> EvidenceBound:
        """The evidence lower bound."""
        return self.stage.reward

    def after_step(self, used: Draws | None, phases: Phases) -> dict[str, float]:
        """Train the decoder on the images and codes of the step."""
        assert used is not None
        decoder_step(self.reward, used.tokens, self.decoder_optimiser)
        return {}

    def quality(self, rng: torch.Generator) -> dict[str, float]:
        """Return the bound and its parts on some of the training images, a code of each."""
        images = self.stage.task.images
        rows = torch.randperm(len(images), generator=rng, device=rng.device)
        some = images[rows[: self.settings.evaluation_samples].to(images.device)]
        reconstruction, rate = evidence(self.reward, some, rng)
        return _training(reconstruction, rate)

    def full_quality(self, rng: torch.Generator) -> dict[str, float]:
        """Return the bound on all training and all test images, and its parts on the former."""
        reconstruction, rate = evidence(self.reward, self.stage.task.images, rng, CODES)
        unseen = evidence(self.reward, self.stage.task.unseen, rng, CODES)
        return {**_training(reconstruction, rate), "elbo_test": unseen[0] - unseen[1]}

    @torch.no_grad()
    def samples(self, count: int, rng: torch.Generator) -> list[str]:
        """Return images drawn from the model, pixel probabilities as shades, rows joined by "/"."""
        decoder: Decoder = self.stage.decoder
        law = decoder.prior.softmax(dim=1)
        tokens = torch.multinomial(law, count, replacement=True, generator=rng).t()
        shades = (decoder(self.reward.one_hot(tokens)).sigmoid() * len(SHADES)).long()
        side = math.isqrt(shades.shape[1])
        rows = shades.clamp_max(len(SHADES) - 1).view(count, side, side).tolist()
        return ["/".join("".join(SHADES[s] for s in row) for row in image) for image in rows]


def _training(reconstruction: float, rate: float) -> dict[str, float]:
    return {"elbo_train": reconstruction - rate, "reconstruction": reconstruction, "rate": rate}


def decoder_step(
    reward: EvidenceBound, tokens: torch.Tensor, optimiser: torch.optim.Optimizer
) -> None:
    """Take one ascent step on the mean of log p(x, b) over codes, by backpropagation.

    Args:
      reward: Encoder and decoder; the encoder's contexts are the images that the codes are of.
      tokens: Codes int64 ``[n, K, T]``, K of the same image.
      optimiser: The decoder's.
    """
    codes = reward.one_hot(tokens.flatten(0, 1))
    images = reward.encoder.contexts.rows(len(codes)).to(codes)
    decoder = reward.decoder
    loss = -(decoder.log_likelihood(images, codes) + decoder.log_prior(codes)).mean()
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()

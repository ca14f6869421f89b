"""Images of handwritten digits, and the discrete autoencoder that is trained on them.

The 1,797 digits of 8 x 8 pixels that scikit-learn carries (Alpaydin and Kaynak 1998, UCI). A pixel
counts the inked cells of a 4 x 4 square, 0 to 16; it is on where at least half of them are. That is
static binarisation, as of the binarised MNIST that is common for such models: an image is the same
whenever it is drawn, and all noise in a gradient is that of the code.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

from estbench import tasks
from estbench.config.experiment import Experiment
from estbench.core.registry import register
from estbench.core.seeding import stream
from estbench.models.autoencoder import Decoder, Encoder, EvidenceBound
from estbench.models.policy import Policy
from estbench.tasks.base import Task
from estbench.tasks.declaring import MetricInfo, TaskInfo
from estbench.tasks.stage import Stage

__all__ = ["DigitsStage", "DigitsTask", "evidence"]

TRAINING = 1_437  # four fifths; the rest is the test set
MEASURED = 32  # images on which gradients are compared, the same ones for every estimator
CODES = 4  # drawn of each image in a full evaluation
ON = 8  # cells out of 16


class DigitsStage(Stage):
    """An encoder as the policy, and the evidence lower bound as its reward.

    Attributes:
      task: The images.
      decoder: p(x, b).
    """

    policy: Encoder
    reward: EvidenceBound
    conditional = True

    def __init__(self, experiment: Experiment, task: str, seed: int) -> None:
        settings, device = experiment.training_for(task), experiment.device
        self.task = made = DigitsTask(tasks.info(task), seed, settings.data_size)
        made.images, made.unseen = made.images.to(device), made.unseen.to(device)
        V, T, pixels = made.info.vocabulary, made.info.length, made.images.shape[1]
        self.policy = Encoder(V, T, pixels, contexts=torch.full((1, pixels), 0.5)).to(device)
        self.decoder = Decoder(V, T, pixels).to(device)
        self.reward = EvidenceBound(self.policy, self.decoder)
        self.parts = {"policy": self.policy, "decoder": self.decoder}

    def next_batch(self, contexts: int, rng: torch.Generator) -> None:
        """See ``Stage.next_batch``: images of the training set, each at most once."""
        images = self.task.images
        rows = torch.randperm(len(images), generator=rng)
        # A batch larger than the set goes through it again.
        rows = rows.repeat(-(-contexts // len(rows)))[:contexts]
        self.policy.contexts.values = images[rows.to(images.device)]

    @contextmanager
    def measured(self) -> Iterator[None]:
        """See ``Stage.measured``: the first training images of the seed's order."""
        with self.policy.contexts.given(self.task.images[:MEASURED]):
            yield

    @contextmanager
    def whole(self) -> Iterator[None]:
        """See ``Stage.whole``: all training images."""
        with self.policy.contexts.given(self.task.images):
            yield


METRICS = {
    "elbo_train": MetricInfo("training ELBO", "nats", "higher"),
    "elbo_test": MetricInfo("test ELBO", "nats", "higher"),
    "reconstruction": MetricInfo("training log p(x | b)", "nats", "higher"),
    "rate": MetricInfo("training KL(q(b | x) || p(b))", "nats", "neither"),
}
SCIKIT_LEARN = ("sklearn", "scikit-learn", "digits")


@register
class DigitsTask(Task):
    """Images as contexts; a "sequence" of this task is the code of one, T tokens out of V.

    Args:
      info: One of ``members``.
      seed: Which images are for training and which for the test.
      data_size: Training images, at most 1,437.

    Attributes:
      images: Training images, float32 ``[N, 64]`` of zeros and ones, in the order of the seed.
      unseen: Test images ``[360, 64]``.
      train: No codes are given: int64 ``[0, T]``; so is ``heldout``.

    Raises:
      UserError: scikit-learn is not installed.
    """

    kind = "autoencoder"
    stage = DigitsStage
    members = (
        TaskInfo(
            "digits",
            "discrete VAE on 8 x 8 digits: 200 Bernoulli latents",
            2,
            200,
            "elbo_train",
            METRICS,
            needs=SCIKIT_LEARN,
        ),
        TaskInfo(
            "digits-categorical",
            "discrete VAE on 8 x 8 digits: 20 categorical latents of 10 values",
            10,
            20,
            "elbo_train",
            METRICS,
            needs=SCIKIT_LEARN,
        ),
    )

    def __init__(self, info: TaskInfo, seed: int, data_size: int) -> None:
        tasks.check_needs(info)
        self.info = info
        self.tokens = tuple(str(v) for v in range(info.vocabulary))
        self.separator = "" if info.vocabulary <= 10 else " "
        images = binary_images()
        order = torch.randperm(len(images), generator=stream("data", "digits", seed))
        self.images = images[order[:TRAINING][:data_size]]
        self.unseen = images[order[TRAINING:]]
        self.train = self.heldout = torch.zeros(0, info.length, dtype=torch.int64)

    def quality(self, policy: Policy, tokens: Tensor, rng: torch.Generator) -> dict[str, float]:
        """See ``Task.quality``; a code alone has no quality: the bound needs the decoder too."""
        return {}

    def full_quality(self, policy: Policy, rng: torch.Generator) -> dict[str, float]:
        return {}


@torch.no_grad()
def evidence(
    reward: EvidenceBound, images: Tensor, rng: torch.Generator, codes: int = 1
) -> tuple[float, float]:
    """Return E log p(x | b) and KL(q(b | x) || p(b)), means over images, in nats.

    The bound is their difference. The divergence is exact, for both laws are factorised; the
    reconstruction is a mean over drawn codes.

    Args:
      reward: Encoder and decoder.
      images: ``[n, D]``.
      rng: Stream of the codes.
      codes: Codes drawn of each image.
    """
    encoder, decoder = reward.encoder, reward.decoder
    with encoder.contexts.given(images):
        log_q = encoder.table(len(images))
        tokens = encoder.sample(len(images) * codes, rng)
    drawn = reward.one_hot(tokens)
    found = decoder.log_likelihood(images.repeat_interleave(codes, dim=0), drawn)
    log_p = decoder.prior.log_softmax(dim=1)
    rate = (log_q.exp() * (log_q - log_p)).sum(dim=(1, 2))
    return float(found.double().mean()), float(rate.double().mean())


@cache
def binary_images() -> Tensor:
    """Return all images, float32 ``[1797, 64]`` of zeros and ones."""
    datasets = importlib.import_module("sklearn.datasets")  # takes a second: only who needs it
    counts = torch.tensor(datasets.load_digits().data)
    return (counts >= ON).to(torch.float32)

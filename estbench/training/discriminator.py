"""LSTMDiscriminator updates: binary cross-entropy between real and generated sequences."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from estbench.models.lstm_discriminator import LSTMDiscriminator
from estbench.training.fused import FusedUpdates
from estbench.training.prefixes import merge_prefixes

__all__ = ["shuffled_rows", "train_by_autograd", "train_discriminator"]

UPDATES_PER_PLAN = 128  # bounds the memory of a plan; the paper's discriminator epoch is 79


def train_discriminator(
    discriminator: nn.Module,
    optimiser: torch.optim.Optimizer,
    real: Tensor,
    fake: Tensor,
    updates: int,
    batch_size: int,
    rng: torch.Generator,
) -> tuple[float, float]:
    """Make some updates, each on ``batch_size`` real and as many generated sequences.

    Both pools are gone through in shuffled epochs: no sequence comes back before all others have
    been used. ``LSTMDiscriminator`` with plain Adam on the CPU takes the hand-written path of
    ``FusedUpdates``; every other pair takes autograd, and the two agree to rounding.

    SeqGAN's k epochs over one set of generated sequences are k * M / ``batch_size`` updates.

    Args:
      discriminator: Maps tokens int64 ``[n, T]`` to logits ``[n]`` of "real". May have
        ``training_logits(tokens, rng)``, the same with dropout, and ``penalty()``, a scalar that
        is added to the loss it is trained on.
      optimiser: Its optimiser; keeps its state between calls.
      real: Training sequences, int64 ``[N, T]``.
      fake: Generated sequences, int64 ``[M, T]``: sampled by the caller once for all updates.
      updates: Number of updates.
      batch_size: Sequences of each kind in an update.
      rng: Stream of the shuffles, then of the dropout; on the discriminator's device if there is
        dropout.

    Returns:
      Mean loss (nats, without the penalty) and mean accuracy over the updates, each measured
      before its update, with its dropout; nan for no updates.
    """
    if updates == 0:
        return float("nan"), float("nan")
    device = next(discriminator.parameters()).device
    real, fake = (
        pool[shuffled_rows(len(pool), updates * batch_size, rng)]
        .view(updates, batch_size, -1)
        .to(device)
        for pool in (real, fake)
    )
    if isinstance(discriminator, LSTMDiscriminator) and FusedUpdates.supports(
        discriminator, optimiser
    ):
        return _train_fused(discriminator, optimiser, real, fake)
    return train_by_autograd(discriminator, optimiser, real, fake, rng)


def train_by_autograd(
    discriminator: nn.Module,
    optimiser: torch.optim.Optimizer,
    real: Tensor,
    fake: Tensor,
    rng: torch.Generator | None = None,
) -> tuple[float, float]:
    """Update once on each pair of batches, int64 ``[U, B, T]``; the reference path.

    Arguments and result are those of ``train_discriminator``. ``rng`` is needed where the
    discriminator has ``training_logits``.
    """
    discriminator.train()
    logits_of, penalty = _objective(discriminator, rng)
    batch = real.shape[1]
    labels = torch.cat([torch.ones(batch), torch.zeros(batch)]).to(real.device)
    losses, accuracies = [], []
    for pair in torch.cat([real, fake], dim=1):
        logits = logits_of(pair)
        target = labels.to(logits.dtype)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, target)
        optimiser.zero_grad()
        objective = loss if penalty is None else loss + penalty()
        objective.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(loss.detach())
        accuracies.append(((logits.detach() > 0) == (target > 0)).double().mean())
    return torch.stack(losses).double().mean().item(), torch.stack(accuracies).mean().item()


def _objective(
    discriminator: nn.Module, rng: torch.Generator | None
) -> tuple[Callable[[Tensor], Tensor], Callable[[], Tensor] | None]:
    """Return the function that makes a batch's logits in training, and the penalty, if any."""
    penalty: Callable[[], Tensor] | None = getattr(discriminator, "penalty", None)
    with_dropout = getattr(discriminator, "training_logits", None)
    if with_dropout is None:
        return discriminator, penalty
    if rng is None:
        raise TypeError("a discriminator with dropout is trained on a stream of its own: give rng")
    return partial(with_dropout, rng=rng), penalty


def shuffled_rows(size: int, count: int, rng: torch.Generator) -> Tensor:
    """Return ``count`` row numbers below ``size``: one random permutation after another."""
    epochs = -(-count // size)
    rows = [torch.randperm(size, generator=rng, device=rng.device) for _ in range(epochs)]
    return torch.cat(rows)[:count]


def _train_fused(
    discriminator: LSTMDiscriminator, optimiser: torch.optim.Optimizer, real: Tensor, fake: Tensor
) -> tuple[float, float]:
    """Same as ``train_by_autograd``, several times as fast."""
    batch = 2 * real.shape[1]
    fused = FusedUpdates(discriminator, optimiser)
    dtype = discriminator.output.weight.dtype
    loss = accuracy = 0.0
    chunks = zip(*(torch.split(pool, UPDATES_PER_PLAN) for pool in (real, fake)), strict=True)
    for reals, fakes in chunks:
        plan = merge_prefixes(reals, fakes, discriminator.vocabulary, dtype)
        logits = fused.run(plan, batch).double()
        generated = plan.rows - plan.real
        # -log p of a real row is softplus(-logit), of a generated one softplus(logit).
        softplus = nn.functional.softplus
        loss += (plan.real * softplus(-logits) + generated * softplus(logits)).sum().item()
        accuracy += torch.where(logits > 0, plan.real, generated).sum().item()
    total = batch * len(real)
    return loss / total, accuracy / total

"""Discriminator updates: binary cross-entropy between real and generated sequences."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from estbench.models.discriminator import Discriminator
from estbench.training.fused import FusedUpdates
from estbench.training.prefixes import plan_updates

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
    been used. ``Discriminator`` with plain Adam on the CPU takes the hand-written path of
    ``FusedUpdates``; every other pair takes autograd, and the two agree to rounding.

    Args:
      discriminator: Maps tokens int64 ``[n, T]`` to logits ``[n]`` of "real".
      optimiser: Its optimiser; keeps its state between calls.
      real: Training sequences, int64 ``[N, T]``.
      fake: Generated sequences, int64 ``[M, T]``: sampled by the caller once for all updates.
      updates: Number of updates.
      batch_size: Sequences of each kind in an update.
      rng: Stream of the shuffles.

    Returns:
      Mean loss (nats) and mean accuracy over the updates, each measured before its update; nan
      for no updates.
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
    if isinstance(discriminator, Discriminator) and FusedUpdates.supports(discriminator, optimiser):
        return _train_fused(discriminator, optimiser, real, fake)
    return train_by_autograd(discriminator, optimiser, real, fake)


def train_by_autograd(
    discriminator: nn.Module, optimiser: torch.optim.Optimizer, real: Tensor, fake: Tensor
) -> tuple[float, float]:
    """Update once on each pair of batches, int64 ``[U, B, T]``; the reference path.

    Returns:
      Mean loss (nats) and mean accuracy over the updates, each measured before its update.
    """
    discriminator.train()
    batch = real.shape[1]
    labels = torch.cat([torch.ones(batch), torch.zeros(batch)]).to(real.device)
    losses, accuracies = [], []
    for pair in torch.cat([real, fake], dim=1):
        logits = discriminator(pair)
        target = labels.to(logits.dtype)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, target)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(loss.detach())
        accuracies.append(((logits.detach() > 0) == (target > 0)).double().mean())
    return torch.stack(losses).double().mean().item(), torch.stack(accuracies).mean().item()


def shuffled_rows(size: int, count: int, rng: torch.Generator) -> Tensor:
    """Return ``count`` row numbers below ``size``: one random permutation after another."""
    epochs = -(-count // size)
    rows = [torch.randperm(size, generator=rng, device=rng.device) for _ in range(epochs)]
    return torch.cat(rows)[:count]


def _train_fused(
    discriminator: Discriminator, optimiser: torch.optim.Optimizer, real: Tensor, fake: Tensor
) -> tuple[float, float]:
    """Same as ``train_by_autograd``, several times as fast."""
    batch = 2 * real.shape[1]
    fused = FusedUpdates(discriminator, optimiser)
    dtype = discriminator.output.weight.dtype
    loss = accuracy = 0.0
    chunks = zip(*(torch.split(pool, UPDATES_PER_PLAN) for pool in (real, fake)), strict=True)
    for reals, fakes in chunks:
        plan = plan_updates(reals, fakes, discriminator.vocabulary, dtype)
        logits = fused.run(plan, batch).double()
        generated = plan.rows - plan.real
        # -log p of a real row is softplus(-logit), of a generated one softplus(logit).
        softplus = nn.functional.softplus
        loss += (plan.real * softplus(-logits) + generated * softplus(logits)).sum().item()
        accuracy += torch.where(logits > 0, plan.real, generated).sum().item()
    total = batch * len(real)
    return loss / total, accuracy / total

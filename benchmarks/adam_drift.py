"""What Adam makes of rewards that say nothing: one softmax of 5,000 tokens, 40 steps, eight seeds.

``python benchmarks/adam_drift.py`` prints by how much the entropy changes, and the logits of tokens
that were never drawn. In expectation the gradient is zero in every row.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from torch import Tensor

TOKENS, STEPS, RATE = 5000, 40, 0.01
DRAWS = 64 * 20  # a batch of SeqGAN's
SEEDS = range(8)


def random(rng: torch.Generator) -> Tensor:
    """Return a reward for each draw that does not depend on it."""
    return torch.rand(DRAWS, generator=rng)


def centred(rng: torch.Generator) -> Tensor:
    """Return the same less their mean."""
    rewards = random(rng)
    return rewards - rewards.mean()


REWARDS: dict[str, Callable[[torch.Generator], Tensor]] = {
    "constant": lambda rng: torch.full((DRAWS,), 0.5),
    "random": random,
    "random, less the batch's mean": centred,
}


def entropy(logits: Tensor) -> float:
    """Return the entropy of a softmax, in nats."""
    return float(torch.distributions.Categorical(logits=logits).entropy())


def drift(rewards: Callable[[torch.Generator], Tensor], seed: int) -> tuple[float, float, float]:
    """Return the changes of the entropy and of undrawn tokens' logits, and their probability."""
    rng = torch.Generator().manual_seed(seed)
    start = torch.randn(TOKENS, generator=rng) * 1.5
    logits = torch.nn.Parameter(start.clone())
    adam = torch.optim.Adam([logits], lr=RATE)
    drawn = torch.zeros(TOKENS, dtype=torch.bool)
    for _ in range(STEPS):
        tokens = torch.multinomial(logits.detach().softmax(0), DRAWS, True, generator=rng)
        drawn[tokens] = True
        loss = -(rewards(rng) * logits.log_softmax(0)[tokens]).mean()
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
    moved = logits.detach()
    undrawn = float((moved - start)[~drawn].mean())
    return entropy(moved) - entropy(start), undrawn, float(start.softmax(0)[~drawn].sum())


def main() -> None:
    """Print means over seeds, and a standard error."""
    print("| rewards | entropy | logits of tokens never drawn | their probability at the start |")
    print("|---|---|---|---|")
    for name, rewards in REWARDS.items():
        changes, undrawn, share = zip(*(drift(rewards, seed) for seed in SEEDS), strict=True)
        error = statistics.stdev(changes) / len(SEEDS) ** 0.5
        cells = [f"{statistics.mean(changes):.3f} (s.e. {error:.3f})"]
        cells += [f"{statistics.mean(undrawn):.2f}", f"{statistics.mean(share):.1%}"]
        print("| " + " | ".join([name, *cells]) + " |")


if __name__ == "__main__":
    main()

"""A task of one's own: balanced brackets, with the share of balanced sequences as its metric.

The data are drawn uniformly from all balanced sequences of 8 brackets. A generator is trained on
them and then plays against a discriminator, as for any task; its metrics are in every table, figure
and page.

    estbench run --plugin examples/own_task.py --tasks brackets --estimators rloo,reinforce-ema
"""

import itertools

import torch

import estbench


@estbench.register
class Brackets(estbench.Task):
    info = estbench.TaskInfo(
        name="brackets",
        summary="balanced sequences of 8 brackets, such as (()(()))",
        vocabulary=2,
        length=8,
        primary_metric="balanced",
        metrics={
            "balanced": estbench.MetricInfo("balanced sequences", "", "higher"),
            "depth": estbench.MetricInfo("mean depth", "brackets", "neither"),
        },
    )
    tokens = ("(", ")")
    initialisation = ("uniform", 0.05)

    def __init__(self, info, seed, data_size):
        self.info = info
        every = torch.tensor(list(itertools.product((0, 1), repeat=info.length)))  # [V^T, T]
        every = every[balanced(every)]
        rng = torch.Generator().manual_seed(seed)
        self.train = every[torch.randint(len(every), (data_size,), generator=rng)]
        self.heldout = every

    def quality(self, policy, tokens, rng):
        """Return the metrics of a small sample, int64 [n, T]."""
        depth = (1 - 2 * tokens).cumsum(dim=1).double().mean()
        return {"balanced": float(balanced(tokens).double().mean()), "depth": float(depth)}

    def full_quality(self, policy, rng):
        """Return the same from a large sample."""
        return self.quality(policy, policy.sample(2_000, rng), rng)


def balanced(tokens):
    """Return whether each sequence [n, T] closes every bracket that it opens, and no other."""
    depth = (1 - 2 * tokens).cumsum(dim=1)
    return (depth >= 0).all(dim=1) & (depth[:, -1] == 0)

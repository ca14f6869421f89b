"""The published curves of "Generative Adversarial Networks via Gradient Estimators".

Balagopalan, Gorti, Ravaut and Saqur, arXiv 1805.02788: one seed, 234 adversarial batches, digitised
into paper.csv as means over nine blocks of batches. Its REBAR and RELAX were biased and its reward
was exp(p_D), so the curves are shown in panels of their own, never on the axes of correct
estimators.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

import pandas as pd

__all__ = ["BLOCK", "LABEL", "block_centres", "published"]

LABEL = "one seed, exp(p_D), biased estimators"
BLOCK = 26  # adversarial batches in each of the nine blocks


@cache
def published() -> dict[tuple[str, str, str], tuple[float, ...]]:
    """Return (task, quantity, estimator) -> means over batches 0-25, 26-51, ..., 208-233.

    "log_variance" is the natural log of the variance, over one batch of 128, of one gradient
    element: the output bias of the token x. "goodness" counts windows (x op x) or (op x op), at
    most T - 2.
    """
    with resources.files("estbench.report.data").joinpath("paper.csv").open("rb") as file:
        rows = pd.read_csv(file)
    groups = rows.groupby(["task", "quantity", "estimator"], sort=False)["mean"]
    return {(str(t), str(q), str(e)): tuple(means) for (t, q, e), means in groups}


def block_centres() -> list[float]:
    """Return the batch at the middle of each block."""
    return [BLOCK * i + (BLOCK - 1) / 2 for i in range(9)]

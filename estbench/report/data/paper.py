"""The published curves of "Generative Adversarial Networks via Gradient Estimators".

Balagopalan, Gorti, Ravaut and Saqur, arXiv 1805.02788: one seed, 234 adversarial batches. Facts to
draw beside this project's own; its REBAR and RELAX were biased and its reward was exp(p_D), so the
curves are shown in panels of their own and never on the axes of correct estimators.
"""

from __future__ import annotations

__all__ = ["BLOCK", "LABEL", "PUBLISHED", "block_centres"]

LABEL = "one seed, exp(p_D), biased estimators"

# Adversarial batches in each of the nine blocks that the means below are over.
BLOCK = 26

# (task, quantity, estimator) -> means over batches 0-25, 26-51, ..., 208-233.
# "log_variance" is the natural log of the variance, over one batch of 128, of one gradient element:
# the output bias of the token x. "goodness" counts windows (x op x) or (op x op), at most T - 2.
PUBLISHED: dict[tuple[str, str, str], tuple[float, ...]] = {
    ("expressions-3", "log_variance", "reinforce"): (
        (0.14, -0.13, -0.43, -0.53, -0.61, -0.73, -1.90, -3.49, -4.42)
    ),
    ("expressions-3", "log_variance", "rebar"): (
        (0.06, -0.14, -0.40, -0.54, -0.65, -0.41, -1.30, -1.52, -1.53)
    ),
    ("expressions-3", "log_variance", "relax"): (
        (-0.01, -0.21, -0.44, -0.64, -0.64, -1.37, -2.59, -3.20, -4.16)
    ),
    ("expressions-3", "goodness", "reinforce"): (
        (0.500, 0.558, 0.556, 0.636, 0.669, 0.678, 0.862, 0.961, 0.980)
    ),
    ("expressions-3", "goodness", "rebar"): (
        (0.518, 0.611, 0.677, 0.732, 0.758, 0.735, 0.832, 0.903, 0.919)
    ),
    ("expressions-3", "goodness", "relax"): (
        (0.523, 0.631, 0.702, 0.722, 0.688, 0.813, 0.919, 0.949, 0.974)
    ),
    ("expressions-15", "log_variance", "reinforce"): (
        (0.62, 0.56, 0.09, -0.05, -0.20, -0.25, -0.40, -0.42, -0.91)
    ),
    ("expressions-15", "log_variance", "rebar"): (
        (0.32, 0.03, -0.03, -0.03, 0.06, -0.30, -0.44, -0.50, -1.24)
    ),
    ("expressions-15", "log_variance", "relax"): (
        (0.48, 0.38, 0.48, 0.46, 0.18, -0.02, -0.17, 0.07, -0.35)
    ),
    ("expressions-15", "goodness", "reinforce"): (
        (10.67, 10.92, 11.17, 11.47, 11.83, 12.02, 12.15, 12.04, 12.35)
    ),
    ("expressions-15", "goodness", "rebar"): (
        (10.73, 11.19, 11.51, 11.76, 11.99, 12.09, 12.22, 12.15, 12.51)
    ),
    ("expressions-15", "goodness", "relax"): (
        (10.83, 10.96, 10.95, 11.10, 11.11, 11.36, 11.57, 11.74, 11.87)
    ),
}


def block_centres() -> list[float]:
    """Return the batch at the middle of each block."""
    return [BLOCK * i + (BLOCK - 1) / 2 for i in range(9)]

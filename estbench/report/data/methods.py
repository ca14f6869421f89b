"""Every method that gives an interval in a report, by the name that tables and docs call it.

How often each covers the truth at the numbers of seeds that people use is simulated by
`benchmarks/coverage.py`, which writes the table of docs/statistics.md from this list.
"""

from __future__ import annotations

__all__ = [
    "BOOTSTRAP",
    "CLOPPER_PEARSON",
    "KAPLAN_MEIER",
    "METER_BIAS",
    "METER_VARIANCE",
    "METHODS",
    "ORDER_STATISTICS",
    "ROOT_T",
    "TRIMMED_T",
    "T_LOGS",
    "WELCH",
    "T",
]

T = "t"
T_LOGS = "t on logs"
WELCH = "Welch-Satterthwaite on logs"
ROOT_T = "root of t"
TRIMMED_T = "trimmed t"
ORDER_STATISTICS = "order statistics"
BOOTSTRAP = "percentile bootstrap, approximate"
CLOPPER_PEARSON = "Clopper-Pearson"
KAPLAN_MEIER = "Kaplan-Meier, log-log"
METER_VARIANCE = "normal on the log variance"
METER_BIAS = "distance plus and minus 1.96 errors"

# Name -> what it is an interval of, and where it stands.
METHODS = {
    T: "a mean over seeds, or of paired differences: log variance, scores, areas, bands of curves",
    T_LOGS: "a ratio or geometric mean: variances, seconds; the t interval of logs through exp",
    WELCH: "a ratio per second: variance over seeds and time over timing rounds, independent",
    ROOT_T: "the relative bias over seeds: roots of the t interval of the mean squared bias",
    TRIMMED_T: "the interquartile mean of final scores (Tukey and McLaughlin)",
    ORDER_STATISTICS: "the median of final scores; it exists from six seeds on",
    BOOTSTRAP: "mean, median and interquartile mean of the task's main score, beside the others",
    CLOPPER_PEARSON: "the probability that one estimator beats another, by the signs of pairs",
    KAPLAN_MEIER: "the median batches and seconds to a level; seeds that never reach it count",
    METER_VARIANCE: "the variance of one measurement: variance_low and variance_high",
    METER_BIAS: "the relative bias of one measurement: bias_low and bias_high",
}

"""Gradient estimators. A family is one file, whose classes register themselves."""

from estbench.core.registry import ESTIMATORS
from estbench.estimators.base import (
    Estimator,
    EstimatorInfo,
    Surrogate,
    check_name,
    family,
    info,
    make,
    names,
    partner,
)

__all__ = [
    "Estimator",
    "EstimatorInfo",
    "Surrogate",
    "check_name",
    "family",
    "info",
    "make",
    "names",
    "partner",
]

ESTIMATORS.load_own()

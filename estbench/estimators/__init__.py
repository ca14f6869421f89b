"""Gradient estimators: one file a family, a class and a line a member."""

from estbench.estimators import rebar, relax, score_function  # noqa: F401
from estbench.estimators.base import Estimator, EstimatorInfo, Surrogate, info, make, names

__all__ = ["Estimator", "EstimatorInfo", "Surrogate", "info", "make", "names"]

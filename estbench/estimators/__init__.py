"""Gradient estimators: one file a family, a class and a line a member."""

from importlib import import_module

from estbench.estimators.base import Estimator, EstimatorInfo, Surrogate, info, make, names

__all__ = ["Estimator", "EstimatorInfo", "Surrogate", "info", "make", "names"]

FAMILIES = ("score_function", "rebar", "relax")  # in the order of the catalogue

for _family in FAMILIES:
    import_module(f"estbench.estimators.{_family}")

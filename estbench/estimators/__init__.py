"""Gradient estimators: one file a family, a class and a line a member."""

from importlib import import_module

from estbench.estimators.base import (
    Estimator,
    EstimatorInfo,
    Surrogate,
    check_name,
    info,
    make,
    names,
)

__all__ = ["Estimator", "EstimatorInfo", "Surrogate", "check_name", "info", "make", "names"]

FAMILIES = (  # in the order of the catalogue
    "score_function",
    "rebar",
    "relax",
    "controls",
    "published",
    "published_relax",
)

for _family in FAMILIES:
    import_module(f"estbench.estimators.{_family}")

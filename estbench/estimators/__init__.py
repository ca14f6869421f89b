"""Gradient estimators: one file a family, a class and a line a member."""

from importlib import import_module

from estbench.estimators.base import (
    Estimator,
    EstimatorInfo,
    Surrogate,
    check_name,
    family,
    info,
    make,
    names,
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
]

FAMILIES = (  # in the order of the catalogue
    "score_function",
    "step_baselines",
    "grouped",
    "trainers",
    "kl_losses",
    "off_policy",
    "all_actions",
    "sets",
    "muprop",
    "rebar",
    "relax",
    "relax_several",
    "rebar_per_tensor",
    "relaxed",
    "coupled",
    "arsm",
    "stein",
    "double_control",
    "perturbation",
    "exact",
    "controls",
    "coupled_controls",
    "published",
    "published_relax",
)

for _family in FAMILIES:
    import_module(f"estbench.estimators.{_family}")

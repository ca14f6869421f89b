"""estbench: prove, measure and compare gradient estimators for discrete sequence models.

Importing it is light; what is named below is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from estbench.core.openmp import limit_spinning

if TYPE_CHECKING:
    from estbench.api import measure as measure
    from estbench.config.experiment import TrainingSettings as TrainingSettings
    from estbench.core.errors import UserError as UserError
    from estbench.core.registry import Declared as Declared
    from estbench.core.registry import register as register
    from estbench.estimators.base import Direct as Direct
    from estbench.estimators.base import Estimator as Estimator
    from estbench.estimators.base import EstimatorInfo as EstimatorInfo
    from estbench.estimators.base import Surrogate as Surrogate
    from estbench.estimators.recipes import Recipe as Recipe
    from estbench.meter.notices import EstbenchWarning as EstbenchWarning
    from estbench.models.contexts import Contexts as Contexts
    from estbench.models.huggingface import from_huggingface as from_huggingface
    from estbench.models.policy import Policy as Policy
    from estbench.models.reward import Discriminator as Discriminator
    from estbench.proof.interface import check as check
    from estbench.proof.suite import parametrize_with_checks as parametrize_with_checks
    from estbench.report.between import compare as compare
    from estbench.tasks.base import Task as Task
    from estbench.tasks.declaring import MetricInfo as MetricInfo
    from estbench.tasks.declaring import TaskInfo as TaskInfo
    from estbench.tasks.fixed import FixedRewardTask as FixedRewardTask

__version__ = "0.2.0"

limit_spinning()  # here, because whatever loads torch imports this first

_WHERE = {
    "check": "estbench.proof.interface",
    "compare": "estbench.report.between",
    "from_huggingface": "estbench.models.huggingface",
    "measure": "estbench.api",
    "parametrize_with_checks": "estbench.proof.suite",
    "register": "estbench.core.registry",
    "Declared": "estbench.core.registry",
    "Discriminator": "estbench.models.reward",
    "FixedRewardTask": "estbench.tasks.fixed",
    "MetricInfo": "estbench.tasks.declaring",
    "Task": "estbench.tasks.base",
    "TaskInfo": "estbench.tasks.declaring",
    "TrainingSettings": "estbench.config.experiment",
    "Contexts": "estbench.models.contexts",
    "Direct": "estbench.estimators.base",
    "Estimator": "estbench.estimators.base",
    "EstimatorInfo": "estbench.estimators.base",
    "Recipe": "estbench.estimators.recipes",
    "Surrogate": "estbench.estimators.base",
    "EstbenchWarning": "estbench.meter.notices",
    "Policy": "estbench.models.policy",
    "UserError": "estbench.core.errors",
}

__all__ = [
    "Contexts",
    "Declared",
    "Direct",
    "Discriminator",
    "EstbenchWarning",
    "Estimator",
    "EstimatorInfo",
    "FixedRewardTask",
    "MetricInfo",
    "Policy",
    "Recipe",
    "Surrogate",
    "Task",
    "TaskInfo",
    "TrainingSettings",
    "UserError",
    "__version__",
    "check",
    "compare",
    "from_huggingface",
    "measure",
    "parametrize_with_checks",
    "register",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value  # so that Python finds it by itself the next time
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

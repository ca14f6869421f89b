"""What things are called: metrics, units and the facts about estimators, from the registries.

A result set may name an estimator or a task that this installation does not know (a plugin that is
not loaded, a newer version). The report is still drawn; it only says less about that name.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from estbench.core.errors import UserError

if TYPE_CHECKING:
    from estbench.tasks import TaskInfo

__all__ = [
    "EstimatorFacts",
    "Metric",
    "batch_name",
    "best_value",
    "estimator_facts",
    "metric",
    "peer",
    "primary_metric",
    "report_on",
    "task_info",
    "unproven_text",
    "verdicts",
    "without_baseline",
]

# What asking a registry for a name that it does not have may raise.
_UNKNOWN = (ImportError, AttributeError, KeyError, UserError)

# Baseline -> the plain estimator that has it, and nothing besides. A constant for each tensor has
# no plain form; one constant comes nearest.
_PLAIN = {
    "none": "reinforce",
    "moving average": "reinforce-ema",
    "constant": "reinforce-constant",
    "constant by tensor": "reinforce-constant",
    "critic": "reinforce-critic",
    "leave-one-out": "rloo",
    # The baseline of an unordered set is made of its other sequences.
    "the set's own": "rloo",
}


@dataclass(frozen=True)
class Metric:
    """A metric as the report shows it.

    Attributes:
      name: Its name in the records.
      label: In words, for an axis.
      unit: In words; empty where there is none.
      better: "higher", "lower" or "neither".
    """

    name: str
    label: str
    unit: str
    better: str

    @property
    def axis(self) -> str:
        """The text of an axis: label, and unit in brackets."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


@dataclass(frozen=True)
class EstimatorFacts:
    """What the registry says of an estimator.

    Attributes:
      baseline: Its baseline's name, such as "none"; empty if not known.
      unbiased: None if not known.
      why_biased: The reason where it is biased.
      summary: One line on what it is.
      group: Sequences a draw; 0 if not known.
      proof: What was proven of it: "unbiased", "biased", "undecided", "not proven", "declared
        biased", or "" where the result set says nothing.
      detail: The numbers of that.
      reach: What it was proven for: V, T, end tokens, contexts; "" where that is not known.
    """

    baseline: str = ""
    unbiased: bool | None = None
    why_biased: str = ""
    summary: str = ""
    group: int = 0
    proof: str = ""
    detail: str = ""
    reach: str = ""

    @property
    def unproven(self) -> bool:
        """Whether it declares itself unbiased and was tried without success, or not at all."""
        return self.unbiased is not False and self.proof not in ("", "unbiased")

    @property
    def ranked(self) -> bool:
        """Whether it may be ranked: unbiased by its declaration, and not in doubt."""
        return self.unbiased is not False and not self.unproven

    @property
    def mark(self) -> str:
        """What its name carries everywhere: a dagger if biased, a double one if not proven."""
        return "†" if self.unbiased is False else "‡" if self.unproven else ""


def unproven_text(facts: EstimatorFacts) -> str:
    """Return why an estimator that declares itself unbiased is not ranked."""
    said = {
        "biased": "it declares itself unbiased and was found biased",
        "undecided": "whether it is unbiased was not decided",
        "not proven": "it was never proven unbiased",
    }.get(facts.proof, "it was not proven unbiased")
    return f"{said} ({facts.detail})" if facts.detail else said


# Of a run's gradients, not of a task's samples, so that no task declares it.
_LOG_VARIANCE = Metric("log_variance", "log variance", "nats", "lower")


@cache
def _metrics() -> dict[str, Metric]:
    """Return the metrics that tasks declare, by name; of the same name, the first task's."""
    from estbench import tasks

    found = {_LOG_VARIANCE.name: _LOG_VARIANCE}
    for task in tasks.names():
        for name in tasks.info(task).metrics:
            found.setdefault(name, metric(task, name))
    return found


def task_info(task: str) -> TaskInfo | None:
    """Return what a task declares; None where this installation does not have it."""
    from estbench import tasks

    try:
        return tasks.info(task)
    except _UNKNOWN:
        return None


def metric(task: str, name: str) -> Metric:
    """Return the metric `name` of `task`, as its task or another task declares it."""
    known = task_info(task)
    if known is None or name not in known.metrics:
        return _metrics().get(name, Metric(name, name.replace("_", " "), "", "neither"))
    declared = known.metrics[name]
    return Metric(name, declared.label, declared.unit, declared.better)


def primary_metric(task: str, available: Collection[str]) -> Metric | None:
    """Return the metric that says how good a task's sequences are, if it was recorded."""
    known = task_info(task)
    usual = ("goodness", "nll_oracle", "p_valid", "nll_gen")
    wanted = (known.primary_metric, *usual) if known else usual
    return next((metric(task, name) for name in wanted if name in available), None)


def batch_name(*tasks: str) -> str:
    """Return what a batch of these tasks is called: "adversarial batch" if all have an adversary.

    Where a task is not known, or is trained in another way, it is plainly a "batch".
    """
    known = [task_info(task) for task in tasks]
    adversarial = all(info is not None and info.kind == "adversarial" for info in known)
    return "adversarial batch" if known and adversarial else "batch"


def peer(estimator: str) -> str:
    """Return the partner of an estimator: the plain one with the same baseline, or "".

    A control variate is judged against it, as what differs between the two is not the baseline.
    A leave-one-out baseline is better the larger the group, so that the partner's is as large.
    Plain estimators have none, nor have those whose baseline no plain estimator has.
    """
    from estbench import estimators

    own = estimator_facts(estimator)
    plain = _PLAIN.get(own.baseline, "")
    if not plain or estimators.family(estimator) in _PLAIN.values():
        return ""
    if own.group in (1, estimator_facts(plain).group):
        return plain
    return f"{plain}-{own.group}" if estimator_facts(f"{plain}-{own.group}").baseline else plain


def without_baseline(estimator: str) -> bool:
    """Whether nothing is subtracted from the reward, so that a ratio to it flatters."""
    return estimator == _PLAIN["none"] or estimator_facts(estimator).baseline == "none"


def best_value(task: str, name: str) -> tuple[float, str]:
    """Return the best value a metric can have on a task, and what that is; nan if not known."""
    known = task_info(task)
    if name == "goodness" and known is not None:
        return float(known.length - 2), "maximum, T − 2"
    return (1.0, "maximum") if name == "p_valid" else (math.nan, "")


# Cutting backpropagation through time is the policy's doing and biases every estimator of a set.
_truncation: ContextVar[int] = ContextVar("truncation", default=0)


# What was proven of the set's estimators, by name: (verdict, detail, what it was proven for).
_proofs: ContextVar[Mapping[str, tuple[str, str, str]]] = ContextVar("proofs", default={})  # noqa: B039


def report_on(experiment: Mapping[str, Any], proofs: Iterable[Mapping[str, Any]] = ()) -> None:
    """Make `estimator_facts` speak of estimators as this experiment runs them.

    Args:
      experiment: Of the manifest.
      proofs: Of ``ResultSet.proofs``.
    """
    _proofs.set(verdicts(proofs))
    settings = [experiment.get("training") or {}, *(experiment.get("per_task") or {}).values()]
    _truncation.set(max(int(s.get("truncation") or 0) for s in settings))


def verdicts(proofs: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, str, str]]:
    """Return estimator -> verdict, detail, and what it was proven for; of several, the worst."""
    worst: dict[str, tuple[str, str, str]] = {}
    for proof in proofs:
        name, verdict = proof["configuration"]["estimator"], proof["verdict"]
        if name not in worst or verdict not in ("unbiased", "declared biased"):
            worst[name] = (verdict, proof["detail"], proof.get("reach", ""))
    return worst


def estimator_facts(estimator: str) -> EstimatorFacts:
    """Return what the registry says of `estimator`, or nothing known."""
    try:
        known = _declared(estimator, _truncation.get())
    except _UNKNOWN:
        known = EstimatorFacts()
    verdict, detail, reach = _proofs.get().get(estimator, ("", "", ""))
    return replace(known, proof=verdict, detail=detail, reach=reach)


@cache  # what raises is not kept, so a plugin that is loaded later is found
def _declared(estimator: str, truncation: int) -> EstimatorFacts:
    from estbench import estimators

    known = estimators.info(estimator, truncation)
    return EstimatorFacts(
        known.baseline, known.unbiased, known.why_biased, known.summary, known.group
    )

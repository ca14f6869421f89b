"""Findings as JSON holds them, and back again: a verdict is what its figures say.

Whoever can write a file can write a verdict into it. A finding that is read is taken only if the
verdict follows from the figures beside it, by the rule by which it was given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from estbench.meter.bias import BiasResult, verdict_at
from estbench.meter.blocks import Look
from estbench.proof.checking import Finding
from estbench.proof.judging import ALPHA, LOOKS, BiasFinding, margin_on
from estbench.proof.rules import RULES, ConductFinding
from estbench.proof.variance import ROUNDING, VARIANCE_PROBLEMS, VarianceFinding, agree

__all__ = ["read_bias", "read_finding", "went_wrong", "written"]

ROUNDED = 1e-6  # what float32 may make of nothing
SLACK = 1.001  # limits are found to one part in 10,000
FIGURES = ("relative_bias", "low", "high", "upper", "projection", "noise")


def went_wrong(finding: Finding) -> bool:
    """Return whether a finding is to be tried again: it may have been the machine (no memory)."""
    if isinstance(finding, ConductFinding):
        return finding.kept is False
    return finding is not None and bool(finding.error)


def written(finding: Finding) -> dict[str, Any]:
    """Return a finding as JSON holds it."""
    content = None if finding is None else _plain(asdict(finding))
    return {"kind": type(finding).__name__, "content": content}


def read_finding(document: Mapping[str, Any], label: str, margin: float) -> Finding:
    """Return what ``written`` made a document of.

    Args:
      document: The document.
      label: What was tried, as ``estbench.proof.checking.units`` calls it.
      margin: Relative bias from which on one is found or excluded; a smaller one may pass.

    Raises:
      ValueError, KeyError, TypeError, AttributeError: It is none, is of something else that was
        tried, or its verdict is not that of its figures.
    """
    kind, content = document["kind"], document["content"]
    variances = {f"variance on {problem}" for problem in VARIANCE_PROBLEMS}
    if kind == "NoneType" and label in variances:  # no exact variance to compare with
        return None
    if kind == "ConductFinding" and label in RULES:
        kept = ConductFinding(label, content["kept"], str(content["detail"]))
        if content["rule"] == label and kept.kept in (True, None):
            return kept
    if kind == "BiasFinding":
        bias = read_bias(content, margin_on(str(content["problem"]), margin))
        if f"{bias.problem}, {bias.state}" == label:
            return bias
    if kind == "VarianceFinding" and label in variances:
        variance = _read_variance(content)
        if f"variance on {variance.problem}" == label:
            return variance
    raise ValueError(f"it is no finding on {label}")


def read_bias(content: Mapping[str, Any], margin: float, alpha: float | None = None) -> BiasFinding:
    """Return a finding of the test of bias.

    Args:
      content: The fields of the finding.
      margin: Relative bias from which on one is found or excluded; a smaller one may pass.
      alpha: Probability of rejecting an unbiased estimator; None takes the finding's own.

    Raises:
      ValueError, KeyError, TypeError, AttributeError: As ``read_finding``.
    """
    result = content["result"]
    looks = tuple(map(_read_look, result["looks"]))
    if result["margin"] != margin or (alpha is not None and result["alpha"] != alpha):
        raise ValueError("the finding is of another test")
    if not (0 < result["alpha"] <= ALPHA and 0 < len(looks) <= LOOKS):
        raise ValueError("no test has such a level or so many looks")
    found = [verdict_at(look, margin, result["alpha"] / LOOKS) for look in looks]
    if any(verdict != "undecided" for verdict, _ in found[:-1]):
        raise ValueError("a test ends with the look that decides")
    if found[-1] != (result["verdict"], result["found_by"]):
        raise ValueError("the verdict is not that of its figures")
    if result["verdict"] == "unbiased" and not _agree_with_each_other(looks[-1]):
        raise ValueError("the figures contradict each other")
    whole = BiasResult(**result | {"looks": looks})
    texts = {name: str(content[name]) for name in ("problem", "state", "suspect", "error")}
    return BiasFinding(**texts, result=whole, cpu_s=float(content["cpu_s"]))


def _read_look(look: Mapping[str, Any]) -> Look:
    p_values = _numbers(look["p_values"], look["p_values"])
    return Look(**_numbers(look, FIGURES) | {"p_values": p_values})


def _agree_with_each_other(look: Look) -> bool:
    """Return whether an interval holds its estimate, and a limit all that it is to limit."""
    size, upper = look.relative_bias, look.upper * SLACK
    inside = 0 <= look.low <= size * SLACK + upper * (SLACK - 1) and size <= look.high * SLACK
    # The error along the gradient is a part of the whole error; twice the limit leaves it noise.
    return inside and size <= upper and abs(look.projection - 1) <= 2 * upper + ROUNDED


def _read_variance(content: Mapping[str, Any]) -> VarianceFinding:
    found = VarianceFinding(**_numbers(content, ("measured", "low", "high", "exact")))
    figures = (found.measured, found.low, found.high, found.exact)
    agrees = agree(*figures) or abs(found.measured - found.exact) <= ROUNDING
    if found.agrees and not agrees:
        raise ValueError("the verdict is not that of its figures")
    return found


def _plain(value: Any) -> Any:
    """Return a value as JSON holds it; "nan" and "inf" are text."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _numbers(fields: Mapping[str, Any], names: Any) -> dict[str, Any]:
    """Return fields with those of these names as numbers."""
    return {k: float(v) if k in names else v for k, v in fields.items()}

"""Findings of a check, kept in the user's cache: a check that was stopped goes on from them.

What is drawn is seeded, so a finding made again would be the same until the code it depends on
changes. What went wrong is not kept: it may have been the machine (no memory), and is tried again.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from estbench.meter.bias import BiasResult
from estbench.meter.blocks import Look
from estbench.proof.checking import Finding
from estbench.proof.conduct import ConductFinding
from estbench.proof.gate import cached, code_key
from estbench.proof.judging import BiasFinding
from estbench.proof.variance import VarianceFinding
from estbench.store.atomic import StorageError, write_json
from estbench.store.reading import read_document

__all__ = ["Memory"]


class Memory:
    """What is remembered of one estimator at one margin.

    Attributes:
      findings: The finding and its CPU seconds, by the label of its unit.
    """

    def __init__(self, estimator: str, margin: float) -> None:
        given = {"estimator": estimator, "margin": margin}
        self.findings: dict[str, tuple[Finding, float]] = {}
        self._path: Path = cached("checks", estimator, given)
        self._key = code_key(estimator, given)
        try:
            document = read_document(self._path)
            if (document["key"], document["digest"]) == (self._key, _digest(document["findings"])):
                self.findings = {label: _read(f) for label, f in document["findings"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return  # a damaged file is as good as none

    def add(self, label: str, finding: Finding, cpu_s: float) -> None:
        """Keep a finding; a cache that cannot be written is no error."""
        if _went_wrong(finding):
            return
        self.findings[label] = finding, cpu_s
        findings = {key: _written(*found) for key, found in self.findings.items()}
        document = {"key": self._key, "digest": _digest(findings), "findings": findings}
        try:
            write_json(self._path, document)
        except StorageError:
            return


def _went_wrong(finding: Finding) -> bool:
    if isinstance(finding, ConductFinding):
        return finding.kept is False
    return finding is not None and bool(finding.error)


def _digest(findings: Any) -> str:
    return hashlib.sha256(json.dumps(findings, sort_keys=True).encode()).hexdigest()


def _written(finding: Finding, cpu_s: float) -> dict[str, Any]:
    kind = type(finding).__name__
    content = None if finding is None else _plain(asdict(finding))
    return {"kind": kind, "cpu_s": cpu_s, "content": content}


def _plain(value: Any) -> Any:
    """Return a value as JSON holds it; "nan" and "inf" are text."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _read(document: Mapping[str, Any]) -> tuple[Finding, float]:
    kind, content = document["kind"], document["content"]
    finding: Finding = None
    if kind == "ConductFinding":
        finding = ConductFinding(**content)
    elif kind == "VarianceFinding":
        finding = VarianceFinding(**_numbers(content, ("measured", "low", "high", "exact")))
    elif kind == "BiasFinding":
        result = content["result"]
        names = ("relative_bias", "low", "high", "upper", "projection", "noise")
        looks = [
            Look(**_numbers(look, names) | {"p_values": _numbers(look["p_values"])})
            for look in result["looks"]
        ]
        finding = BiasFinding(
            **content | {"result": BiasResult(**result | {"looks": tuple(looks)})}
        )
    return finding, document["cpu_s"]


def _numbers(fields: Mapping[str, Any], names: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Return fields with those of these names, or all, as numbers."""
    return {k: float(v) if names is None or k in names else v for k, v in fields.items()}

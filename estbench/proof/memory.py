"""Findings of a check, kept in the user's cache: a check that was stopped goes on from them.

What is drawn is seeded, so a finding made again would be the same until the code it depends on
changes. What went wrong is not kept: it may have been the machine (no memory), and is tried again.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from estbench.proof.checking import Finding
from estbench.proof.findings import read_finding, went_wrong, written
from estbench.proof.gate import cached, code_key
from estbench.proof.problems import RANDOM
from estbench.store.atomic import StorageError
from estbench.store.private import read_own, write_own

__all__ = ["Memory"]


class Memory:
    """What is remembered of one estimator at one margin.

    Attributes:
      findings: The finding and its CPU seconds, by the label of its unit.
    """

    def __init__(self, estimator: str, margin: float) -> None:
        given = {"estimator": estimator, "margin": margin}
        self.findings: dict[str, tuple[Finding, float]] = {}
        self._key = code_key(estimator, given)
        self._path: Path | None = None
        try:
            self._path = cached("checks", estimator, given)
            document = read_own(self._path)
            if (document["key"], document["digest"]) == (self._key, _digest(document["findings"])):
                self.findings = {
                    label: (read_finding(found, label, margin), float(found["cpu_s"]))
                    for label, found in document["findings"].items()
                }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return  # a damaged file is as good as none

    def add(self, label: str, finding: Finding, cpu_s: float) -> None:
        """Keep a finding; a cache that cannot be written is no error."""
        if went_wrong(finding) or self._path is None:
            return
        if RANDOM.match(label):  # the seeds of earlier checks will not come again
            self.findings = {k: v for k, v in self.findings.items() if not RANDOM.match(k)}
        self.findings[label] = finding, cpu_s
        findings = {
            key: written(found) | {"cpu_s": spent} for key, (found, spent) in self.findings.items()
        }
        document = {"key": self._key, "digest": _digest(findings), "findings": findings}
        try:
            write_own(self._path, document)
        except StorageError:
            return


def _digest(findings: Any) -> str:
    return hashlib.sha256(json.dumps(findings, sort_keys=True).encode()).hexdigest()

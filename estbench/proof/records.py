"""What a check found out, as rows and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pandas as pd

from estbench.proof.checking import CheckResult
from estbench.store import finite

__all__ = ["COLUMNS", "as_document", "as_frame"]

COLUMNS = (
    "estimator",
    "declared",
    "verdict",
    "holds",
    "kind",
    "what",
    "state",
    "passed",
    "relative_bias",
    "low",
    "high",
    "upper_limit",
    "margin",
    "projection",
    "p_value",
    "found_by",
    "draws",
    "noise",
    "measured_variance",
    "exact_variance",
    "cpu_s",
    "detail",
)


def as_frame(results: Sequence[CheckResult]) -> pd.DataFrame:
    """Return a row for every finding.

    Columns:
      kind: "bias", "conduct" or "variance"; ``what`` is then a problem, a rule or a problem.
      passed: Whether the finding agrees with what is declared; empty where a rule does not
        apply, or where the verdict excuses that it was broken.
      relative_bias: |E g - grad J| / |grad J|, with a 95 % interval low to high; upper_limit is
        the one-sided 95 % limit that the verdict uses.
      projection: E g on the exact gradient, 1 is right.
      p_value: Smallest of all directions and the norm, after Holm within the look.
      draws: Draws when the test ended; noise is tr Cov of one of them / |grad J|^2.
      cpu_s: CPU seconds of the test, in whatever process.
    """
    rows: list[dict[str, Any]] = []
    for result in results:
        common = {
            "estimator": result.name,
            "declared": "unbiased" if result.info.unbiased else "biased",
            "verdict": result.verdict,
            "holds": result.holds,
        }
        for b in result.bias:
            row = {"kind": "bias", "what": b.problem, "state": b.state, "cpu_s": b.cpu_s}
            row["detail"] = b.error or b.suspect
            if b.result:
                look = b.result.last
                row |= {
                    "passed": b.result.verdict == "unbiased" or not result.info.unbiased,
                    "relative_bias": look.relative_bias,
                    "low": look.low,
                    "high": look.high,
                    "upper_limit": look.upper,
                    "margin": b.result.margin,
                    "projection": look.projection,
                    "p_value": min(look.p_values.values()),
                    "found_by": b.result.found_by,
                    "draws": look.draws,
                    "noise": look.noise,
                }
            else:
                row["passed"] = False
            rows.append(common | row)
        for c in result.conduct:
            passed = None if result.excuses(c) else c.kept
            rows.append(
                common | {"kind": "conduct", "what": c.rule, "passed": passed, "detail": c.detail}
            )
        for v in result.variance:
            rows.append(
                common
                | {
                    "kind": "variance",
                    "what": v.problem,
                    "passed": v.agrees,
                    "low": v.low,
                    "high": v.high,
                    "measured_variance": v.measured,
                    "exact_variance": v.exact,
                    "detail": v.error,
                }
            )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def as_document(results: Sequence[CheckResult]) -> list[dict[str, Any]]:
    """Return all findings as JSON holds them; numbers that are not finite are null."""
    documents = [
        {
            "estimator": result.name,
            "declared": {
                "unbiased": result.info.unbiased,
                "why_biased": result.info.why_biased,
                "control": result.info.control,
            },
            "verdict": result.verdict,
            "holds": result.holds,
            "margin": result.margin,
            "complaints": result.complaints(),
            "left_out": result.left_out,
            "seed": result.seed,
            "bias": [dataclasses.asdict(f) for f in result.bias],
            "conduct": [dataclasses.asdict(f) for f in result.conduct],
            "variance": [dataclasses.asdict(f) for f in result.variance],
            "cpu_s": result.cpu_s,
        }
        for result in results
    ]
    return finite(documents)  # type: ignore[no-any-return]

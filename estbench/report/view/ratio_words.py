"""Words beside a ratio: its range by snapshot, and the snapshots that its verdict rests on."""

from __future__ import annotations

from collections.abc import Sequence

from estbench.report.data.formatting import quantity
from estbench.report.data.ratios import OPEN, Omission, Ratio, verdict_of
from estbench.report.view.words import listed, times

__all__ = ["batches_text", "rests_text", "span_text"]


def span_text(ratio: Ratio) -> str:
    """Return the range of a ratio over the informative snapshots."""
    low, high = (quantity(end) for end in ratio.span)
    return low if low == high else f"{low} to {high}"


def rests_text(ratio: Ratio) -> str:
    """Return which snapshots a verdict rests on, and the ratio without the worst of them."""
    if not ratio.omissions:
        return "rests on the only informative snapshot"
    turned = ratio.turned_by
    # The omission that leads farthest from what was found.
    worst = (min if ratio.verdict == OPEN else max)(turned, key=lambda omission: omission.p_holm)
    return (
        f"rests on the snapshot{'s' * (len(turned) > 1)} at "
        f"{batches_text([o.step for o in turned])}: without the one at batch {worst.step:g} it is "
        f"{times(worst.estimate)}, {_said(ratio, worst)}"
    )


def batches_text(steps: Sequence[float]) -> str:
    """Return "batch 29", or "batches 29 and 58"."""
    return f"batch{'es' * (len(steps) > 1)} {listed([f'{step:g}' for step in steps])}"


def _said(ratio: Ratio, omission: Omission) -> str:
    verdict = verdict_of(omission.estimate, omission.p_holm, ratio.bound)
    return {OPEN: "and no difference is found", "": "and is not tested"}.get(verdict, verdict)

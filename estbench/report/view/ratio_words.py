"""Words beside a ratio: its range by snapshot, and the snapshots that its verdict rests on."""

from __future__ import annotations

from collections.abc import Collection

from estbench.report.data.formatting import quantity
from estbench.report.data.ratios import OPEN, Bounded, Ratio
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
    pick = min if ratio.verdict == OPEN else max
    step, worst = pick(turned.items(), key=lambda omission: omission[1].p_holm)
    return (
        f"rests on the snapshot{'s' * (len(turned) > 1)} at {batches_text(turned)}: without the "
        f"one at batch {step:g} it is {times(worst.estimate)}, {_said(worst)}"
    )


def batches_text(steps: Collection[float]) -> str:
    """Return "batch 29", or "batches 29 and 58"."""
    return f"batch{'es' * (len(steps) > 1)} {listed([f'{step:g}' for step in steps])}"


def _said(without: Bounded) -> str:
    said = {OPEN: "and no difference is found", "": "and is not tested"}
    return said.get(without.verdict, without.verdict)

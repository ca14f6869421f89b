"""The table of noise: a verdict a task and estimator, and the ratios by snapshot."""

from __future__ import annotations

import math
from dataclasses import dataclass

from estbench.report.data.comparisons import BASELINED, SNAPSHOTS, Comparisons
from estbench.report.data.costs import cost
from estbench.report.data.formatting import bounded, quantity
from estbench.report.data.labels import estimator_facts, peer
from estbench.report.data.marks import lost_text
from estbench.report.data.ratios import Ratio
from estbench.report.data.statistics import ENOUGH_SEEDS
from estbench.report.data.trajectory import batch_size
from estbench.report.view.cells import Cell
from estbench.report.view.words import batches_text

__all__ = [
    "VerdictRow",
    "Verdicts",
    "mark_of",
    "useful_range",
    "useful_shares",
    "verdicts",
]

COST = "evaluation"


@dataclass(frozen=True)
class VerdictRow:
    """One estimator on one task.

    The text of a ratio has in brackets n where it is small, and what failed. Its mark is "lower",
    "higher", "no difference found", "rests on ..." (a verdict that is another without one
    snapshot), "biased" or "not proven" (so not ranked), or "" where nothing is compared.

    Attributes:
      partner: The estimator with the same baseline, "" if there is none.
      missing: Whether that was not measured.
      to_partner: The ratio to it, over the trajectory.
      to_ema: The ratio to BASELINED.
      parts: At every snapshot the ratio to the partner, or to BASELINED where there is none.
      cost: Reward evaluations a sequence; see `costs.Cost`.
      useful: The useful share of a step over the informative snapshots.
    """

    estimator: str
    partner: str
    missing: bool
    to_partner: Cell
    to_ema: Cell
    parts: tuple[Cell, ...]
    cost: Cell
    useful: Cell


@dataclass(frozen=True)
class Verdicts:
    """The table of one task; `steps` and `informative` are of the snapshots."""

    task: str
    batch: float
    steps: tuple[float, ...]
    informative: tuple[bool, ...]
    rows: tuple[VerdictRow, ...]


def verdicts(comparisons: Comparisons) -> list[Verdicts]:
    """Return a table for each task with measurements, per reward evaluation."""
    found = []
    for task in comparisons.results.tasks:
        if not comparisons.measured(task):
            continue
        at = comparisons.at(task)
        rows = tuple(_row(comparisons, task, name) for name in at.names)
        steps = tuple(float(step) for step in at.steps)
        batch = batch_size(comparisons.results, task)
        found.append(Verdicts(task, batch, steps, tuple(map(bool, at.informative)), rows))
    return found


def _row(comparisons: Comparisons, task: str, name: str) -> VerdictRow:
    there, partner = comparisons.measured(task), peer(name)
    at = comparisons.at(task)
    to_partner = comparisons.ratio(task, COST, name, partner)
    to_ema = comparisons.ratio(task, COST, name, BASELINED)
    shown, spent = to_partner or to_ema, cost(comparisons, task, name)
    parts = tuple(
        Cell(bounded(part.estimate, part.bound), _known(part.estimate.value))
        for part in (shown.parts if shown else ())
    )
    own = Cell("1×", 1.0) if name == BASELINED else _cell(comparisons, task, to_ema)
    return VerdictRow(
        name,
        partner,
        bool(partner) and partner not in there,
        _cell(comparisons, task, to_partner),
        own,
        parts or tuple(Cell("–") for _ in at.snapshots),
        Cell(spent.text, _known(spent.batch)),
        useful_range(comparisons, task, name),
    )


def useful_shares(comparisons: Comparisons, task: str, name: str) -> list[float]:
    """Return the useful share of a step at each informative snapshot, as far as it is known."""
    at = comparisons.at(task)
    told = [s for s, told in zip(at.snapshots, at.informative, strict=True) if told]
    shares = [comparisons.useful_share(task, s, name) for s in told if name in at.places]
    return [share.value for share in shares if share.known]


def useful_range(comparisons: Comparisons, task: str, name: str) -> Cell:
    """Return the range of the useful share over the informative snapshots."""
    known = useful_shares(comparisons, task, name)
    if not known:
        return Cell("–")
    low, high = quantity(100.0 * min(known)), quantity(100.0 * max(known))
    return Cell(f"{low} %" if low == high else f"{low} to {high} %", min(known))


def _cell(comparisons: Comparisons, task: str, ratio: Ratio | None) -> Cell:
    if ratio is None:
        return Cell("–")
    text = bounded(ratio.estimate, ratio.bound) + _note(comparisons, task, ratio)
    return Cell(text, _known(ratio.estimate.value), mark_of(ratio))


def mark_of(ratio: Ratio) -> str:
    """Return the mark of a ratio; see `VerdictRow`."""
    both = [estimator_facts(name) for name in (ratio.estimator, ratio.against)]
    if not all(facts.ranked for facts in both):
        return "not proven" if any(facts.unproven for facts in both) else "biased"
    if not ratio.verdict or ratio.survives:
        return ratio.verdict
    if not ratio.omissions:
        return f"{ratio.verdict}, rests on one snapshot"
    return f"{ratio.verdict}, rests on {batches_text(ratio.turned_by)}"


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _note(comparisons: Comparisons, task: str, ratio: Ratio) -> str:
    """Return " (n = 3, 1 failed)" where the seeds are few or measurements failed."""
    said = [f"n = {ratio.estimate.n}"] if ratio.estimate.n < ENOUGH_SEEDS else []
    lost = lost_text(comparisons, SNAPSHOTS, task, ratio.estimator, ratio.against)
    said += [lost] if lost else []
    return f" ({', '.join(said)})" if said else ""

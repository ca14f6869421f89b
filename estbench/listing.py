"""What there is to choose from, as tables or JSON."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

from estbench import presets
from estbench.commands import console

if TYPE_CHECKING:
    from rich.console import Console

    from estbench.estimators.base import EstimatorInfo

__all__ = ["evaluations", "listing"]

Row = tuple[dict[str, Any], dict[str, str]]  # as JSON, and as cells of a table
WIDE, MIDDLE = 150, 110  # characters
UNBROKEN = ("name", "bias", "K")
LEGEND = (
    "rewards a draw: evaluations of the reward, relaxed ones apart, for T positions and V tokens "
    "and n draws at a time; K: sequences a draw. With --json: all that is declared"
)


def listing(what: str, *, as_json: bool) -> int:
    """Print all estimators, tasks or presets; return the exit code."""
    rows = {"estimators": _estimators, "tasks": _tasks, "presets": _presets}[what]()
    if as_json:
        print(json.dumps([row for row, _ in rows], indent=2))
        return 0
    out = console()
    cells = [cells for _, cells in rows]
    if what == "estimators":
        cells = [_fitting(row, out.width) for row in cells]
    if what == "presets" and out.width < WIDE:
        cells = [_narrow(row) for row in cells]
    _print(cells, out)
    if what == "estimators":
        from estbench import plugins

        out.print(f"\n[dim]{LEGEND}[/dim]", highlight=False)
        for line in plugins.broken():
            print(f"estbench: left out: {line}", file=sys.stderr)
    return 0


def _print(rows: list[dict[str, str]], out: Console) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in rows[0]:
        table.add_column(name, overflow="fold", no_wrap=name in UNBROKEN)
    for row in rows:
        table.add_row(*row.values())
    out.print(table)


def _estimators() -> list[Row]:
    from rich.markup import escape

    from estbench import estimators

    rows = []
    for name in estimators.names():
        info = estimators.info(name)
        cells = {
            "name": name,
            "bias": "unbiased" if info.unbiased else "biased",
            "rewards a draw": evaluations(info),
            "K": str(info.group),
            "baseline": info.baseline,
            "learned": ", ".join(info.learned) or "–",
            "what it is": info.summary,
            "paper": info.source,
        }
        rows.append((dataclasses.asdict(info), {key: escape(text) for key, text in cells.items()}))
    return rows


def evaluations(info: EstimatorInfo) -> str:
    """Return an estimator's reward evaluations a draw in words: "1", "1 + 2T relaxed"."""
    if info.relaxed_evals == "0":
        return info.hard_evals
    relaxed = f"{info.relaxed_evals} relaxed"
    return relaxed if info.hard_evals == "0" else f"{info.hard_evals} + {relaxed}"


def _fitting(cells: dict[str, str], width: int) -> dict[str, str]:
    """Return an estimator's cells as a terminal of that width shows them.

    Where it is narrow the paper is left out, and what is learned stands under what the estimator
    is; where it is narrower still, so does all else.
    """
    if width >= WIDE:
        return cells
    if width >= MIDDLE:
        learned = f"\n[dim]learned: {cells['learned']}[/dim]" if cells["learned"] != "–" else ""
        kept = {key: text for key, text in cells.items() if key not in ("learned", "paper")}
        return {**kept, "what it is": cells["what it is"] + learned}
    facts = [cells["bias"], f"rewards a draw: {cells['rewards a draw']}"]
    facts += [f"K = {cells['K']}"] if cells["K"] != "1" else []
    facts += [f"baseline: {cells['baseline']}"] if cells["baseline"] != "none" else []
    facts += [f"learned: {cells['learned']}"] if cells["learned"] != "–" else []
    below = f"{cells['what it is']}\n[dim]{'; '.join(facts)}[/dim]"
    return {"name": cells["name"], "what it is": below}


def _narrow(cells: dict[str, str]) -> dict[str, str]:
    """Return a preset's cells with its lists of names under what it is, where none is broken."""
    facts = "; ".join(f"{key}: {cells[key]}" for key in ("tasks", "estimators", "seeds", "batches"))
    return {"name": cells["name"], "what it is": f"{cells['what it is']}\n[dim]{facts}[/dim]"}


def _tasks() -> list[Row]:
    from estbench import tasks

    rows = []
    for name in tasks.names():
        info = tasks.info(name)
        sizes = {
            "V": str(info.vocabulary) if info.vocabulary else "data's",
            "T": str(info.length) if info.length else "data's",
            "metric": info.primary_metric,
        }
        rows.append((dataclasses.asdict(info), {"name": name, **sizes, "what it is": info.summary}))
    return rows


def _presets() -> list[Row]:
    rows = []
    for name in presets.names():
        preset = presets.preset(name)
        cells = {
            "name": name + (" (default)" if name == presets.DEFAULT else ""),
            "tasks": ", ".join(preset.tasks),
            "estimators": ", ".join(preset.estimators),
            "seeds": str(len(preset.seeds)),
            "batches": str(preset.training.batches),
            "what it is": preset.description,
        }
        rows.append((preset.as_dict(), cells))
    return rows

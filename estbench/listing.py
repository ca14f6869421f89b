"""What there is to choose from, as tables or JSON."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

from estbench import presets
from estbench.commands import console

__all__ = ["listing"]

Row = tuple[dict[str, Any], dict[str, str]]  # as JSON, and as cells of a table


def listing(what: str, *, as_json: bool) -> int:
    """Print all estimators, tasks or presets; return the exit code."""
    rows = {"estimators": _estimators, "tasks": _tasks, "presets": _presets}[what]()
    if as_json:
        print(json.dumps([row for row, _ in rows], indent=2))
        return 0
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in rows[0][1]:
        table.add_column(name, overflow="fold", no_wrap=name == "name")
    for _, cells in rows:
        table.add_row(*cells.values())
    console().print(table)
    if what == "estimators":
        from estbench import plugins

        for line in plugins.broken():
            print(f"estbench: left out: {line}", file=sys.stderr)
    return 0


def _estimators() -> list[Row]:
    from estbench import estimators

    rows = []
    for name in estimators.names():
        info = estimators.info(name)
        bias = "unbiased" if info.unbiased else "biased"
        cells = {"name": name, "bias": bias, "baseline": info.baseline, "what it is": info.summary}
        rows.append((dataclasses.asdict(info), cells))
    return rows


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

"""What there is to choose from, as tables or JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from estbench.config import presets
from estbench.core.registry import ESTIMATORS, TASKS, broken
from estbench.core.terminal import console, plain, say, show_json

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["described", "evaluations", "listing"]

Declared = dict[str, Any]  # as JSON has it
Cells = dict[str, str]  # of a row of a table, by column
WIDE, MIDDLE = 150, 110  # characters
UNBROKEN = ("name", "bias", "K")
LEGEND = (
    "rewards a draw: evaluations of the reward, relaxed ones apart, for T positions and V tokens "
    "and n draws at a time; K: sequences a draw. With --json: all that is declared"
)


def listing(what: str | None, *, as_json: bool) -> int:
    """Print all estimators, tasks or presets, or all three; return the exit code.

    As JSON one of them is an array, all three are an object of arrays.
    """
    wanted = KINDS if what is None else {what: KINDS[what]}
    rows = {name: declared() for name, (declared, _) in wanted.items()}
    if as_json:
        show_json(rows if what is None else rows[what])
        return 0
    out = console()
    for name, (_, cells) in wanted.items():
        if what is None:
            out.print(f"[bold]{name}[/bold]\n")
        _print([cells(declared, out.width) for declared in rows[name]], out)
        if name == "estimators":
            out.print(f"\n[dim]{LEGEND}[/dim]", highlight=False)
        if name != list(wanted)[-1]:
            out.print()
    if "estimators" in wanted:
        for line in broken():
            say(f"estbench: left out: {line}")
    return 0


def _print(rows: list[Cells], out: Console) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in rows[0]:
        table.add_column(name, overflow="fold", no_wrap=name in UNBROKEN)
    for row in rows:
        table.add_row(*row.values())
    out.print(table)


def _estimator_cells(declared: Declared, width: int) -> Cells:
    cells = {
        "name": declared["name"],
        "bias": "unbiased" if declared["unbiased"] else "biased",
        "rewards a draw": evaluations(declared["hard_evals"], declared["relaxed_evals"]),
        "K": str(declared["group"]),
        "baseline": declared["baseline"],
        "learned": ", ".join(declared["learned"]) or "–",
        "what it is": described(declared["name"], declared["summary"], declared["any_group"]),
        "paper": declared["source"],
    }
    return _fitting({column: plain(text) for column, text in cells.items()}, width)


def described(name: str, summary: str, any_group: bool) -> str:
    """Return an estimator's summary, and how it is called in groups of other sizes."""
    return f"{summary} (any K: {name}-K)" if any_group else summary


def evaluations(hard: str, relaxed: str) -> str:
    """Return an estimator's reward evaluations a draw in words: "1", "1 + 2T relaxed"."""
    if relaxed == "0":
        return hard
    return f"{relaxed} relaxed" if hard == "0" else f"{hard} + {relaxed} relaxed"


def _fitting(cells: Cells, width: int) -> Cells:
    """Return an estimator's cells as a terminal of that width shows them.

    A narrow terminal has no column for the paper, and shows what is learned below what the
    estimator is; a narrower one shows all other columns there too.
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


def _narrow(cells: Cells) -> Cells:
    """Return a preset's cells with its lists of names under what it is, where none is broken."""
    facts = "; ".join(f"{key}: {cells[key]}" for key in ("tasks", "estimators", "seeds", "batches"))
    return {"name": cells["name"], "what it is": f"{cells['what it is']}\n[dim]{facts}[/dim]"}


def _task_cells(declared: Declared, width: int) -> Cells:
    return {
        "name": declared["name"],
        "V": str(declared["vocabulary"] or "data's"),
        "T": str(declared["length"] or "data's"),
        "metric": declared["primary_metric"],
        "what it is": declared["summary"],
    }


def _presets() -> list[Declared]:
    return [presets.preset(name).as_dict() for name in presets.names()]


def _preset_cells(declared: Declared, width: int) -> Cells:
    name = declared["name"]
    cells = {
        "name": name + (" (default)" if name == presets.DEFAULT else ""),
        "tasks": ", ".join(declared["tasks"]),
        "estimators": ", ".join(declared["estimators"]),
        "seeds": str(len(declared["seeds"])),
        "batches": str(declared["training"]["batches"]),
        "what it is": declared["description"],
    }
    return cells if width >= WIDE else _narrow(cells)


KINDS: dict[str, tuple[Callable[[], list[Declared]], Callable[[Declared, int], Cells]]] = {
    "estimators": (ESTIMATORS.rows, _estimator_cells),
    "tasks": (TASKS.rows, _task_cells),
    "presets": (_presets, _preset_cells),
}
"""What can be listed: what is declared, and how a terminal of some width shows it."""

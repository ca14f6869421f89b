"""A comparison in a terminal: what differs, a table a quantity, and the sum of it at the end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from estbench.core.terminal import plain
from estbench.report.between.contents import said
from estbench.report.data.formatting import clean
from estbench.report.view.compare_texts import (
    cells,
    grouped,
    heading,
    heads,
    method,
    notes,
    sentences,
    setting_rows,
    shown,
    summary,
)

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table

    from estbench.report.between import Between
    from estbench.report.between.settings import Difference

__all__ = ["show"]

STYLES = {"better": "green", "worse": "bold red", "differs": "yellow", "not comparable": "yellow"}
LONGEST = 40  # letters of a name
LISTED = 12  # what is more than that of one kind is counted


def show(found: Between, console: Console) -> None:
    """Print a comparison."""
    for name, path, what in heading(found):
        console.print(f"[bold]{name}[/bold]  {plain(path)} [dim]({plain(what)})[/dim]")
    for title, differences in (
        ("Settings that differ", found.settings),
        ("Environment", found.environment),
    ):
        if differences:
            console.print(f"\n[bold]{title}[/bold]")
            console.print(_differences(differences))
    if not found.identical:
        frame, left_out = shown(found)
        for title, rows in grouped(frame):
            console.print(f"\n[bold]{plain(title)}[/bold]")
            apart = rows[rows["verdict"] == "not comparable"]
            if len(apart) < len(rows):
                console.print(_table(rows.drop(apart.index)))
            for task, reason in dict.fromkeys(zip(apart["task"], apart["reason"], strict=True)):
                text = f"Not comparable on {clean(task, 40)}: {reason}"
                console.print(f"[yellow]{plain(text)}[/yellow]", highlight=False)
        if left_out:
            console.print(
                f"\n[dim]{left_out} more, where nothing differs or nothing can be told: see "
                "--json or --out[/dim]"
            )
    _listed(console, "Only one of them holds", list(said(found.only)))
    changes = [
        f"{c.what}: {c.a} in A, {c.b} in B" + (" (worse)" if c.worse else "")
        for c in (*found.failures, *found.proofs)
    ]
    _listed(console, "Failed or proven in one of them only", changes)
    console.print()
    for note in notes(found):
        console.print(f"[yellow]{plain(note)}[/yellow]", highlight=False)
    console.print(f"[dim]{plain(method(found))}[/dim]", highlight=False)
    for text in sentences(found):
        console.print(plain(text), highlight=False)
    colour = "bold red" if found.worse else "bold"
    console.print(f"[{colour}]{plain(summary(found))}[/{colour}]", highlight=False)


def _differences(differences: Iterable[Difference]) -> Padding:
    """Return a table, indented: no line of what a set says begins where estbench's own do."""
    from rich.padding import Padding
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    rows = setting_rows(differences)
    matters = any(row[3] for row in rows)
    for head in ("", "A", "B", *(["keeps apart"] if matters else [])):
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*(plain(cell) for cell in row[: 4 if matters else 3]))
    return Padding(table, (0, 0, 0, 2))


def _table(rows: pd.DataFrame) -> Table:
    """Return the table of one quantity; a task heads its estimators."""
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    names = {name: "  " + clean(str(name), LONGEST) for name in rows["estimator"].unique()}
    table.add_column("", no_wrap=True, min_width=max(map(cell_len, names.values())))
    for head in heads(rows):
        right = head not in ("95 %", "verdict")
        table.add_column(head, justify="right" if right else "left", overflow="fold")
    for task, own in rows.groupby("task", sort=False):
        table.add_row(Text(clean(str(task), 40), style="italic"))
        for _, row in own.iterrows():
            *numbers, verdict = cells(row)
            style = STYLES.get(str(row["verdict"]), "dim")
            name = Text(names[row["estimator"]])
            table.add_row(name, *(Text(n) for n in numbers), Text(verdict, style=style))
    return table


def _listed(console: Console, title: str, lines: list[str]) -> None:
    if not lines:
        return
    console.print(f"\n[bold]{title}[/bold]")
    for line in lines[:LISTED]:
        console.print(f"  {plain(clean(line))}", highlight=False)
    if len(lines) > LISTED:
        console.print(f"  and {len(lines) - LISTED} more; see --json or --out")

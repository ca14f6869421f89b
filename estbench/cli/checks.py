"""The verb ``check``: proves estimators and says what holds, on the terminal and on disk."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from estbench.cli.commands import command_line, load_plugin
from estbench.core.errors import UserError
from estbench.core.processes import Terminated, stop_workers, undisturbed
from estbench.core.terminal import console, plain, say, show_json
from estbench.store.atomic import StorageError, storing
from estbench.store.outputs import check_output
from estbench.store.private import distrusted

if TYPE_CHECKING:
    from rich.table import Table

    from estbench.meter.notices import Slow
    from estbench.proof.checking import CheckResult

__all__ = ["check"]

FILES = ("check.json", "check.csv", "bias.svg", "bias.png", "bias.csv")
KEYS = ("estimator", "declared", "verdict")  # of each entry of check.json
SMALLEST_MARGIN, LARGEST_MARGIN = 0.001, 0.5
LARGEST_SEED = 999_999_999


def check(
    names: Sequence[str],
    *,
    plugin: Path | None = None,
    margin: float | None = None,
    seed: int | None = None,
    workers: int | None = None,
    out: Path | None = None,
    as_json: bool = False,
) -> int:
    """Check estimators; return 0 where everything they declare holds, else 1.

    Where it is interrupted, the estimators that were finished are shown and written, and the next
    call goes on from all that was found out.

    Args:
      names: Which; all of the catalogue if empty, those of the plugin if there is one.
      plugin: A file with a user's own estimators.
      margin: Relative bias from which on one is found or excluded; a smaller one may pass.
      seed: Of the problem that is drawn at random; a new one if None.
      workers: Processes; as many as there are physical cores if None.
      out: Folder of check.csv, check.json and the figure.
      as_json: Print check.json instead of tables.

    Raises:
      UserError: A name does not exist, margin or seed make no sense, the plugin is broken, or the
        folder cannot be written to.
      StorageError: The disk is full.
    """
    from estbench import estimators
    from estbench.core import plugins
    from estbench.proof.checking import by_name
    from estbench.proof.judging import MARGIN
    from estbench.proof.running import check_many
    from estbench.runner.environment import worker_count

    margin = MARGIN if margin is None else margin
    if not SMALLEST_MARGIN <= margin <= LARGEST_MARGIN:
        raise UserError(
            f"--margin {margin:g}: must be from {SMALLEST_MARGIN} to {LARGEST_MARGIN}; it is a "
            "part of the gradient's norm, so that 0.02 means 2 %"
        )
    if seed is not None and not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"--seed {seed}: must be a whole number from 0 to {LARGEST_SEED}")
    own = load_plugin(plugin)
    if plugin is not None and not (own or names):
        raise UserError(f"{plugin} registers no estimator: name the estimators to be checked")
    wanted = list(dict.fromkeys(names)) or own or estimators.names()
    for name in wanted:
        estimators.info(name)  # raises for a name that does not exist
    folder = out or Path("results") / "check"
    check_output(folder, FILES, KEYS)  # before minutes of work rather than after
    if why := distrusted():
        say(why)
    begun = time.perf_counter()
    finished: dict[str, CheckResult] = {}
    interrupted: Terminated | None = None
    try:
        progress = Progress(quiet=as_json)
        with progress as tell:
            makes = {name: by_name(name) for name in wanted}
            for name, result in check_many(
                makes,
                margin=margin,
                seed=seed,
                workers=workers or worker_count(),
                plugins=plugins.loaded(),
                tell=tell,
                slow=progress.slow,
                note=progress.note,
            ):
                finished[name] = result
    except Terminated as stop:
        interrupted = stop
    finally:
        stop_workers()  # a thread that a plugin left would keep one of them alive
    results = [finished[name] for name in wanted if name in finished]
    if interrupted is None:
        _tell(results, folder, as_json)
        remembered = sum(result.remembered for result in results)
        say(
            f"{len(results)} checked in {time.perf_counter() - begun:.0f} s"
            + (f" ({remembered} tests are remembered from before)" if remembered else "")
            + f"; check.csv, check.json and bias.svg are in {folder}"
        )
        return 0 if all(result.holds for result in results) else 1
    with undisturbed(), suppress(OSError):  # the terminal may be gone
        kept = f"; check.csv, check.json and bias.svg in {folder} hold those" if results else ""
        try:
            _tell(results, folder, as_json)
        except StorageError as error:
            kept = f", as shown above ({error})"
        say(
            f"estbench: interrupted; {len(results)} of {len(wanted)} are checked{kept}; "
            f"go on with: {command_line()}"
        )
    return interrupted.code


def _tell(results: Sequence[CheckResult], folder: Path, as_json: bool) -> None:
    """Write the results, if there are any, and print them whatever becomes of the files.

    Raises:
      StorageError: The disk refused a file; all is printed.
    """
    from estbench.proof.records import as_document, as_frame

    document = as_document(results)
    try:
        if results:
            with storing(folder):
                _write(folder, document, as_frame(results))
    finally:
        if as_json:
            show_json(document)
        elif results:
            _show(results)


def _write(folder: Path, document: object, frame: object) -> None:
    import pandas as pd

    from estbench.report.out.drawing import write
    from estbench.report.out.spreadsheet import csv_text
    from estbench.report.view.figures.base import drawing
    from estbench.report.view.figures.proof import draw
    from estbench.store.atomic import write_bytes, write_json

    assert isinstance(frame, pd.DataFrame)
    write_json(folder / "check.json", document)
    write_bytes(folder / "check.csv", csv_text(frame).encode())
    with drawing():
        drawn = draw(frame)
    write(drawn, folder)


class Progress:
    """A bar on a terminal, nothing elsewhere (a check is short, and its table says all)."""

    def __init__(self, quiet: bool) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        target = console(sys.stderr)
        self.bar = Progress(
            TextColumn("checking"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[now]}", style="dim", markup=False),
            console=target,
            transient=True,
            disable=quiet or not target.is_terminal,
            expand=True,
        )
        self.task = self.bar.add_task("", total=None, now="")

    def __enter__(self) -> Callable[[int, int, str], None]:
        self.bar.start()

        def tell(done: int, total: int, label: str) -> None:
            self.bar.update(self.task, completed=done, total=total, now=label)

        return tell

    def slow(self, estimator: str, notice: Slow) -> None:
        """Say above the bar, or as a plain line, why an estimator takes long."""
        self.note(f"{estimator}: {notice.line(notice.per_thousand())}")

    def note(self, text: str) -> None:
        """Say something above the bar, or as a plain line."""
        self.bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def __exit__(self, *_: object) -> None:
        self.bar.stop()


def _show(results: Sequence[CheckResult]) -> None:
    out = console()
    table = _table(results, wide=True)
    if out.measure(table, options=out.options.update(width=1000)).maximum > out.width:
        table = _table(results, wide=False)
    out.print(table)
    from estbench.proof.judging import LOOSE, LOOSER

    failing = [result for result in results if not result.holds]
    for result in failing:
        out.print(f"\n[bold]{plain(result.name)}[/bold]")
        for line in result.complaints():
            out.print(f"  {plain(line)}", highlight=False)
    for result in results:
        for line in result.remarks():
            out.print(f"[dim]{plain(result.name)}: {plain(line)}[/dim]", highlight=False)
    margin = results[0].margin
    out.print(
        f"\n[dim]size: of the bias found, with its 95 % interval, or else the upper 95 % limit of "
        f"what there may be. A bias of {margin:.2%} or more ({LOOSER * margin:.2%} on "
        f"{', '.join(LOOSE)} and the problem drawn at random) is found or excluded; a smaller "
        "one may pass. CPU s: seconds of processor time.[/dim]"
    )
    if (seed := results[0].seed) is not None:
        out.print(f"[dim]drawn at random: drawn-{seed}; --seed {seed} repeats it[/dim]")
    if not failing:
        out.print("[green]everything that was declared holds[/green]")


def _table(results: Sequence[CheckResult], wide: bool) -> Table:
    """Return a row an estimator; a narrow one leaves out what the verdict says already."""
    from rich.cells import cell_len
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    longest = max((cell_len(result.name) for result in results), default=0)
    table.add_column("estimator", no_wrap=True, min_width=longest)
    for title, side in (
        *([("declared", "left")] if wide else []),
        ("bias", "left"),
        *([("size", "right"), ("where it is largest", "left")] if wide else [("size", "left")]),
        ("conduct", "left"),
        ("variance", "left"),
        ("CPU s", "right"),
    ):
        table.add_column(title, justify=side)  # type: ignore[arg-type]
    for result in results:
        name, declared, bias, size, where, *others = _cells(result)
        if wide:
            table.add_row(name, declared, bias, size, where, *others)
        else:
            below = f"\n[dim]{where}[/dim]" if where else ""
            table.add_row(name, bias, size + below, *others)
    return table


def _cells(result: CheckResult) -> list[str]:
    worst = result.worst
    size, where = "", ""
    if worst and worst.result:
        look = worst.result.last
        where = f"{worst.problem}, {worst.state}"
        size = f"< {look.upper:.2%}"
        if worst.result.verdict == "biased":
            size = f"{look.relative_bias:.1%} [{look.low:.1%}, {look.high:.1%}]"
    colour = "green" if result.holds else "red"
    declared = "unbiased" if result.info.unbiased else "biased"
    broken = [f.rule for f in result.broken]
    conduct = f"[red]{plain(', '.join(broken))}[/red]" if broken else "kept"
    agreement = "–"
    if result.variance:
        agreement = "agrees" if all(f.agrees for f in result.variance) else "[red]differs[/red]"
    return [
        plain(result.name),
        declared,
        f"[{colour}]{result.verdict}[/{colour}]",
        size,
        where,
        conduct,
        agreement,
        f"{result.cpu_s:.0f}",
    ]

"""The summary in a terminal: a table a task, one or two lines an estimator."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from estbench.core.terminal import plain
from estbench.report.data.comparisons import BASELINED, SNAPSHOTS, TRAINING, Comparisons
from estbench.report.data.costs import shared_text
from estbench.report.data.formatting import bounded, clean, number, quantity, ratio
from estbench.report.data.labels import estimator_facts, peer
from estbench.report.data.order import estimator_order
from estbench.report.data.ratios import Ratio
from estbench.report.data.statistics import ENOUGH_SEEDS, Estimate
from estbench.report.view.answers import abstract
from estbench.report.view.verdicts import useful_range
from estbench.report.view.words import span_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["show"]

LONGEST = 40  # letters of a name

Column = tuple[str, Callable[[str], tuple[str, str]]]


def show(comparisons: Comparisons, console: Console) -> None:
    """Print the abstract of the page, a table a task, and the runs that failed or are missing."""
    results = comparisons.results
    few = False
    for said in abstract(comparisons):
        console.print(plain(said.text), highlight=False)
    for task in results.tasks:
        names = _names(comparisons, task)
        if not names:
            continue
        console.print(f"\n[bold]{plain(clean(task, 60))}[/bold]")
        for table in _tables(comparisons, task, names, console):
            console.print(table)
        if shared := shared_text(comparisons, task, comparisons.measured(task)):
            console.print(f"[dim]{plain(shared)}[/dim]", highlight=False)
        counts = _counts(comparisons, task, names).values()
        few = few or any(0 < n < ENOUGH_SEEDS for n in counts)  # 0: no variance, or nothing ran
    console.print(
        "[dim]Under each number its 95 % t interval over seeds (ms/step: over timing rounds). "
        "Ratios: noise of the reference trajectory (variance × reward evaluations, integrated over "
        "its batches), to the partner with the same baseline and to "
        f"{BASELINED}, paired by seed. by snapshot: their range over the informative snapshots, to "
        "the partner where there is one. useful: the share of a step that is not noise, at the "
        "batch size in use. ?: the verdict is another without one snapshot."
        f"{_signs(comparisons)}[/dim]"
    )
    if few:
        console.print(
            f"[yellow]Fewer than {ENOUGH_SEEDS} seeds: too few to rank by; intervals assume "
            "normality.[/yellow]"
        )
    _problems(comparisons, console)


def _signs(comparisons: Comparisons) -> str:
    """Return what the signs beside names and counts mean, of those that are there."""
    results = comparisons.results
    names = {*results.variance["estimator"], *results.runs["estimator"]}
    marks = {estimator_facts(name).mark for name in names}
    said = " ✕: that many runs or measurements failed." if results.failures else ""
    said += " †: biased by design, not ranked." if "†" in marks else ""
    return said + (" ‡: not proven unbiased, not ranked." if "‡" in marks else "")


def _tables(comparisons: Comparisons, task: str, names: list[str], console: Console) -> list[Table]:
    """Return the columns in as few tables as the width allows; no name or number is broken."""

    def fits(columns: list[Column]) -> bool:
        table = _table(comparisons, task, names, columns)
        return console.measure(table, options=unbound).maximum <= console.width

    unbound = console.options.update(width=1000)
    groups: list[list[Column]] = [[]]
    for column in _columns(comparisons, task):
        if groups[-1] and not fits([*groups[-1], column]):
            groups.append([])
        groups[-1].append(column)
    return [_table(comparisons, task, names, columns) for columns in groups]


def _columns(comparisons: Comparisons, task: str) -> list[Column]:
    """Return the columns of variance, then those of training and time."""

    def against(other: Callable[[str], str]) -> Callable[[str], tuple[str, str]]:
        def cell(name: str) -> tuple[str, str]:
            if name == other(name):
                return "1×", ""
            found = comparisons.ratio(task, "evaluation", name, other(name))
            return ("–", "") if found is None else _ratio(found)

        return cell

    def by_snapshot(name: str) -> tuple[str, str]:
        found = comparisons.ratio(task, "evaluation", name, peer(name))
        found = found or comparisons.ratio(task, "evaluation", name, BASELINED)
        return ("–" if found is None else span_text(found).replace(" to ", "…")), ""

    def useful(name: str) -> tuple[str, str]:
        measured = name in comparisons.measured(task)
        found = useful_range(comparisons, task, name).text if measured else "–"
        return found.replace(" to ", "…"), ""

    def step(name: str) -> tuple[str, str]:
        own = comparisons.seconds(task, name).scaled(1e3)
        return quantity(own.value), _ends(own, quantity)

    ema = BASELINED.replace("-", "\n-")
    columns: list[Column] = [
        ("ratio to\npartner", against(peer)),
        (f"ratio to\n{ema}", against(lambda name: BASELINED)),
        ("by snapshot", by_snapshot),
        ("useful", useful),
    ]
    metric = comparisons.primary(task)
    if metric is not None:
        name = metric.name

        def quality(estimator: str) -> tuple[str, str]:
            own = comparisons.final(task, estimator, name)
            return number(own.value), _ends(own, number)

        columns.append((metric.label, quality))
    return [*columns, ("ms/step", step)]


def _table(comparisons: Comparisons, task: str, names: list[str], columns: list[Column]) -> Table:
    """Return one table; the interval stands under its number."""
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    shown = {name: _shown(name) for name in names}
    table.add_column("estimator", no_wrap=True, min_width=max(map(cell_len, shown.values())))
    table.add_column("n", justify="right", no_wrap=True, min_width=2)
    for head, _ in columns:
        table.add_column(head, justify="right", overflow="fold")
    counts = _counts(comparisons, task, names)
    for name in names:
        lost = sum(comparisons.lost(kind, "failed", task, name) for kind in (SNAPSHOTS, TRAINING))
        n = Text(str(counts[name])).append(f"\n{lost}✕" if lost else "", style="red")
        cells = [Text(shown[name]), n]
        for _, make in columns:
            value, ends = make(name)
            cell = Text(value)
            if ends:
                cell.append(f"\n{ends}", style="dim")
            cells.append(cell)
        table.add_row(*cells)
    return table


def _shown(name: str) -> str:
    mark = estimator_facts(name).mark
    return clean(name, LONGEST) + (mark and f" {mark}")


def _names(comparisons: Comparisons, task: str) -> list[str]:
    """Return every estimator with anything to show on a task."""
    groups = comparisons.measured(task), comparisons.trained(task), comparisons.timed(task)
    return sorted(set().union(*groups), key=estimator_order)


def _counts(comparisons: Comparisons, task: str, names: list[str]) -> dict[str, int]:
    """Return the seeds behind each row: those measured at the snapshots, else those trained."""
    runs = comparisons.results.runs
    done = runs[(runs["task"] == task) & (runs["status"] == "ok")]
    trained = done.groupby("estimator")["seed"].nunique()
    return {name: comparisons.noise(task, name).n or int(trained.get(name, 0)) for name in names}


def _problems(comparisons: Comparisons, console: Console) -> None:
    """List failed records, and count missing runs."""
    failures = comparisons.results.failures
    if failures:
        console.print(f"\n[bold red]{len(failures)} failed:[/bold red]")
    for failure in failures:
        where = ", ".join(filter(None, (failure.task, failure.estimator)))
        seed = f", seed {failure.seed}" if failure.seed >= 0 else ""
        console.print(plain(f"  {failure.kind}: {where}{seed}: {failure.message}"))
    runs = comparisons.results.runs
    missing = int((runs["status"] == "missing").sum())
    if missing:
        console.print(f"[yellow]{missing} training runs are missing[/yellow]")


def _ratio(found: Ratio) -> tuple[str, str]:
    doubt = "" if found.survives or not found.verdict else "?"
    if found.bound:
        return bounded(found.estimate, found.bound) + doubt, ""
    return ratio(found.estimate.value) + doubt, _ends(found.estimate, quantity)


def _ends(estimate: Estimate, write: Callable[[float], str]) -> str:
    """Return an interval in as few characters as can be: "0.55…0.72"."""
    return f"{write(estimate.low)}…{write(estimate.high)}" if estimate.has_interval else ""

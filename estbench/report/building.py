"""Builds a report: reads the records once, then writes tables, figures, captions and the page."""

from __future__ import annotations

import gc
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from estbench.config.validation import is_name
from estbench.core.errors import UserError
from estbench.core.reading import read_document
from estbench.report.data.comparisons import Comparisons
from estbench.report.data.labels import report_on
from estbench.report.data.summaries import summary_frame
from estbench.report.out.drawing import draw_all
from estbench.report.out.latex import NAMES, write_latex
from estbench.report.out.page import render
from estbench.report.out.tables import write_tables
from estbench.report.out.terminal import show
from estbench.report.records import load
from estbench.store import ResultSet
from estbench.store.atomic import StorageError, storing, write_bytes
from estbench.store.links import check_links

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

__all__ = ["ReportPaths", "build", "load_comparisons", "print_summary", "summary"]


@dataclass(frozen=True)
class ReportPaths:
    """What `build` wrote.

    Attributes:
      page: report.html.
      tables: The files of tables/.
      figures: The SVG files of figures/; a PNG and a CSV of the same name lie beside each.
      latex: The LaTeX tables, where they were asked for.
    """

    page: Path
    tables: tuple[Path, ...]
    figures: tuple[Path, ...]
    latex: tuple[Path, ...] = ()


def load_comparisons(directory: Path) -> Comparisons:
    """Read a result set."""
    # Records are millions of objects, none of them garbage, and would be looked through often.
    collecting = gc.isenabled()
    gc.disable()
    try:
        results = load(directory)
    finally:
        if collecting:
            gc.enable()
    report_on(results.manifest.get("experiment") or {}, ResultSet(directory).proofs())
    return Comparisons(results)


def build(
    directory: Path | str, *, latex: bool = False, console: Console | None = None
) -> ReportPaths:
    """Write tables/, figures/ and report.html of the result set in `directory`.

    Args:
      latex: Write tables/*.tex too. Once there, they are written anew with every report.
      console: Where `print_summary` is to go too; the records are then read once for both.

    Raises:
      UserError: There is no result set, nothing in it yet, or a record is damaged.
    """
    directory = Path(directory)
    comparisons = load_comparisons(directory)
    check_links(directory)
    try:
        with storing(directory):
            paths = _write(comparisons, directory, latex)
    except StorageError:
        if console is not None:
            show(comparisons, console)
        raise
    except OSError as error:
        raise UserError(f"cannot write the report in {directory}: {error}") from None
    if console is not None:
        show(comparisons, console)
    return paths


def summary(directory: Path | str) -> pd.DataFrame:
    """Return what is in tables/summary.csv: every estimate with interval and test.

    Raises:
      UserError: As `build`.
    """
    return summary_frame(load_comparisons(Path(directory)))


def print_summary(directory: Path | str, console: Console) -> None:
    """Print a table a task, with intervals, and the runs that failed.

    Raises:
      UserError: As `build`.
    """
    show(load_comparisons(Path(directory)), console)


def _write(comparisons: Comparisons, directory: Path, latex: bool) -> ReportPaths:
    frame = summary_frame(comparisons)
    tables = write_tables(comparisons, frame, directory / "tables")
    figures = list(draw_all(comparisons, directory / "figures"))
    drawn = [own for _, own, _ in figures]
    captions = {d.name: {"title": d.title, "caption": d.caption, "alt": d.alt} for d in drawn}
    _write_captions(directory / "figures", captions)
    # Tables of an earlier report must not outlive its numbers.
    wanted = latex or any((directory / "tables" / name).exists() for name in NAMES)
    papers = write_latex(comparisons, directory / "tables") if wanted else []
    page = directory / "report.html"
    report, others = render(comparisons, figures, frame, tables)
    # Whole or not at all: it may be open in a browser while a run goes on.
    write_bytes(directory / "figures.html", others.encode())
    write_bytes(page, report.encode())
    drawings = tuple(directory / "figures" / f"{d.name}.svg" for d in drawn)
    return ReportPaths(page, tuple(tables), drawings, tuple(papers))


def _write_captions(folder: Path, captions: dict[str, dict[str, str]]) -> None:
    """Write captions.json, and remove the figures of an earlier report that are no longer drawn."""
    folder.mkdir(exist_ok=True)
    path = folder / "captions.json"
    for name in _captioned(path) - set(captions):
        for ending in ("svg", "png", "csv"):
            (folder / f"{name}.{ending}").unlink(missing_ok=True)
    text = json.dumps(captions, indent=1, ensure_ascii=False)
    write_bytes(path, f"{text}\n".encode())


def _captioned(path: Path) -> set[str]:
    """Return the figures of an earlier report; a file that is none names none."""
    try:
        found = read_document(path)
    except (OSError, ValueError):
        return set()
    return {name for name in found if is_name(name)} if isinstance(found, dict) else set()

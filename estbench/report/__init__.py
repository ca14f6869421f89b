"""The report of a result set: tables, figures, a page and a summary for the terminal.

It reads the JSON records and nothing else, so it can be made again at any time. Importing this
package is cheap; pandas, scipy and matplotlib are loaded when something is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

__all__ = ["ReportPaths", "build", "print_summary", "summary"]


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
    from estbench.report.building import build_report

    return build_report(Path(directory), latex=latex, console=console)


def summary(directory: Path | str) -> pd.DataFrame:
    """Return what stands in tables/summary.csv: every estimate with interval and test.

    Raises:
      UserError: As `build`.
    """
    from estbench.report.building import load_comparisons
    from estbench.report.data.summaries import summary_frame

    return summary_frame(load_comparisons(Path(directory)))


def print_summary(directory: Path | str, console: Console) -> None:
    """Print a table a task, with intervals, and the runs that failed.

    Raises:
      UserError: As `build`.
    """
    from estbench.report.building import load_comparisons
    from estbench.report.out.terminal import show

    show(load_comparisons(Path(directory)), console)

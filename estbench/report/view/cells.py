"""Tables as text, with the number behind each cell, so that a reader sorts by value."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from estbench.report.data.formatting import NO_STATEMENT, quantity

__all__ = ["Cell", "Row", "Table", "number_in", "table_of"]

UNKNOWN = ("", "–", NO_STATEMENT)
ROWS = 250  # a page is for reading, and stays small; what is longer stands in its file
# "0.63× [0.55, 0.72]", "at least 0.4×", "−0.38", "1.2e−5", "1,024 %": a number, its unit and its
# interval.
NUMBER = re.compile(
    r"(?:at (?:least|most) )?(?P<mantissa>[−-]?\d[\d,]*(?:\.\d+)?)(?:e(?P<exponent>[−-]?\d+))?"
    r"(?:\s?(?:×|%|ms|s|nats))?(?:\s\[[^\]]*\])?"
)


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
      text: As it is read.
      value: What it is sorted by; None where it is sorted as text, or is unknown.
      mark: The verdict that goes with it, if any.
    """

    text: str
    value: float | None = None
    mark: str = ""


@dataclass(frozen=True)
class Row:
    """A row of a table; `estimator` is whose it is, if it is one estimator's."""

    cells: Sequence[Cell]
    estimator: str = ""


@dataclass(frozen=True)
class Table:
    """A table of the page.

    Attributes:
      heads: Of the columns.
      rows: Those that are shown, the first of `total`.
      total: Rows of the data.
      lead: The place of the column that heads each row, or -1.
    """

    heads: Sequence[str]
    rows: Sequence[Row]
    total: int
    lead: int = -1

    @property
    def cut_text(self) -> str:
        """What is said of a table that is not shown whole, or nothing."""
        if len(self.rows) == self.total:
            return ""
        return f"the first {len(self.rows)} of {self.total} rows; all are in the CSV"


def table_of(frame: pd.DataFrame, most: int = ROWS) -> Table:
    """Return a frame's first rows as text: few digits, dashes for what is unknown."""
    columns = [_column(frame[name].iloc[:most].tolist()) for name in frame.columns]
    names = [str(name) for name in frame.columns]
    owner = names.index("estimator") if "estimator" in names else -1
    rows = [
        # Some tables write the mark of what is not ranked behind the name.
        Row(cells, cells[owner].text.rstrip("†‡") if owner >= 0 else "")
        for cells in zip(*columns, strict=True)
    ]
    return Table([name.replace("_", " ") for name in names], rows, len(frame), owner)


def number_in(text: str) -> float | None:
    """Return the number that a text is, leaving its interval and unit out; None for other text."""
    found = NUMBER.fullmatch(text.strip())
    if found is None:
        return None
    exponent = (found["exponent"] or "0").replace("−", "-")
    return float(f"{found['mantissa'].replace(',', '').replace('−', '-')}e{exponent}")


def _column(values: Iterable[Any]) -> list[Cell]:
    """Return a column's cells; it is sorted by number if all that is known in it is one."""
    cells = [_cell(value) for value in values]
    known = [cell for cell in cells if cell.text not in UNKNOWN]
    if known and all(cell.value is not None for cell in known):
        return cells
    return [Cell(cell.text) for cell in cells]


def _cell(value: Any) -> Cell:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return Cell("–")
    if isinstance(value, float):
        return Cell(quantity(value), value if math.isfinite(value) else None)
    if isinstance(value, str):
        return Cell(value, number_in(value))
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return Cell(str(value))
    return Cell(str(value), float(value))

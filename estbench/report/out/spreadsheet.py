"""CSV that a spreadsheet may open: text is text, and no cell is a formula.

A spreadsheet takes text that begins with one of a few signs for a formula, which may call programs
or send what stands beside it elsewhere. Names and messages of a result set may come from anybody.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

__all__ = ["csv_text"]

SIGNS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def csv_text(table: pd.DataFrame) -> str:
    """Return a table as CSV, with the shortest digits that read back as the same number.

    Text that a spreadsheet would take for a formula gets an apostrophe before it, heads of columns
    too; text that is a number, such as "-0.5", is left as it is.
    """
    texts = [c for c in table.columns if not pd.api.types.is_numeric_dtype(table[c].dtype)]
    safe = table.assign(**{c: table[c].map(_quoted) for c in texts}) if texts else table
    return safe.rename(columns=_quoted).to_csv(index=False, lineterminator="\n")


def _quoted(value: Any) -> Any:
    if not isinstance(value, str) or not value.startswith(SIGNS) or _is_number(value):
        return value
    return f"'{value}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

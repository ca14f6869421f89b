"""Tables of an earlier report, read in place of records that were left out for their size.

They may come from elsewhere, so that each has to be what a report writes: names, whole numbers and
numbers, and no more of them than can be held. A Parquet file of a few kilobytes may say that a
value stands in it a billion times.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from estbench.config.validation import MAX_SEED
from estbench.core.reading import read_bytes
from estbench.store.layout import LARGEST, Label, Name

__all__ = ["MOST_CELLS", "read_table"]

MOST_BYTES = 1 << 30
MOST_CELLS = 200_000_000
"""Of a table: a grid of 10,000 runs with 25 metrics at each of 100 batches has all of them."""
MOST_COLUMNS = 2_000
MOST_LETTERS = 4_000_000_000  # of a column, were each of its texts as long as the longest

_NAMES: dict[str, Callable[[str], str]] = {
    **dict.fromkeys(("task", "estimator"), Name),
    **dict.fromkeys(("metric", "status", "by", "part", "optimiser", "phase"), Label),
}
_TEXTS = (*_NAMES, "error", "text")
_WHOLE = (
    *("seed", "step", "steps", "snapshot", "draws", "sequences_per_draw"),
    *("round", "position", "batch", "replicates"),
)


def read_table(path: Path, columns: Sequence[str], *, more: bool = False) -> pd.DataFrame:
    """Return a table with the types that it is written with.

    Args:
      path: A Parquet file.
      columns: What it has to hold.
      more: Return the other columns too.

    Raises:
      OSError: It cannot be read.
      ValueError: It is none that a report writes; the text says why.
    """
    content = read_bytes(path, MOST_BYTES)
    try:
        table = _table(content)
        missing = [column for column in columns if column not in table.column_names]
        if missing:
            raise ValueError(f"{path.name} lacks {', '.join(missing)}")
        wanted = table.column_names if more else columns
        frame = pd.DataFrame({column: _column(table, column) for column in wanted})
    except pa.ArrowException as error:
        raise ValueError(" ".join(str(error).split())[:200]) from None
    for column in _NAMES:
        if column in frame and frame[column].isna().any():
            raise ValueError(f"{column} is not always there")
    if "seed" in frame and not frame["seed"].between(0, MAX_SEED).all():
        raise ValueError(f"a seed is not from 0 to {MAX_SEED}")
    return frame


def _table(content: bytes) -> pa.Table:
    """Return the columns as they are stored, texts as numbers into a list of them."""
    head = pq.ParquetFile(io.BytesIO(content))
    names = head.schema_arrow.names
    if head.metadata.num_rows * len(names) > MOST_CELLS or len(names) > MOST_COLUMNS:
        raise ValueError(f"more than {MOST_CELLS:,} cells or {MOST_COLUMNS:,} columns")
    if len(set(names)) < len(names):
        raise ValueError("two columns have the same name")
    for column in names:
        Label(column)
    texts = [column for column in names if column in _TEXTS]
    return pq.ParquetFile(io.BytesIO(content), read_dictionary=texts).read()


def _column(table: pa.Table, column: str) -> pd.Series:
    found = table.column(column)
    if column in _TEXTS:
        return _texts(found, column)
    known = not pa.types.is_null(found.type)  # a column of an empty table has no type
    if column in _WHOLE:
        if known and not pa.types.is_integer(found.type):
            raise ValueError(f"{column} holds other than whole numbers")
        whole: pd.Series = found.cast(pa.int64()).to_pandas(
            types_mapper={pa.int64(): pd.Int64Dtype()}.get
        )
        return whole if column == "steps" or whole.isna().any() else whole.astype("int64")
    if known and not (pa.types.is_floating(found.type) or pa.types.is_integer(found.type)):
        raise ValueError(f"{column} holds other than numbers")
    values: pd.Series = found.cast(pa.float64()).to_pandas()
    if not values.abs().fillna(0.0).le(LARGEST).all():
        raise ValueError(f"{column} holds a number that is too large")
    return values


def _texts(found: pa.ChunkedArray, column: str) -> pd.Series:
    if pa.types.is_null(found.type):
        return pd.Series([None] * len(found), dtype=object)
    if not pa.types.is_dictionary(found.type):
        raise ValueError(f"{column} holds other than text")
    chunks = found.unify_dictionaries().chunks
    listed = chunks[0].dictionary if chunks else pa.array([], pa.string())
    if not (pa.types.is_string(listed.type) or pa.types.is_large_string(listed.type)):
        raise ValueError(f"{column} holds other than text")
    longest = pc.max(pc.binary_length(listed)).as_py() or 0
    if longest * len(found) > MOST_LETTERS:
        raise ValueError(f"{column} holds too much text")
    for value in listed.to_pylist() if column in _NAMES else ():
        _NAMES[column](value)
    written: pd.Series = found.cast(pa.large_string()).to_pandas()
    return written

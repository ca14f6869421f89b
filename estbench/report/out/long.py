"""Writes the long table of curves, millions of rows in a large set, a part at a time.

The bytes are those that pandas would write of the whole table: only time and memory are less.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from estbench.report.out.spreadsheet import csv_text
from estbench.report.records import CURVE_COLUMNS, Results
from estbench.store.atomic import replacing

__all__ = ["long_curves", "write_curves"]

ROWS = 1 << 20  # of the long table at once: a row group of the Parquet file


def long_curves(wide: pd.DataFrame) -> pd.DataFrame:
    """Return a row a run, batch and metric that has a value there.

    Args:
      wide: `Results.curves`, or some of its rows.
    """
    metrics, values, rows, columns = _there(wide)
    # Row by row rather than melted and sorted: a large set has millions of values.
    long = wide[CURVE_COLUMNS].iloc[rows].reset_index(drop=True)
    names = np.array(metrics, dtype=object)[columns]
    return long.assign(metric=names, value=values[rows, columns])


def write_curves(results: Results, folder: Path) -> list[Path]:
    """Write curves.csv and curves.parquet; return the paths."""
    paths = [folder / "curves.csv", folder / "curves.parquet"]
    with replacing(paths[0]) as new, new.open("w", encoding="utf-8", newline="") as file:
        file.write(",".join([*CURVE_COLUMNS, "metric", "value"]) + "\n")
        for part in _parts(results.curves):
            file.write(_csv(part))
    with replacing(paths[1]) as new:
        _write_parquet(results.curves, new)
    return paths


def _parts(wide: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Yield the rows of a wide table in parts of about ROWS values; at least one part."""
    metrics = max(1, len(wide.columns) - len(CURVE_COLUMNS))
    each = max(1, ROWS // metrics)
    for start in range(0, max(1, len(wide)), each):
        yield wide.iloc[start : start + each]


def _write_parquet(wide: pd.DataFrame, path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    writer = None
    for part in _parts(wide):
        table = pa.Table.from_pandas(long_curves(part), preserve_index=False)
        if writer is None:
            writer = parquet.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table.cast(writer.schema))
    if writer is not None:
        writer.close()


def _there(wide: pd.DataFrame) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Return the metrics, their values, and the places of those that are known."""
    metrics = sorted(name for name in wide.columns if name not in CURVE_COLUMNS)
    values = wide[metrics].to_numpy(np.float64)
    rows, columns = np.nonzero(~np.isnan(values))
    return metrics, values, rows, columns


def _csv(wide: pd.DataFrame) -> str:
    """Return the lines of some rows; what a batch's values share is written out once."""
    metrics, values, rows, columns = _there(wide)
    heads = [_texts(wide[name]) for name in CURVE_COLUMNS]
    batches = [",".join(head) for head in zip(*heads, strict=True)]
    names = [f",{_quoted(name)}," for name in metrics]
    lines = [
        f"{batches[row]}{names[column]}{value!r}\n"
        for row, column, value in zip(
            rows.tolist(), columns.tolist(), values[rows, columns].tolist(), strict=True
        )
    ]
    return "".join(lines)


def _texts(column: pd.Series[float]) -> list[str]:
    """Return a column as CSV has it."""
    if pd.api.types.is_float_dtype(column.dtype):
        return ["" if value != value else repr(value) for value in column.tolist()]
    return [_quoted(str(value)) for value in column.tolist()]


@cache
def _quoted(text: str) -> str:
    """Return a name as a cell of `csv_text`."""
    return csv_text(pd.DataFrame({"text": [text]})).removeprefix("text\n").removesuffix("\n")

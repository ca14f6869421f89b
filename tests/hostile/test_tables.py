"""Tables that stand in for run files, when they come from elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from estbench.core.errors import UserError
from estbench.report.building import load_comparisons
from estbench.report.data.stored import MOST_CELLS, read_table
from estbench.report.out.tables import curve_table, run_table
from estbench.report.records import load

from .conftest import replaced
from .mutations import NAMES, damaged
from .rule import answer, inputs

TABLES = ("runs", "curves", "starts", "temperatures")


@pytest.fixture(scope="module")
def published(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set whose run files were left out; its tables hold what they held."""
    folder = tmp_path_factory.mktemp("published") / "set"
    shutil.copytree(original, folder)
    results = load(folder)
    tables = {"runs": run_table(results), "curves": curve_table(results)}
    tables |= {"starts": results.starts, "temperatures": results.temperatures}
    (folder / "tables").mkdir()
    for name, table in tables.items():
        table.to_parquet(folder / "tables" / f"{name}.parquet", index=False)
    shutil.rmtree(folder / "runs")
    return folder


def test_they_are_read_as_they_were_written(original: Path, published: Path) -> None:
    whole, found = load(original), load(published)
    assert found.from_tables
    pd.testing.assert_frame_equal(found.runs, whole.runs, check_dtype=False)
    pd.testing.assert_frame_equal(found.curves, whole.curves, check_dtype=False)
    pd.testing.assert_frame_equal(found.starts, whole.starts, check_dtype=False)


@pytest.mark.parametrize("name", TABLES)
def test_damaged_bytes_are_a_line_or_no_matter(published: Path, name: str) -> None:
    path = published / "tables" / f"{name}.parquet"

    @inputs(30)
    @given(content=damaged(path.read_bytes()))
    def run(content: bytes) -> None:
        with replaced(path, content):
            found = answer("Parquet", lambda: load_comparisons(published))
        assert not isinstance(found, UserError) or "damaged" in str(found)

    run()


WRONG: list[list[Any]] = [
    *([[1, 2]], [["a", "b"]], [[None, None]], [[True, False]], [[1.5, float("nan")]]),
    *([[b"x", b"y"]], [[[1], [2]]], [[-1, 2**62]], [[1e308, float("inf")]], [["=a", "\x1b[1m"]]),
]


@inputs(40)
@given(data=st.data(), name=st.sampled_from(TABLES))
def test_columns_of_another_kind_are_a_line_or_no_matter(
    published: Path, data: st.DataObject, name: str
) -> None:
    path = published / "tables" / f"{name}.parquet"
    frame = pd.read_parquet(path)
    columns = {
        str(c): [None if pd.isna(value) else value for value in frame[c]] for c in frame.columns
    }
    at = data.draw(st.sampled_from(sorted(columns)))
    fault = data.draw(st.sampled_from(("drop", "rename", "values", "text")))
    if fault == "drop":
        columns.pop(at)
    elif fault == "rename":
        columns[data.draw(st.sampled_from(NAMES)).encode("utf-8", "replace").decode()] = (
            columns.pop(at)
        )
    elif fault == "text":
        text = data.draw(st.sampled_from(NAMES)).encode("utf-8", "replace").decode()
        columns[at] = [text] * len(frame)
    else:
        (pair,) = data.draw(st.sampled_from(WRONG))
        columns[at] = [pair[index % 2] for index in range(len(frame))]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    with replaced(path, sink.getvalue().to_pybytes()):
        found = answer("Parquet", lambda: load_comparisons(published))
    assert not isinstance(found, UserError) or str(published) in str(found)


def test_a_value_that_stands_there_a_billion_times_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "runs.parquet"
    rows = MOST_CELLS // 50
    table = pa.table({f"c{i}": pa.nulls(rows) for i in range(60)})
    pq.write_table(table, path)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(ValueError, match="cells"):
        read_table(path, [])


def test_a_long_text_that_stands_there_a_million_times_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "runs.parquet"
    indices = pa.array([0] * 1_000_000, pa.int32())
    texts = pa.DictionaryArray.from_arrays(indices, pa.array(["x" * 1_000_000]))
    pq.write_table(pa.table({"error": texts}), path)
    assert path.stat().st_size < 4 << 20
    with pytest.raises(ValueError, match="too much text"):
        read_table(path, ["error"])

"""Records, manifests and proofs from elsewhere: a report, or a line that names the damaged file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from estbench.core.errors import UserError
from estbench.report.building import load_comparisons
from estbench.report.data.summaries import summary_frame

from .conftest import replaced
from .mutations import documents
from .rule import answer, inputs

RECORDS = (
    "runs/oracle-small/reinforce/seed-000.json",
    "runs/oracle-small/rloo/seed-001.json",
    "snapshots/oracle-small/rloo/seed-001.json",
    "timing/001.json",
    "manifest.json",
    "proofs.json",
)

PROOFS = [
    {
        "configuration": {"estimator": "rloo", "reward": "p", "rollouts": 0, "truncation": 0},
        "verdict": "unbiased",
        "detail": "autoregressive < 1.20% (90000 draws)",
        "key": "0" * 64,
    }
]


def valid(directory: Path, name: str) -> Any:
    path = directory / name
    return json.loads(path.read_bytes()) if path.exists() else PROOFS


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_is_read_right_or_named_as_damaged(held: Path, name: str) -> None:
    @inputs(60)
    @given(content=documents(valid(held, name)))
    def run(content: bytes) -> None:
        with replaced(held / name, content):
            found = answer(name.split("/")[0], lambda: load_comparisons(held))
        if isinstance(found, UserError):
            assert str(held) in str(found)
            assert Path(name).name in str(found) or "names" in str(found)
        else:
            assert set(found.results.tasks) <= {"oracle-small", *valid_tasks(content)}

    run()


def valid_tasks(content: bytes) -> set[str]:
    """The tasks that a manifest or a timing record itself names."""
    document = json.loads(content)
    if not isinstance(document, dict):
        return set()
    tasks = (document.get("experiment") or {}).get("tasks") or ()
    refused = document.get("refused") or {}
    rows = document.get("rows") or ()
    return {*tasks, *refused, *(row["task"] for row in rows)}


@pytest.mark.parametrize("name", RECORDS[:4])
def test_what_is_taken_can_be_counted_with(held: Path, name: str) -> None:
    @inputs(6)
    @given(content=documents(valid(held, name)))
    def run(content: bytes) -> None:
        with replaced(held / name, content):
            answer("summaries", lambda: summary_frame(load_comparisons(held)))

    run()


@inputs(200)
@given(content=st.binary(max_size=60))
def test_bytes_are_no_record(held: Path, content: bytes) -> None:
    with replaced(held / RECORDS[0], content):
        found = answer("bytes", lambda: load_comparisons(held))
    assert isinstance(found, UserError)


def test_a_document_as_it_is_written_is_taken(held: Path) -> None:
    with replaced(held / "proofs.json", json.dumps(PROOFS).encode()):
        assert load_comparisons(held).results.tasks == ["oracle-small"]


@pytest.mark.parametrize("name", RECORDS[:5])
def test_an_error_does_not_repeat_what_is_long(held: Path, name: str) -> None:
    document = valid(held, name) | {"n" * 100_000: 1e200}
    with replaced(held / name, json.dumps(document).encode()):
        found = answer("long", lambda: load_comparisons(held))
    assert isinstance(found, UserError)
    assert "nnn" in str(found)

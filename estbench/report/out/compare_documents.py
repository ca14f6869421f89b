"""A comparison as JSON, for programs, and as Markdown, for a pull request."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from estbench.core.errors import printable
from estbench.report.between.contents import said
from estbench.report.data.formatting import clean
from estbench.report.view.compare_texts import (
    HEADS,
    SAID,
    cells,
    grouped,
    heading,
    method,
    notes,
    sentences,
    setting_rows,
    summary,
)

if TYPE_CHECKING:
    import pandas as pd

    from estbench.report.between import Between

__all__ = ["as_document", "as_markdown"]


def as_document(found: Between) -> dict[str, Any]:
    """Return everything as JSON would hold it; what is not known is null."""
    return {
        "a": str(found.a.path),
        "b": str(found.b.path),
        "summary": summary(found),
        "identical": found.identical,
        "worse": found.worse,
        "verdicts": found.counts,
        "records": {"common": found.records, "equal": found.equal},
        "margin": found.margin,
        "same_machine": found.same_machine,
        "time_and_memory_judged": found.judged,
        "settings": [asdict(entry) for entry in found.settings],
        "environment": [{"name": d.name, "a": d.a, "b": d.b} for d in found.environment],
        "differences": [_plain(row) for row in found.frame.to_dict("records")],
        "only": [asdict(entry) for entry in found.only],
        "failures": [asdict(change) for change in found.failures],
        "proofs": [asdict(change) for change in found.proofs],
        "sentences": sentences(found),
        "notes": list(notes(found)),
    }


def _plain(row: dict[Any, Any]) -> dict[str, Any]:
    return {
        str(k): None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()
    }


def as_markdown(found: Between) -> str:
    """Return a summary that can be pasted into a pull request; everything is in it, folded.

    Nothing of the sets breaks a line or steers a terminal that it is shown on.
    """
    return "".join(f"{printable(' '.join(line.splitlines()))}\n" for line in _lines(found))


def _lines(found: Between) -> Iterator[str]:
    yield "### estbench compare"
    yield ""
    for name, path, what in heading(found):
        yield f"- **{name}**: {_code(path)} ({_escaped(what)})"
    yield ""
    yield f"**{summary(found)}**"
    yield ""
    for text in sentences(found):
        yield f"- {_escaped(text)}"
    for note in notes(found):
        yield f"- {_escaped(note)}"
    for change in (*found.failures, *found.proofs):
        mark = "**worse**: " if change.worse else ""
        yield f"- {mark}{_escaped(f'{change.what}: {change.a} in A, {change.b} in B')}"
    if found.settings:
        yield from _table(
            "Settings that differ", ("setting", "A", "B", "keeps apart"), _named(found)
        )
    telling = found.frame[found.frame["verdict"].isin(SAID[:3])]
    yield from _quantities(telling)
    reasons = list(_reasons(found.frame))
    if reasons:
        yield ""
        yield "Not comparable:"
        yield ""
        yield from (f"- {_escaped(reason)}" for reason in reasons)
    if found.only:
        yield ""
        yield "Only one of them holds:"
        yield ""
        yield from (f"- {_escaped(line)}" for line in said(found.only))
    if found.environment:
        rows = [row[:3] for row in setting_rows(found.environment)]
        yield from _folded("Environment", _table("", ("", "A", "B"), rows))
    yield from _folded(f"All {len(found.frame)} quantities", _quantities(found.frame))
    yield ""
    yield f"<sub>{_escaped(method(found))}</sub>"


def _reasons(frame: pd.DataFrame) -> Iterator[str]:
    rows = frame[frame["verdict"] == "not comparable"]
    for (task, reason), own in rows.groupby(["task", "reason"], sort=False):
        families = ", ".join(dict.fromkeys(own["family"]))
        yield f"{clean(str(task), 60)} ({families}): {reason}"


def _quantities(frame: pd.DataFrame) -> Iterator[str]:
    for title, rows in grouped(frame):
        body = [
            (str(row["task"]), str(row["estimator"]), *cells(row)) for _, row in rows.iterrows()
        ]
        change = "B/A" if rows["kind"].iloc[0] == "ratio" else "B − A"
        heads = [change if head == "B/A" else head for head in HEADS]
        yield from _table(title, ("task", "estimator", *heads), body)


def _table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield ""
    if title:
        yield f"**{_escaped(title)}**"
        yield ""
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    yield from (f"| {' | '.join(_escaped(cell) for cell in row)} |" for row in rows)


def _named(found: Between) -> list[tuple[str, ...]]:
    return [(name, was, now, what) for name, was, now, what in setting_rows(found.settings)]


def _folded(title: str, lines: Iterator[str]) -> Iterator[str]:
    yield ""
    yield f"<details><summary>{_escaped(title)}</summary>"
    yield from lines
    yield ""
    yield "</details>"


def _escaped(text: str) -> str:
    """Return text in which nothing is markup, whatever a task or an error is called."""
    for sign, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(sign, entity)
    for sign in "\\*_`[]~|":  # the backslash first: it escapes the others
        text = text.replace(sign, f"\\{sign}")
    return text


def _code(text: str) -> str:
    return f"`{text.replace('`', chr(39))}`"

"""A comparison as JSON, for programs, and as Markdown, for a pull request."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from estbench.core.errors import printable
from estbench.report.between.contents import said
from estbench.report.data.formatting import clean
from estbench.report.out.templating import templates
from estbench.report.view.compare_texts import (
    SAID,
    cells,
    grouped,
    heading,
    heads,
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
    environment = templates(keep_trailing_newline=True)
    environment.filters |= {"text": _escaped, "code": _code}
    text: str = environment.get_template("compare.md.j2").render(
        heading=heading(found),
        summary=summary(found),
        said=[*sentences(found), *notes(found)],
        changes=[*found.failures, *found.proofs],
        settings=setting_rows(found.settings),
        telling=_quantities(found.frame[found.frame["verdict"].isin(SAID[:3])]),
        reasons=_reasons(found.frame),
        only=list(said(found.only)),
        environment=[row[:3] for row in setting_rows(found.environment)],
        count=len(found.frame),
        every=_quantities(found.frame),
        method=method(found),
    )
    return text


def _reasons(frame: pd.DataFrame) -> list[str]:
    rows = frame[frame["verdict"] == "not comparable"]
    return [
        f"{clean(str(task), 60)} ({', '.join(dict.fromkeys(own['family']))}): {reason}"
        for (task, reason), own in rows.groupby(["task", "reason"], sort=False)
    ]


def _quantities(frame: pd.DataFrame) -> list[tuple[str, list[str], list[tuple[str, ...]]]]:
    """Return (title, heads, rows) of the table of each quantity."""
    return [
        (
            title,
            ["task", "estimator", *heads(rows)],
            [(str(r["task"]), str(r["estimator"]), *cells(r)) for _, r in rows.iterrows()],
        )
        for title, rows in grouped(frame)
    ]


def _escaped(text: str) -> str:
    """Return text in one line in which nothing is markup, whatever a task or error is called."""
    text = printable(" ".join(text.splitlines()))
    for sign, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(sign, entity)
    for sign in "\\*_`[]~|":  # the backslash first: it escapes the others
        text = text.replace(sign, f"\\{sign}")
    return text


def _code(text: str) -> str:
    return f"`{printable(' '.join(text.splitlines())).replace('`', chr(39))}`"

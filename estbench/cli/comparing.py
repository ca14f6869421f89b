"""The verb ``compare``: two result sets against each other, on the terminal and on disk."""

from __future__ import annotations

from pathlib import Path

from estbench.core.terminal import console, say, show_json

__all__ = ["compare"]

FILES = ("compare.json", "compare.csv", "compare.md")
KEYS = ("a", "b", "summary", "verdicts")  # of compare.json


def compare(
    a: Path,
    b: Path,
    *,
    fail_on_worse: bool = False,
    as_json: bool = False,
    out: Path | None = None,
    margin: float | None = None,
) -> int:
    """Compare two result sets; return 1 if something is worse and that was asked for, else 0.

    Args:
      a: What is compared to.
      b: What is compared.
      fail_on_worse: Whether something worse is a failure.
      as_json: Print JSON instead of tables.
      out: Folder of compare.csv, compare.json and compare.md; nothing is written if None.
      margin: Ratio up to which more time or memory is no worse.

    Raises:
      UserError: As ``estbench.compare``, or ``out`` cannot be written to.
      StorageError: The disk refused a file; all is printed.
    """
    from estbench.report.between import between
    from estbench.report.out.compare_documents import as_document, as_markdown
    from estbench.report.out.compare_terminal import show
    from estbench.report.out.spreadsheet import csv_text
    from estbench.store import encode, write_bytes
    from estbench.store.outputs import check_output

    found = between(a, b, margin=margin)
    document = as_document(found)
    if out is not None:
        check_output(out, FILES, KEYS)
    try:
        if out is not None:
            texts = (encode(document), csv_text(found.frame).encode(), as_markdown(found).encode())
            for name, text in zip(FILES, texts, strict=True):
                write_bytes(out / name, text)
    finally:  # what was found is printed whatever becomes of the files
        if as_json:
            show_json(document)
        else:
            show(found, console())
    if out is not None:
        say(f"compare.csv, compare.json and compare.md are in {out}")
    return 1 if fail_on_worse and found.worse else 0

"""The verb ``compare``: two result sets against each other, on the terminal and on disk."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from estbench.commands import check_writable, console

__all__ = ["compare"]


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
      StorageError: The disk is full.
    """
    from estbench.report.between import between
    from estbench.report.between.documents import as_document, as_markdown
    from estbench.report.between.terminal import show
    from estbench.report.spreadsheet import csv_text
    from estbench.store import encode, write_bytes

    found = between(a, b, margin=margin)
    document = as_document(found)
    if out is not None:
        check_writable(out)
        write_bytes(out / "compare.csv", csv_text(found.frame).encode())
        write_bytes(out / "compare.json", encode(document))
        write_bytes(out / "compare.md", as_markdown(found).encode())
    if as_json:
        print(json.dumps(document, indent=2, allow_nan=False))
    else:
        show(found, console())
    if out is not None:
        print(f"compare.csv, compare.json and compare.md are in {out}", file=sys.stderr)
    return 1 if fail_on_worse and found.worse else 0

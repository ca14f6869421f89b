"""Runs an experiment again and again with one thing changed, and prints a row for each change."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

__all__ = ["file_stem", "repeat"]


def file_stem(name: str) -> str:
    """Return a change's name as that of its files."""
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def repeat(
    changes: Iterable[str], toml: Callable[[str], str], rows: Callable[[str, Path], str], out: Path
) -> None:
    """Run what is missing of each change, and print its rows.

    Args:
      changes: Their names.
      toml: Returns the experiment with a change.
      rows: Returns the lines of a table from a change's name and its result set.
      out: Folder of the files and result sets.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name in changes:
        stem = file_stem(name)
        file = out / f"{stem}.toml"
        file.write_text(toml(name), encoding="utf-8")
        words = ["run", str(file), "--out", str(out / stem), "--no-live"]
        subprocess.run([sys.executable, "-m", "estbench", *words], check=True)
        print(rows(name, out / stem), flush=True)

"""Whether the report that lies in a result set is that of its records: then none has to be made."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from estbench.store.results import RECORDS

__all__ = ["is_current"]

SOURCES = ("manifest.json", "proofs.json")
HEAD = 4096  # bytes of the page, in which one of a grid that goes on asks to be loaded again


def is_current(directory: Path) -> bool:
    """Whether report.html is whole, and newer than every record and than this package's files."""
    page, summary = directory / "report.html", directory / "tables" / "summary.csv"
    try:
        made = page.stat().st_mtime_ns
        with page.open("rb") as file:
            goes_on = b'http-equiv="refresh"' in file.read(HEAD)
        return (
            not goes_on
            and summary.is_file()
            and all(path.stat().st_mtime_ns < made for path in _sources(directory))
        )
    except OSError:
        return False


def _sources(directory: Path) -> Iterator[Path]:
    """Yield what a report is made of and by."""
    yield from (path for name in SOURCES if (path := directory / name).exists())
    for kind in RECORDS:
        yield from (directory / kind).rglob("*.json")
    package = resources.files("estbench.report")
    if isinstance(package, Path):  # not in an archive
        for pattern in ("*.py", "*.j2", "*.js", "*.bib", "*.csv"):
            yield from package.rglob(pattern)

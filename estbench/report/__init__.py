"""The report of a result set: tables, figures, a page and a summary for the terminal.

It reads the JSON records and nothing else, so it can be made again at any time. Importing this
package is cheap; pandas, scipy and matplotlib are loaded when something is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from estbench.report.building import ReportPaths as ReportPaths
    from estbench.report.building import build as build
    from estbench.report.building import print_summary as print_summary
    from estbench.report.building import summary as summary

__all__ = ["ReportPaths", "build", "print_summary", "summary"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from estbench.report import building

        return getattr(building, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

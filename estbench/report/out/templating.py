"""The templates of pages, LaTeX tables and Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jinja2

__all__ = ["templates"]


def templates(**options: Any) -> jinja2.Environment:
    """Return the templates of this folder; a name that a template lacks is an error."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("estbench.report.out"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        **options,
    )

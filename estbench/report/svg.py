"""SVG inside the page: no clashing ids, no styles that leak, colours that follow the reader's."""

from __future__ import annotations

import re
from html import escape

from estbench.report.style import light_variables

__all__ = ["inline"]


def inline(svg: str, name: str, alt: str) -> str:
    """Return an SVG document as an element of the page.

    Args:
      svg: As matplotlib writes it.
      name: The figure's name; the prefix of every id.
      alt: What it says, for readers who do not see it.

    Returns:
      An `<svg>` without prolog, metadata, comments and stylesheet (which would apply to the whole
      page), with ids of its own, two decimals in paths and colours as CSS variables.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<style[^>]*>.*?</style>", "", body, flags=re.DOTALL)
    body = _own_ids(body.replace("xlink:href=", "href="), name)
    body = re.sub(r' (?:d|x|y)="[^"]*"|translate\([^)]*\)', _shorten, body)
    for colour, variable in light_variables().items():
        body = re.sub(colour, f"var({variable})", body, flags=re.IGNORECASE)
    body = re.sub(r"\n\s*", "\n", body)
    head = f'<svg role="img" aria-label="{escape(alt, quote=True)}" class="drawn" '
    opening = body[: body.index(">") + 1]
    box = re.search(r'viewBox="[^"]*"', opening)
    width = re.search(r'width="([\d.]+)pt"', opening)
    size = f' style="max-width: {float(width.group(1)) * 1.25:.0f}pt"' if width else ""
    root = f'{head}{box.group(0) if box else ""}{size} xmlns="http://www.w3.org/2000/svg">'
    return root + body[len(opening) :].strip()


def _own_ids(body: str, name: str) -> str:
    """Return the drawing with short ids that no other figure has; ids nobody refers to go."""
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', body))
    wanted = sorted({first or second for first, second in used})
    short = {old: f"{name}-{index:x}" for index, old in enumerate(wanted)}

    def rename(match: re.Match[str]) -> str:
        before, old, after = match.groups()
        return f"{before}{short[old]}{after}" if old in short else ""

    body = re.sub(r'( id=")([^"]+)(")', rename, body)
    return re.sub(r'((?:href="|url\()#)([^")]+)(["\)])', rename, body)


def _shorten(match: re.Match[str]) -> str:
    """Cut coordinates to two decimals: a hundredth of a point."""
    return re.sub(r"(\d+\.\d{2})\d+", r"\1", match.group(0))

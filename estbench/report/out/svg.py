"""SVG inside the page: small, no clashing ids, no styles that leak, colours that follow the reader.

What belongs to one estimator carries ``data-estimator``, by which the page names and hides it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from html import escape

from estbench.report.out.lean import Words, merged
from estbench.report.view.figures.base import Band
from estbench.report.view.style import Look, light_variables

__all__ = ["Drawings", "swatch"]

OWNED = re.compile(r'(<g) id="estimator:([^"]*?)(?::\d+)?"([^>]*)>')
GLYPH = re.compile(r'<path id="(DejaVuSans[^"]*)"([^>]*)/>\s*')
MOVE = re.compile(r'(<use [^>]*?) transform="translate\(([-\d.]+) ([-\d.]+)\)"/>')
GROUND = "patch_1"  # of the figure; the page has its own
PART = "\x00"
GROUP = re.compile(r'<g\b(?: id="([^"]*)")?[^>]*(?<!/)>|</g>')
PATH = re.compile(r' d="([^"]*)"')
LINES = re.compile(r"[ML] -?[\d.]+ -?[\d.]+\s*|[Zz]\s*")


class Drawings:
    """Takes the figures of one page; what they share (letters, styles) stands in it once."""

    def __init__(self) -> None:
        self._glyphs: dict[tuple[str, str], str] = {}
        self._styles: dict[str, str] = {}
        self._words = Words()
        self._figures = 0

    def inline(self, svg: str, alt: str, bands: Sequence[Band]) -> str:
        """Return an SVG document as elements of the page.

        Args:
          svg: As matplotlib writes it.
          alt: What it says, for readers who do not see it.
          bands: Where it may be cut, from top to bottom.

        Returns:
          An `<svg>` a band, without prolog, metadata, comments and stylesheet (which would apply to
          the whole page), with ids of its own, coordinates of a tenth of a point, colours as CSS
          variables and styles as classes of `css`.
        """
        prefix = f"f{self._figures}-"
        self._figures += 1
        body = svg[svg.index("<svg") :]
        body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
        body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
        body = re.sub(r"<style[^>]*>.*?</style>", "", body, flags=re.DOTALL)
        width = re.search(r'width="([\d.]+)pt"', body)
        wide = float(width[1]) if width else 0.0
        body, panels = _parted(body)
        body = OWNED.sub(r'\1 data-estimator="\2"\3>', body)
        body = self._shared_letters(body.replace("xlink:href=", "href="))
        body = _own_ids(body, prefix)
        body = MOVE.sub(_placed, body)
        body = PATH.sub(lambda found: f' d="{_compact(found[1])}"', body)
        body = re.sub(r' (?:x|y)="[^"]*"|translate\([^)]*\)', _shorten, body)
        variables = light_variables()
        body = _colours().sub(lambda found: f"var({variables[found.group().lower()]})", body)
        body = re.sub(r' style="([^"]*)"', self._style, body)
        body = re.sub(r">\s+<", "><", body)
        body = merged(self._words.shared(body))
        pieces = dict(zip(panels, body.split(PART), strict=True))
        written = []
        said = f'role="img" aria-label="{escape(alt, quote=True)}"'
        for index, band in enumerate(bands):
            role = 'aria-hidden="true"' if index else said
            own = "".join(pieces.pop(f"axes_{panel + 1}", "") for panel in band.panels)
            box = f"0 {_plain(round(10 * band.top))} {wide:g} {band.bottom - band.top:.1f}"
            written.append(
                f'<svg {role} class="drawn" viewBox="{box}" '
                f'style="max-width: {1.25 * wide:.0f}pt" xmlns="http://www.w3.org/2000/svg">{own}'
            )
        written[0] += "".join(pieces.values())  # legends, and what others refer to
        return "</svg>".join([*written, ""])

    def css(self) -> str:
        """Return the rules of all that was taken so far."""
        return "\n".join(f".{name}{{{style}}}" for style, name in self._styles.items())

    def _shared_letters(self, body: str) -> str:
        """Leave out letters that an earlier figure holds; figures are never hidden."""
        names = {}

        def take(found: re.Match[str]) -> str:
            old, shape = found.groups()
            known = (old, shape) in self._glyphs
            name = self._glyphs.setdefault((old, shape), f"g{len(self._glyphs):x}")
            names[old] = name
            return "" if known else f'<path id="{name}"{shape}/>'

        body = GLYPH.sub(take, body)
        return re.sub(
            r'href="#(DejaVuSans[^"]*)"', lambda found: f'href="#{names[found[1]]}"', body
        )

    def _style(self, found: re.Match[str]) -> str:
        style = re.sub(r"([:;]) ", r"\1", found[1])
        return f' class="{self._styles.setdefault(style, f"k{len(self._styles):x}")}"'


def swatch(look: Look) -> str:
    """Return a sample of an estimator's line, as figures label it: dash, marker and colour."""
    from matplotlib.markers import MarkerStyle
    from matplotlib.path import Path

    style = MarkerStyle(look.marker)
    points = style.get_path().transformed(style.get_transform())
    words = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C"}
    parts = []
    for vertices, code in points.iter_segments(curves=True, simplify=False):
        if code == Path.CLOSEPOLY:
            parts.append("Z")
            continue
        pairs = zip(vertices[::2], vertices[1::2], strict=True)
        # matplotlib's y goes up; markers are of size 1 about the origin
        parts.append(words[code] + " ".join(f"{16 + 8 * x:.2f} {7 - 8 * y:.2f}" for x, y in pairs))
    colour = f"var({light_variables()[look.colour]})"
    dashes = "" if isinstance(look.dash, str) else " ".join(f"{1.6 * d:g}" for d in look.dash[1])
    pattern = f' stroke-dasharray="{dashes}"' if dashes else ""
    return (
        '<svg class="swatch" viewBox="0 0 32 14" width="32" height="14" aria-hidden="true">'
        f'<path d="M0 7H32" stroke="{colour}" stroke-width="1.6"{pattern}/>'
        f'<path d="{"".join(parts)}" fill="{colour}" stroke="{colour}"/></svg>'
    )


@cache
def _colours() -> re.Pattern[str]:
    """Return what finds any colour of the palette."""
    return re.compile("|".join(light_variables()), re.IGNORECASE)


def _parted(body: str) -> tuple[str, list[str]]:
    """Return what a drawing consists of, with `PART` between, and the ids of the pieces.

    The pieces are the groups of the figure: axes_1 and so on, legends; then the definitions.
    """
    start = re.search(r'<g id="figure_1">\s*', body)
    assert start is not None
    names: list[str] = []
    pieces: list[str] = []
    begin, depth, opened = start.end(), 0, 0
    for found in GROUP.finditer(body, begin):
        if found.group() != "</g>":
            if depth == 0:
                names.append(found[1] or f"group {len(names)}")
                opened = found.start()
            depth += 1
        elif depth:
            depth -= 1
            if depth == 0 and names[-1] == GROUND:
                names.pop()
            elif depth == 0:
                pieces.append(body[opened : found.end()])
        else:
            rest = body[found.end() :].replace("</svg>", "")
            return PART.join([*pieces, rest]), [*names, "definitions"]
    raise ValueError("the drawing is cut off")


def _own_ids(body: str, prefix: str) -> str:
    """Return the drawing with short ids that no other figure has; ids nobody refers to go."""
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', body))
    shared = re.compile(r"g[0-9a-f]+")
    wanted = sorted({first or second for first, second in used})
    short = {
        old: old if shared.fullmatch(old) else f"{prefix}{index:x}"
        for index, old in enumerate(wanted)
    }

    def rename(match: re.Match[str]) -> str:
        before, old, after = match.groups()
        return f"{before}{short[old]}{after}" if old in short else ""

    body = re.sub(r'( id=")([^"]+)(")', rename, body)
    return re.sub(r'((?:href="|url\()#)([^")]+)(["\)])', rename, body)


def _placed(found: re.Match[str]) -> str:
    """Write a shift as coordinates, which is shorter and the same."""
    head, x, y = found.groups()
    up = "" if float(y) == 0.0 else f' y="{y}"'
    return f'{head} x="{x}"{up}/>'


def _compact(path: str) -> str:
    """Return a shorter path: of straight lines the steps, in tenths."""
    if LINES.sub("", path):
        # Round markers and letters: few, and a tenth would show in them.
        finer = re.sub(r"(\.\d\d)\d+", r"\1", path)
        return re.sub(r"\s*([A-Za-z])\s*", r"\1", finer).strip()
    written: list[str] = []
    word, x, y = "", 0, 0
    numbers: tuple[int, ...]
    for part in LINES.findall(path):
        if part[0] in "Zz":
            written.append("z")
            word = "z"
            continue
        # Steps between rounded points, so that no error adds up.
        right, down = (round(10.0 * float(text)) for text in part[1:].split())
        before = word
        if part[0] == "M":
            word, numbers = "M", (right, down)
        elif down == y:
            word, numbers = "h", (right - x,)
        elif right == x:
            word, numbers = "v", (down - y,)
        else:
            word, numbers = "l", (right - x, down - y)
        # A letter holds on: after M, a pair of numbers would be a line.
        head = "" if word == before != "M" else word
        for number in numbers:
            text = _bare(number)
            written.append(head + text if head or text[0] == "-" else f" {text}")
            head = ""
        x, y = right, down
    return "".join(written)


def _bare(tenths: int) -> str:
    """Return a count of tenths as a decimal, without the zero before its point."""
    return re.sub(r"^(-?)0\.", r"\1.", _plain(tenths))


def _plain(tenths: int) -> str:
    """Return a count of tenths as a short decimal."""
    return f"{tenths / 10:.1f}".removesuffix(".0")


def _tenth(match: re.Match[str]) -> str:
    return _plain(round(10.0 * float(match.group())))


def _shorten(match: re.Match[str]) -> str:
    """Cut coordinates to a tenth of a point."""
    return re.sub(r"-?\d+\.\d+", _tenth, match.group(0))

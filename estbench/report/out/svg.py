"""SVG inside the page: small, no clashing ids, no styles that leak, colours that follow the reader.

What belongs to one estimator carries ``data-estimator``, by which the page names and hides it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from html import escape
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from estbench.report.view.figures.base import OWNER, Band
from estbench.report.view.style import Look, light_variables

__all__ = ["Drawings", "swatch"]

GLYPH = "DejaVuSans"  # what the ids of letters begin with
GROUND = "patch_1"  # of the figure; the page has its own
REFERENCE = re.compile(r"url\(#([^)]+)\)")
MOVED = re.compile(r"translate\(([-\d.]+) ([-\d.]+)\)\s*")
DECIMAL = re.compile(r"-?\d+\.\d+")
LINES = re.compile(r"[ML] -?[\d.]+ -?[\d.]+\s*|[Zz]\s*")


class Drawings:
    """Takes the figures of one page; what they share (letters, words, styles) is in it once."""

    def __init__(self) -> None:
        self._glyphs: dict[tuple[str, ...], str] = {}
        self._words: dict[str, str] = {}
        self._styles: dict[str, str] = {}
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
        root = _plain_names(ElementTree.fromstring(svg))
        wide = float(root.get("width", "0").removesuffix("pt"))
        figure = next(e for e in root.iter("g") if e.get("id") == "figure_1")
        groups = [e for e in figure if e.get("id") != GROUND]
        groups += [e for e in root if e.tag == "defs"]
        pieces = {e.get("id", f"group {place}"): e for place, e in enumerate(groups)}
        names = self._ids(groups, prefix)
        texts = {}
        for name, piece in pieces.items():
            holder = Element("g")
            holder.append(piece)
            self._rewrite(holder, names)
            whole = ElementTree.tostring(holder, encoding="unicode", short_empty_elements=True)
            texts[name] = whole.removeprefix("<g>").removesuffix("</g>").replace(" />", "/>")
        written = []
        said = f'role="img" aria-label="{escape(alt, quote=True)}"'
        for index, band in enumerate(bands):
            role = 'aria-hidden="true"' if index else said
            own = "".join(texts.pop(f"axes_{panel + 1}", "") for panel in band.panels)
            box = f"0 {_plain(round(10 * band.top))} {wide:g} {band.bottom - band.top:.1f}"
            written.append(
                f'<svg {role} class="drawn" viewBox="{box}" '
                f'style="max-width: {wide / 0.72:.0f}px" xmlns="http://www.w3.org/2000/svg">{own}'
            )
        written[0] += "".join(texts.values())  # legends, and what others refer to
        return "</svg>".join([*written, ""])

    def css(self) -> str:
        """Return the rules of all that was taken so far."""
        return "\n".join(f".{name}{{{style}}}" for style, name in self._styles.items())

    def _ids(self, groups: Sequence[Element], prefix: str) -> dict[str, str]:
        """Return old -> new id of all that is referred to; letters have the same in all figures."""
        elements = [element for group in groups for element in group.iter()]
        used: set[str] = set()
        for element in elements:
            used.update(found for value in element.attrib.values() for found in _referred(value))
        short = {old: f"{prefix}{index:x}" for index, old in enumerate(sorted(used))}
        for element in elements:
            name = element.get("id", "")
            if name.startswith(GLYPH):
                shape = (name, element.get("d", ""))
                known = shape in self._glyphs
                short[name] = self._glyphs.setdefault(shape, f"g{len(self._glyphs):x}")
                if known:
                    element.tag = "known"  # an earlier figure holds it; figures are never hidden
        return short

    def _rewrite(self, parent: Element, names: dict[str, str]) -> None:
        """Make what is in `parent` small, and share what was written before."""
        children: list[Element] = []
        for child in parent:
            if child.tag in ("known", "metadata", "style"):
                continue
            self._attributes(child, names)
            self._rewrite(child, names)
            if child.tag == "defs" and not len(child):
                continue
            same = bool(children) and children[-1].attrib == child.attrib
            if same and child.get("data-estimator"):
                children[-1].extend(child)  # neighbours of one estimator are one group
            else:
                children += self._shared(child)
        parent[:] = children
        parent.text = parent.tail = None

    def _attributes(self, element: Element, names: dict[str, str]) -> None:
        """Shorten an element's attributes."""
        found = element.attrib
        name = found.pop("id", "")
        if name.startswith(OWNER):
            found["data-estimator"] = re.sub(r":\d+$", "", name.removeprefix(OWNER))
        elif name in names:
            found["id"] = names[name]
        moved = MOVED.fullmatch(found.get("transform", ""))
        if element.tag == "use" and moved:  # coordinates are shorter than a shift, and the same
            del found["transform"]
            found["x"] = moved[1]
            if float(moved[2]) != 0.0:
                found["y"] = moved[2]
        for key, value in list(found.items()):
            if key == "d":
                found[key] = _compact(value)
            elif key in ("x", "y"):
                found[key] = DECIMAL.sub(_tenth, value)
            elif key == "transform":
                found[key] = MOVED.sub(lambda m: DECIMAL.sub(_tenth, m[0]), value)
            elif key == "href":
                found[key] = f"#{names[value[1:]]}"
            elif key == "style":
                del found[key]
                found["class"] = self._class(value, names)
            elif key != "data-estimator":
                found[key] = REFERENCE.sub(lambda m: f"url(#{names[m[1]]})", value)

    def _class(self, style: str, names: dict[str, str]) -> str:
        variables = light_variables()
        style = REFERENCE.sub(lambda m: f"url(#{names[m[1]]})", re.sub(r"([:;]) ", r"\1", style))
        style = _colours().sub(lambda found: f"var({variables[found.group().lower()]})", style)
        return self._styles.setdefault(style, f"k{len(self._styles):x}")

    def _shared(self, group: Element) -> Iterator[Element]:
        """Yield a group, or a reference where it is a word or number that was written before."""
        moved = MOVED.match(group.get("transform", ""))
        letters = [child for child in group if child.tag == "use"]
        is_word = letters and all(e.get("href", "").startswith("#g") for e in letters)
        if group.tag != "g" or not moved or not is_word or group.get("data-estimator"):
            yield group
            return
        turned = group.get("transform", "")[moved.end() :]
        word = turned + "".join(f"{e.get('href')},{e.get('x')},{e.get('y')};" for e in letters)
        known = word in self._words
        name = self._words.setdefault(word, f"w{len(self._words):x}")
        yield from (child for child in group if child.tag == "defs")
        if not known:
            held = Element("g", {"id": name, "transform": turned})
            held.extend(letters)
            defs = Element("defs")
            defs.append(held)
            yield defs
        place = {"href": f"#{name}", "x": moved[1], "y": moved[2]}
        yield Element("use", place | {k: v for k, v in group.attrib.items() if k == "class"})


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


def _plain_names(root: Element) -> Element:
    """Return a document without namespaces and without white space between elements."""
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for key in [key for key in element.attrib if "}" in key]:
            element.attrib[key.rpartition("}")[2]] = element.attrib.pop(key)
        element.text = element.tail = None  # letters are outlines
    return root


def _referred(value: str) -> list[str]:
    """Return the ids that an attribute refers to."""
    return [value[1:]] if value.startswith("#") else REFERENCE.findall(value)


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

"""Writes figures: SVG, PNG and the data, the same bytes for the same data."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from estbench.report.data.comparisons import Comparisons
from estbench.report.out.spreadsheet import csv_text
from estbench.report.view.figures import FIGURES, Declared
from estbench.report.view.figures.base import OWNER, Band, Drawn, bands, drawing
from estbench.report.view.figures.emphasis import focusing
from estbench.store.atomic import replacing

__all__ = ["PNG_DPI", "Sheet", "draw_all", "write", "written"]

PNG_DPI = 160


@dataclass(frozen=True)
class Sheet:
    """A figure that was written; its drawing is let go of, for a large one has 100 MB.

    Attributes:
      svg: Its text.
      bands: Where it may be cut.
      inches: Its width and height.
    """

    svg: str
    bands: list[Band]
    inches: tuple[float, float]


def draw_all(comparisons: Comparisons, folder: Path) -> Iterator[tuple[Declared, Drawn, Sheet]]:
    """Draw and write every figure that the data allows; yield each as it was written."""
    for declared in FIGURES:
        with drawing(), focusing(comparisons):
            drawn = declared.draw(comparisons)
        if drawn is not None:
            yield declared, drawn, written(drawn, folder)


def write(drawn: Drawn, folder: Path) -> str:
    """Write NAME.svg, NAME.png and NAME.csv into `folder`; return the SVG's text."""
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.StringIO()
    _number_owners(drawn.figure)
    salt = {"svg.hashsalt": f"estbench {drawn.name}"}  # ids in the file do not depend on chance
    with drawing(salt), warnings.catch_warnings():
        # A name from elsewhere may hold a letter that the font lacks; a box is drawn for it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        drawn.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        with replacing(folder / f"{drawn.name}.png") as new:
            drawn.figure.savefig(new, format="png", dpi=PNG_DPI, metadata={"Software": None})
    svg = buffer.getvalue()
    with replacing(folder / f"{drawn.name}.svg") as new:
        new.write_text(svg, encoding="utf-8")
    with replacing(folder / f"{drawn.name}.csv") as new:
        new.write_text(csv_text(drawn.data), encoding="utf-8", newline="")
    return svg


def written(drawn: Drawn, folder: Path) -> Sheet:
    """Write a figure's files, clear it, and return what the page needs of it."""
    svg = write(drawn, folder)
    wide, tall = drawn.figure.get_size_inches()
    sheet = Sheet(svg, bands(drawn.figure), (float(wide), float(tall)))
    drawn.figure.clear()
    return sheet


def _number_owners(figure: Figure) -> None:
    """Give every mark of `belongs` an id of its own."""
    marked = figure.findobj(lambda artist: (artist.get_gid() or "").startswith(OWNER))
    for place, artist in enumerate(marked):
        artist.set_gid(f"{artist.get_gid()}:{place}")

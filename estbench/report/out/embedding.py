"""Which figures stand in the page, and which are shown from beside it.

A drawing grows with tasks times estimators. Those of a large grid would make a page of many
megabytes, which opens slowly and cannot be sent; what does not fit is shown from its file.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

from estbench.report.out.drawing import Sheet
from estbench.report.out.svg import Drawings
from estbench.report.view.figures.base import Drawn

__all__ = ["BUDGET", "MOST", "Embedded", "embedded", "fitted"]

MOST = 2_900_000  # characters of a page
BUDGET = 1_400_000  # of all drawings in it, at least; texts and tables may take the others
INCH = 100  # pixels of the page for an inch of a figure


@dataclass(frozen=True)
class Embedded:
    """A figure as the page has it.

    Attributes:
      drawn: The figure.
      markup: Elements of the page: its drawing, or a picture whose file lies beside the page.
      beside: Whether it is the latter.
    """

    drawn: Drawn
    markup: str
    beside: bool


def fitted(
    figures: Sequence[tuple[Drawn, Sheet]], page: Callable[[list[Embedded], str], str]
) -> str:
    """Return the page with as many drawings as it may hold.

    Args:
      figures: See `embedded`.
      page: Makes the page, of what `embedded` returns.
    """
    held, rules = embedded(figures, BUDGET)
    text = page(held, rules)
    room = MOST - (len(text) - sum(len(figure.markup) for figure in held))
    if room > BUDGET and any(figure.beside for figure in held):
        text = page(*embedded(figures, room))
    return text


def embedded(
    figures: Iterable[tuple[Drawn, Sheet]], budget: int = BUDGET
) -> tuple[list[Embedded], str]:
    """Return the figures as the page has them, and the style rules that they need.

    Args:
      figures: Each as it was written, the most important first: these are in the page if they fit.
      budget: Characters that all drawings in the page may have.
    """
    drawings, left, found = Drawings(), budget, []
    for drawn, sheet in figures:
        tried = copy.deepcopy(drawings)  # what a drawing shares with later ones goes with it
        markup = tried.inline(sheet.svg, drawn.alt, sheet.bands)
        if len(markup) <= left:
            drawings, left = tried, left - len(markup)
            found.append(Embedded(drawn, markup, beside=False))
        else:
            found.append(Embedded(drawn, _picture(drawn, sheet), beside=True))
    return found, drawings.css()


def _picture(drawn: Drawn, sheet: Sheet) -> str:
    """Return a picture; it has its size before it is loaded, so that nothing jumps."""
    wide, tall = (INCH * inches for inches in sheet.inches)
    return (
        f'<img class="drawn" src="figures/{escape(drawn.name, quote=True)}.svg" loading="lazy" '
        f'width="{wide:.0f}" height="{tall:.0f}" alt="{escape(drawn.alt, quote=True)}">'
    )

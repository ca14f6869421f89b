"""Figures of a page that would be too large are shown from beside it."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from estbench.report.out.drawing import Sheet, written
from estbench.report.out.embedding import embedded, fitted
from estbench.report.view.figures.base import Drawn, drawing, stacked

ALT = 'a "curve" of <goodness>'
Figures = list[tuple[Drawn, Sheet]]


@pytest.fixture
def figures(tmp_path: Path) -> Figures:
    found = []
    for name in ("first", "second", "third"):
        with drawing():
            figure, (axes,) = stacked(1)
            axes.plot([7919 * i % 101 for i in range(200 if name == "second" else 3)])
            axes.set_title(f"goodness of {name}")
        drawn = Drawn(name, name, "", ALT, pd.DataFrame({"n": [1]}), figure)
        found.append((drawn, written(drawn, tmp_path)))
    return found


def test_what_fits_is_in_the_page(figures: Figures) -> None:
    held, rules = embedded(figures)
    assert [figure.beside for figure in held] == [False] * 3
    assert all(figure.markup.startswith("<svg") for figure in held)
    assert rules


def test_what_does_not_fit_is_a_picture_with_its_words_and_size(figures: Figures) -> None:
    whole, _ = embedded(figures)
    first, second, _ = (len(figure.markup) for figure in whole)
    held, _ = embedded(figures, first + second // 2)
    assert [figure.beside for figure in held[:2]] == [False, True]
    picture = held[1].markup
    assert 'src="figures/second.svg"' in picture
    assert 'alt="a &quot;curve&quot; of &lt;goodness&gt;"' in picture
    assert 'width="520"' in picture, "5.2 inches at 100 pixels of the page each"


def test_letters_that_a_picture_would_have_brought_stand_in_the_next_drawing(
    figures: Figures,
) -> None:
    large, small = figures[1:]
    enough = len(embedded([small])[0][0].markup)
    held, _ = embedded([large, small], enough)
    assert [figure.beside for figure in held] == [True, False]
    used, there = (
        set(re.findall(mark, held[1].markup)) for mark in (r'href="#(.*?)"', r' id="(.*?)"')
    )
    assert used
    assert used <= there


@pytest.mark.parametrize(("room", "pictures"), [(0, 0), (-1, 1)])
def test_drawings_take_what_texts_and_tables_leave(
    figures: Figures, monkeypatch: pytest.MonkeyPatch, room: int, pictures: int
) -> None:
    words = "x" * 1000
    drawn = sum(len(figure.markup) for figure in embedded(figures)[0])
    monkeypatch.setattr("estbench.report.out.embedding.BUDGET", drawn // 4)
    monkeypatch.setattr("estbench.report.out.embedding.MOST", len(words) + drawn + room)
    text = fitted(figures, lambda held, _: words + "".join(figure.markup for figure in held))
    assert text.count("<img") == pictures


def test_where_texts_alone_are_too_much_drawings_have_their_least(
    figures: Figures, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = [len(figure.markup) for figure in embedded(figures)[0]]
    monkeypatch.setattr("estbench.report.out.embedding.BUDGET", drawn[0])
    monkeypatch.setattr("estbench.report.out.embedding.MOST", 1)
    text = fitted(figures, lambda held, _: "".join(figure.markup for figure in held))
    assert text.count("<img") == 2

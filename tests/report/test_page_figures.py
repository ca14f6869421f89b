"""Figures in the page: every estimator has a look of its own, many recede, drawings stay small."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from estbench import estimators
from estbench.report.building import load_comparisons
from estbench.report.data.comparisons import BASELINED, PLAIN, Comparisons
from estbench.report.data.statistics import Estimate
from estbench.report.out.drawing import write
from estbench.report.out.svg import Drawings
from estbench.report.view.figures import snapshot_variance
from estbench.report.view.figures.base import TALL, Band, Drawn, bands, drawing, stacked
from estbench.report.view.figures.emphasis import (
    MANY,
    context,
    focus_text,
    focusing,
    in_focus,
    shown,
)
from estbench.report.view.figures.forest import Forest, Mark, Row, draw_columns
from estbench.report.view.figures.rows import left_out
from estbench.report.view.style import CONTEXT, light_variables, look

from .synthetic import TRAINED, write_result_set

MINE = tuple(f"mine-{index}" for index in range(10))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Comparisons:
    directory = tmp_path_factory.mktemp("many")
    write_result_set(
        directory,
        tasks=("expressions-3",),
        trained=(*TRAINED, *MINE),
        also_measured=(BASELINED,),
        seeds=3,
        batches=4,
        rounds=2,
    )
    return load_comparisons(directory)


@pytest.fixture(scope="module")
def crowded(many: Comparisons) -> Drawn:
    with drawing(), focusing(many):
        drawn = snapshot_variance.draw(many)
    assert drawn is not None
    return drawn


def test_no_two_estimators_of_the_catalogue_share_marker_and_dash() -> None:
    looks = [look(name) for name in estimators.names()]
    assert len({(entry.marker, str(entry.dash)) for entry in looks}) == len(looks)
    assert {entry.colour for entry in looks} <= set(light_variables())


def test_few_estimators_are_all_in_colour(bench_set: Path) -> None:
    with focusing(load_comparisons(bench_set)):
        assert focus_text(TRAINED) == ""
        assert all(shown(name, TRAINED) == look(name) for name in TRAINED)


def test_of_many_the_references_and_the_best_are_in_colour(many: Comparisons) -> None:
    names = [*TRAINED, *MINE, BASELINED]
    assert len(names) > MANY
    with focusing(many):
        grey = context(names)
        coloured = set(names) - set(grey)
        assert {PLAIN, BASELINED, "rebar", "relax"} <= coloured  # the truth of the synthetic set
        assert len(coloured) == 8
        assert all(shown(name, names).colour == CONTEXT for name in grey)
        assert shown("rebar", names) == look("rebar")
        text = focus_text(names)
        assert f"The other {len(grey)} are thin and grey" in text
        assert all(name in text for name in coloured)
        # a figure of few shows all, whatever the result set holds
        assert in_focus(grey[0], grey[:3])
    assert in_focus(grey[0], names)  # outside of a report


def test_labels_of_many_lines_do_not_overlap(crowded: Drawn, tmp_path: Path) -> None:
    write(crowded, tmp_path)
    renderer = crowded.figure.canvas.get_renderer()  # type: ignore[attr-defined]
    for axes in crowded.figure.axes:
        boxes = [
            text.get_window_extent(renderer)
            for text in axes.texts
            if (text.get_gid() or "").startswith("estimator:") and "scale" not in text.get_text()
        ]
        assert 6 <= len(boxes) <= 8  # those in colour; the others share one label
        assert any(text.get_text().startswith("grey: ") for text in axes.texts)
        for below, above in pairwise(sorted(boxes, key=lambda box: float(box.y0))):
            assert above.y0 - below.y0 >= 0.85 * below.height
        edge = crowded.figure.bbox
        assert all(box.x1 <= edge.x1 and box.y1 <= edge.y1 and box.y0 >= 0 for box in boxes)


def test_a_tall_figure_is_cut_between_its_panels(crowded: Drawn) -> None:
    assert crowded.figure.get_figheight() > TALL / 2
    with drawing():
        figure, axes = stacked(5, height=2.0)
        for ax in axes:
            ax.set_title("a task")
            ax.set_xlabel("batch")
    found = bands(figure)
    assert [band.panels for band in found] == [(0,), (1,), (2,), (3,), (4,)]
    assert found[0].top == 0.0
    assert found[-1].bottom == pytest.approx(72.0 * figure.get_figheight())
    assert all(above.bottom == below.top for above, below in pairwise(found))
    height = 72.0 * figure.get_figheight()
    for ax, band in zip(axes, found, strict=True):
        box = ax.get_position()
        assert band.top < height * (1 - box.y1) < height * (1 - box.y0) < band.bottom
    with drawing():
        low, _ = stacked(2)
    assert len(bands(low)) == 1


def test_cutting_loses_and_repeats_nothing(crowded: Drawn, tmp_path: Path) -> None:
    svg = write(crowded, tmp_path)
    figure: Figure = crowded.figure
    whole = Drawings().inline(svg, "words", bands(figure)[:1])
    pieces = Drawings()
    cut = pieces.inline(svg, 'with "quotes" & <signs>', bands(figure))
    assert cut.count("<use") >= whole.count("<use")
    ids = re.findall(r' id="([^"]+)"', cut)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', cut)) <= set(ids)
    assert "with &quot;quotes&quot; &amp; &lt;signs&gt;" in cut
    assert cut.count('role="img"') == 1
    assert {*re.findall(r'class="(k[0-9a-f]+)"', cut)} == {
        *re.findall(r"^\.(k[0-9a-f]+)\{", pieces.css(), flags=re.MULTILINE)
    }
    again = pieces.inline(svg, "words", bands(figure))  # letters are taken from the first
    assert not set(re.findall(r' id="([^"]+)"', again)) & set(ids)


POINTS = st.lists(
    st.tuples(st.floats(-900, 900), st.floats(-900, 900)).map(
        lambda point: (round(point[0], 4), round(point[1], 4))
    ),
    min_size=2,
    max_size=40,
)


@given(POINTS)
def test_a_shortened_line_stays_within_a_tenth_of_a_point(
    points: list[tuple[float, float]],
) -> None:
    from estbench.report.out.svg import _compact

    text = " ".join(f"{'L' if i else 'M'} {x:f} {y:f} \n" for i, (x, y) in enumerate(points))
    written = _compact(text)
    steps: list[tuple[float, ...]] = []
    for word, rest in re.findall(r"([Mlhv])([^Mlhv]*)", written):
        numbers = [float(number) for number in re.findall(r"-?(?:\d+(?:\.\d+)?|\.\d+)", rest)]
        if word in "hv":
            steps += [(number, 0.0) if word == "h" else (0.0, number) for number in numbers]
        else:
            steps += zip(numbers[::2], numbers[1::2], strict=True)
    assert np.abs(np.cumsum(steps, axis=0) - np.array(points)).max() <= 0.0501


def document(body: str) -> str:
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg width="72pt" {names}><g id="figure_1"><g id="axes_1">{body}</g></g></svg>'


WHOLE = [Band(0.0, 72.0, (0,))]


def test_what_is_written_again_is_referred_to_in_any_figure_of_the_page() -> None:
    letter = '<defs><path id="DejaVuSans-41" d="M 0 0 Q 1 1 2 2"/></defs>'
    word = f'{letter}<use xlink:href="#DejaVuSans-41"/>'
    drawings = Drawings()

    def inline(turned: str) -> str:
        place = f"translate(3 4.5) {turned}"
        return drawings.inline(document(f'<g transform="{place}">{word}</g>'), "words", WHOLE)

    first, again, other = (inline(turned) for turned in ("scale(0.1)", "scale(0.1)", "scale(0.2)"))
    assert '<g id="w0" transform="scale(0.1)"><use href="#g0"/></g>' in first
    assert '<use href="#w0" x="3" y="4.5"/>' in first
    assert "<defs>" not in again, "letter and word stand in the first drawing"
    assert '<use href="#w0" x="3" y="4.5"/>' in again
    assert '<g id="w1" transform="scale(0.2)">' in other, "another size is another word"


def test_neighbours_of_one_estimator_are_one_group_and_others_are_not() -> None:
    marks = "".join(
        f'<g id="estimator:{name}:{place}"><path d="M 0 0"/></g>'
        for place, name in enumerate("aaba")
    )
    text = Drawings().inline(document(marks), "words", WHOLE)
    assert re.findall(r'data-estimator="(\w)"', text) == ["a", "b", "a"]
    assert text.count("<path") == 4


@pytest.mark.parametrize("count", [10, 60, 300])
def test_no_figure_grows_beyond_two_thousand_pixels(count: int) -> None:
    names = [f"mine-{place}" for place in range(count)]
    rows = [Row(name, (Mark(Estimate(1.0 + place, n=8)),)) for place, name in enumerate(names)]
    tasks = ("first", "second", "third", "fourth", "fifth")
    with drawing():
        figure = draw_columns(Forest(dict.fromkeys(tasks, rows), "noise"), names)
        curves, _ = stacked(count // 5, height=2.0, gap=0.1)
    shown = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert figure.get_figheight() * 100 <= 2000
    assert curves.get_figheight() * 100 <= 2000
    assert shown[0] == names[0]
    assert shown[-1] == names[-1], "top and bottom are shown"
    assert left_out(figure, names) == count - len(shown), "a caption says how many are not"

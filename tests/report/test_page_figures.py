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
from estbench.report.out.svg import Drawings
from estbench.report.view.figures import snapshot_variance
from estbench.report.view.figures.base import TALL, Drawn, bands, drawing, stacked, write
from estbench.report.view.figures.emphasis import (
    MANY,
    context,
    focus_text,
    focusing,
    in_focus,
    shown,
)
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
        assert len(boxes) >= MANY
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


def test_what_is_written_again_is_referred_to_in_any_figure_of_the_page() -> None:
    from estbench.report.out.lean import Words

    words = Words()
    word = '<use href="#g1"/><use href="#g2" x="63.6"/>'
    small, large = "scale(0.1 -0.1)", "scale(0.2 -0.2)"
    first = words.shared(f'<g class="k1" transform="translate(3 4.5) {small}">{word}</g>')
    held = f'<defs><g id="w0" transform="{small}">{word}</g></defs>'
    assert first == f'{held}<use href="#w0" x="3" y="4.5" class="k1"/>'
    letters = '<defs><path id="g3" d="M0 0"/></defs>'
    again = words.shared(f'<g class="k2" transform="translate(1 -2) {small}">{letters}{word}</g>')
    assert again == f'{letters}<use href="#w0" x="1" y="-2" class="k2"/>'
    other = words.shared(f'<g transform="translate(1 -2) {large}">{word}</g>')
    assert '<use href="#w1" x="1" y="-2"/>' in other, "another size is another word"
    turned = words.shared(f'<g transform="translate(1 -2) rotate(-90) {small}">{word}</g>')
    assert f'transform="rotate(-90) {small}"' in turned


def test_neighbours_of_one_estimator_are_one_group_and_others_are_not() -> None:
    from estbench.report.out.lean import merged

    a, b = '<g data-estimator="a">', '<g data-estimator="b">'
    body = f"<g>{a}<path/></g>{a}<g><use/></g></g>{b}<path/></g></g>{a}<path/></g>"
    assert merged(body) == f"<g>{a}<path/><g><use/></g></g>{b}<path/></g></g>{a}<path/></g>"
    plain = "<g><path/></g><g><path/></g>"
    assert merged(plain) == plain

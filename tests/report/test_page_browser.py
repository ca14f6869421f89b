"""The page as a browser shows it: drawn, quiet, usable by keyboard, legible, printable."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .browser import CHROMIUM, Visit, browsing, visit

pytest.importorskip("playwright", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

ESTIMATOR = "rebar"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing() as started:
        yield started


@pytest.fixture(scope="module")
def report_page(bench_report: Path) -> Path:
    return bench_report / "report.html"


@pytest.fixture
def here(browser: Any, report_page: Path) -> Iterator[Visit]:
    with visit(browser, report_page) as seen:
        yield seen
        assert seen.complaints == []


def visible(page: Any, selector: str) -> int:
    """Count what matches and takes up room."""
    return int(
        page.eval_on_selector_all(
            selector,
            "found => found.filter(e => e.getClientRects().length "
            "&& e.getBoundingClientRect().width > 0).length",
        )
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_it_opens_without_a_word_or_a_request_and_never_scrolls_sideways(
    browser: Any, report_page: Path, width: int, scheme: str
) -> None:
    with visit(browser, report_page, width=width, scheme=scheme) as seen:
        assert seen.complaints == []
        assert seen.requests == [report_page.resolve().as_uri()]
        root = "document.documentElement"
        assert seen.page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth")


@pytest.mark.parametrize(("width", "screens"), [(400, 2), (1400, 1)])
def test_the_first_screens_hold_abstract_figure_and_table(
    browser: Any, report_page: Path, width: int, screens: int
) -> None:
    with visit(browser, report_page, width=width) as seen:
        foot = "document.getElementById('summary').getBoundingClientRect().bottom"
        assert seen.page.evaluate(foot) <= 900 * screens
        for part in ("h1", ".abstract", "#figure-teaser svg", ".overview table"):
            assert visible(seen.page, f"#summary {part}") == 1


def test_the_page_is_seven_screens_and_nine_hundred_words_at_most(here: Visit) -> None:
    page = here.page
    assert page.evaluate("document.documentElement.scrollHeight") <= 7 * 900
    assert len(page.inner_text("body").split()) < 900


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize(("name", "count"), [("report.html", 7), ("figures.html", 10)])
def test_every_figure_is_drawn_and_fits(
    browser: Any, report_page: Path, width: int, name: str, count: int
) -> None:
    with visit(browser, report_page.with_name(name), width=width) as seen:
        assert seen.complaints == []
        boxes = seen.page.eval_on_selector_all(
            "figure",
            "found => found.flatMap(f => [...f.querySelectorAll('svg.drawn')].map(e => "
            "[f.id, e.getBoundingClientRect().width, e.getBoundingClientRect().height, "
            "e.getBBox().width, e.querySelectorAll('path').length]))",
        )
        names = seen.page.eval_on_selector_all("figure", "found => found.map(e => e.id)")
    assert len(names) == len(set(names)) == count
    assert {box[0] for box in boxes} == set(names)
    for name, wide, tall, inside, paths in boxes:
        assert 250 < wide <= width, name
        assert 60 < tall <= 2000, name
        assert inside > 100, name
        assert paths > 20, name


def test_what_is_explored_is_told_and_kept_in_the_address(here: Visit) -> None:
    page = here.page
    for field, value in (("task", "expressions-15"), ("cost", "second"), ("reference", "rloo")):
        page.select_option(f"#x-{field}", value)
    assert page.url.endswith("#explore?task=expressions-15&per=second&at=0&to=rloo")
    page.focus('#x-plot g[data-estimator="rebar"]')
    told = page.inner_text("#x-said")
    assert told.startswith("rebar: ")
    assert "times the noise of rloo" in told
    assert "n = 10" in told
    page.reload()
    assert page.input_value("#x-reference") == "rloo"


def test_a_note_opens_where_it_is_folded(here: Visit) -> None:
    page = here.page
    assert page.get_attribute("#notes", "open") is None
    page.click('#summary a[href="#note-1"]')
    page.wait_for_selector("#notes[open]")


def test_every_estimator_of_a_figure_leaves_a_mark_in_it(here: Visit) -> None:
    marks = here.page.eval_on_selector_all(
        "svg.drawn [data-estimator]",
        "found => found.map(e => { const b = e.getBBox();"
        "return [e.closest('figure').id, e.dataset.estimator, b.width + b.height]; })",
    )
    sizes: dict[tuple[str, str], float] = {}
    for figure, name, size in marks:
        sizes[figure, name] = max(size, sizes.get((figure, name), 0.0))
    assert len({name for _, name in sizes}) == 8
    mark = here.page.locator('svg.drawn [data-estimator="rebar"]').first
    assert mark.locator("title").first.text_content() == "rebar"  # what a pointer is told
    assert [key for key, size in sizes.items() if size < 3.0] == []


def test_a_checkbox_hides_an_estimator_everywhere_by_keyboard(here: Visit) -> None:
    page, marks = here.page, f'[data-estimator="{ESTIMATOR}"]'
    in_figures, in_tables = f"svg.drawn {marks}", f"tr{marks}"
    page.eval_on_selector_all("details", "found => found.forEach(e => e.open = true)")
    before = visible(page, in_figures), visible(page, in_tables)
    others = visible(page, 'svg.drawn [data-estimator="relax"]')
    figures = set(
        page.eval_on_selector_all(in_figures, "found => found.map(e => e.closest('figure').id)")
    )
    assert len(figures) >= 6
    assert min(before) > 5
    page.focus("#choose summary")
    for _ in range(4 + names(page).index(ESTIMATOR)):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.value") == ESTIMATOR
    page.keyboard.press("Space")
    assert (visible(page, in_figures), visible(page, in_tables)) == (0, 0)
    assert visible(page, 'svg.drawn [data-estimator="relax"]') == others
    assert page.inner_text("#shown") == f"7 of 8 estimators are shown; hidden: {ESTIMATOR}."
    page.keyboard.press("Space")
    assert (visible(page, in_figures), visible(page, in_tables)) == before
    assert page.inner_text("#shown") == "All 8 estimators are shown."


def names(page: Any) -> list[str]:
    """Return the estimators that can be chosen, in their order."""
    return list(page.eval_on_selector_all("#choose input", "found => found.map(e => e.value)"))


def test_the_buttons_show_all_none_or_what_others_are_held_against(here: Visit) -> None:
    page = here.page
    page.focus("#choose summary")
    page.keyboard.press("Enter")
    for button, shown in (("none", 0), ("references", 3), ("all", 8)):
        page.focus(f'button[data-choose="{button}"]')
        page.keyboard.press("Enter")
        assert page.locator("#choose input:checked").count() == shown
    page.focus('button[data-choose="references"]')
    page.keyboard.press("Space")
    assert visible(page, 'svg.drawn [data-estimator="rebar"]') == 0
    assert visible(page, 'svg.drawn [data-estimator="reinforce-ema"]') > 0
    assert "3 of 8 estimators are shown" in page.inner_text("#shown")


def test_a_hidden_estimator_is_said_on_paper(here: Visit) -> None:
    page = here.page
    page.click("#choose summary")
    page.uncheck(f'#choose input[value="{ESTIMATOR}"]')
    page.emulate_media(media="print")
    assert visible(page, "#shown") == 1
    assert visible(page, "#choose fieldset") == 0
    page.emulate_media(media="screen")


def test_tables_sort_by_value_by_keyboard_and_back(here: Visit) -> None:
    page, table = here.page, "#grid table"
    page.eval_on_selector_all("details", "found => found.forEach(e => e.open = true)")
    column = page.eval_on_selector_all(
        f"{table} thead th", "found => found.map(e => e.textContent.trim())"
    ).index("median run")

    def values() -> list[str]:
        cells = f"{table} tbody tr > :nth-child({column + 1})"
        return list(page.eval_on_selector_all(cells, "f => f.map(e => e.dataset.value ?? '')"))

    def first_two() -> list[str]:
        rows = "f => f.map(e => e.cells[0].textContent + ' ' + e.cells[1].textContent)"
        return list(page.eval_on_selector_all(f"{table} tbody tr", rows))

    began, order = values(), first_two()
    assert "" in began  # what was not trained has no time
    known = [float(value) for value in began if value]
    button = f"{table} thead th:nth-child({column + 1}) button"
    page.focus(button)
    for key, sorted_as, reverse in (("Enter", "ascending", False), ("Space", "descending", True)):
        page.keyboard.press(key)
        head = page.get_attribute(f"{table} thead th:nth-child({column + 1})", "aria-sort")
        assert head == sorted_as
        assert sorted_as in page.inner_text("#sorted")
        found = values()
        assert [float(value) for value in found if value] == sorted(known, reverse=reverse)
        assert found[len(known) :] == [""] * (len(found) - len(known))
        # equal values keep the order of the report
        ties = [row for row, value in zip(first_two(), found, strict=True) if value == found[0]]
        assert ties == [row for row in order if row in ties]
    page.keyboard.press("Enter")
    assert (values(), first_two()) == (began, order)
    assert page.locator("[aria-sort]").count() == 0


def test_a_ratio_with_its_interval_sorts_by_the_ratio(here: Visit) -> None:
    page, table = here.page, 'table[aria-describedby="noise-1"]'
    page.eval_on_selector_all("details", "found => found.forEach(e => e.open = true)")
    page.focus(f"{table} thead th:nth-child(4) button")
    page.keyboard.press("Enter")
    texts = page.eval_on_selector_all(
        f"{table} tbody tr > :nth-child(4)", "found => found.map(e => e.textContent)"
    )
    ratios = [float(text.split("×")[0].replace(",", "")) for text in texts]
    assert len(ratios) == 8
    assert ratios == sorted(ratios)


def test_it_reads_without_javascript(browser: Any, report_page: Path) -> None:
    with visit(browser, report_page, script=False) as seen:
        page = seen.page
        assert page.locator("#choose").is_hidden()
        assert page.locator("button.sort").count() == 0
        assert page.locator("svg.drawn").first.is_visible()
        assert page.locator("#explore").is_hidden()
        assert "less noisy" in page.locator("#findings").inner_text()


def test_dark_and_light_differ_and_both_can_be_read(browser: Any, report_page: Path) -> None:
    grounds = []
    for scheme in ("light", "dark"):
        with visit(browser, report_page, scheme=scheme) as seen:
            colours = seen.page.evaluate(
                "(() => { const probe = document.createElement('i'); document.body.append(probe);"
                "const names = ['--paper', '--ink', '--muted', '--accent', '--good', '--bad',"
                "'--fig-paper', '--fig-ink', '--fig-muted', '--fig-context', '--fig-d55e00'];"
                "return Object.fromEntries(names.map(n => { probe.style.color = `var(${n})`;"
                "return [n, getComputedStyle(probe).color.match(/[\\d.]+/g).map(Number)]; })); })()"
            )
        grounds.append(tuple(colours["--paper"]))
        assert colours["--paper"] == colours["--fig-paper"]
        for name in ("--ink", "--muted", "--accent", "--good", "--bad", "--fig-ink", "--fig-muted"):
            assert contrast(colours[name], colours["--paper"]) >= 4.5, (scheme, name)
        for name in ("--fig-context", "--fig-d55e00"):
            assert contrast(colours[name], colours["--paper"]) >= 3.0, (scheme, name)
    assert grounds[0] != grounds[1]


def contrast(first: list[float], second: list[float]) -> float:
    """WCAG 2 contrast of two colours of 0 to 255."""

    def luminance(colour: list[float]) -> float:
        parts = [value / 255 for value in colour[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)


def test_it_prints_with_all_that_can_be_opened(here: Visit) -> None:
    pypdf = pytest.importorskip("pypdf")
    printed = here.page.pdf(format="A4", print_background=True)
    pages = pypdf.PdfReader(io.BytesIO(printed)).pages
    text = "\n".join(page.extract_text() for page in pages)
    assert 5 <= len(pages) <= 60
    words = "".join(text.split())
    for part in ("less noisy than", "How to cite", "1805.02788", "at the last batch"):
        assert part.replace(" ", "") in words
    assert "Chooseestimators" not in words


@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [
        ("report.html", 400, "light"),
        ("report.html", 1400, "dark"),
        ("figures.html", 400, "dark"),
    ],
)
def test_an_audit_of_accessibility_finds_nothing_serious(
    browser: Any, report_page: Path, name: str, width: int, scheme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    with visit(browser, report_page.with_name(name), width=width, scheme=scheme) as seen:
        short = "details:not(.long)"  # a cell is audited like any other, of thousands
        seen.page.eval_on_selector_all(short, "found => found.forEach(e => e.open = true)")
        # A figure is one image with a text of its own; what it is drawn with need not be read.
        parts = {"include": [["body"]], "exclude": [["svg.drawn > *"]]}
        found = axe.Axe().run(seen.page, parts, {"resultTypes": ["violations"]}).response
    serious = [
        (broken["id"], [node["target"] for node in broken["nodes"]][:5])
        for broken in found["violations"]
        if broken["impact"] in ("serious", "critical")
    ]
    assert serious == []

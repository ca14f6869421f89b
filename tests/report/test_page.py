"""The page's text: whole in one file, safe, honest about what it was made from."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from estbench import estimators
from estbench.report.building import load_comparisons
from estbench.report.data.citations import PAPER, citations, entries, sources_of
from estbench.report.data.provenance import digests, settings_key
from estbench.report.out.svg import swatch
from estbench.report.view.cells import number_in, table_of
from estbench.report.view.style import look


@pytest.fixture(scope="module")
def page(bench_report: Path) -> str:
    return (bench_report / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def others(bench_report: Path) -> str:
    return (bench_report / "figures.html").read_text(encoding="utf-8")


def section(page: str, name: str) -> str:
    start = re.search(rf'<(section|details) id="{name}"', page)
    assert start is not None
    end = page.find("<section", start.end()) if start[1] == "section" else -1
    return page[start.start() : end if end > 0 else len(page)]


def test_the_only_script_is_the_one_whose_hash_the_policy_allows(page: str, others: str) -> None:
    for text in (page, others):
        check_policy(text)


def check_policy(page: str) -> None:
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", page, flags=re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy[1]
    assert "default-src 'none'" in policy[1]
    assert not re.search(r"\son\w+=|javascript:", page.replace(scripts[0], ""))


QUESTIONS = ["limit", "noise", "learning", "bias", "sources", "paper"]


def test_the_page_answers_first_and_folds_what_it_was_made_from(page: str) -> None:
    order = re.findall(r'<section id="([^"]+)"', page)
    assert order == ["summary", *QUESTIONS, "explore", "details"]
    first = section(page, "summary")
    assert first.index('class="abstract"') < first.index("<figure") < first.index("</figure>")
    assert first.index("</figure>") < first.index('class="overview"')
    assert first.count("<figure") == 1
    abstract = first[first.index('class="abstract"') : first.index("<figure")]
    assert 2 <= abstract.count("<p>") <= 4
    folded = re.findall(r'<details id="([^"]+)"', section(page, "details"))
    assert {"notes", "reading", "grid", "tables", "environment", "cite"} <= set(folded)
    assert not re.search(r"<details[^>]* open", page)


def test_a_note_stands_where_it_is_referred_to(page: str) -> None:
    referred = {int(number) for number in re.findall(r'href="#note-(\d+)"', page)}
    there = [int(number) for number in re.findall(r'<li id="note-(\d+)"', page)]
    assert referred
    assert there == list(range(1, len(there) + 1))
    assert referred <= set(there)


def test_every_question_has_one_figure_with_caption_and_data(page: str, others: str) -> None:
    assert [section(page, name).count("<figure") for name in QUESTIONS] == [1] * len(QUESTIONS)
    figures = re.findall(r"<figure id=.*?</figure>", page + others, flags=re.DOTALL)
    assert len(figures) >= 10
    for figure in figures:
        caption = figure[figure.index("<figcaption>") : figure.index("</figcaption>")]
        assert "n = " in caption
        assert "95 %" in caption
        assert re.search(r'href="figures/\w+\.csv"', caption)
        assert "estbench run --preset bench" in caption
        assert re.search(r'<svg role="img" aria-label="[^"]*\d', figure)


def test_every_estimator_of_a_figure_can_be_hidden_in_it(
    page: str, others: str, bench_report: Path
) -> None:
    boxes = re.findall(r'<input type="checkbox" checked value="([^"]+)"', page)
    assert len(boxes) == len(set(boxes)) == 8
    for name in ("teaser", "snapshot_variance", "quality", "wall_clock", "bias"):
        text = page if f'id="figure-{name}"' in page else others
        svg = text[text.index(f'id="figure-{name}"') :]
        svg = svg[svg.index("<svg") : svg.index("</svg>")]
        shown = set(re.findall(r'data-estimator="([^"]+)"', svg))
        data = pd.read_csv(bench_report / "figures" / f"{name}.csv")
        assert shown == set(data["estimator"])
        assert shown <= set(boxes)


def test_what_can_be_explored_are_the_logs_that_ratios_are_made_of(
    page: str, bench_set: Path
) -> None:
    held = re.search(r'<div hidden id="explorer">(.*?)</div>', page)
    assert held is not None
    data = json.loads(html.unescape(held[1]))
    comparisons = load_comparisons(bench_set)
    own = data["tasks"][0]
    names = [name for name, _ in own["estimators"]]
    whole = np.array(own["logs"]["evaluation"][0])
    gaps = whole[names.index("rebar")] - whole[names.index("reinforce-ema")]
    ratio = comparisons.ratio(own["task"], "evaluation", "rebar", "reinforce-ema")
    assert ratio is not None
    assert np.exp(gaps.mean()) == pytest.approx(ratio.estimate.value, rel=1e-3)
    error = gaps.std(ddof=1) / len(gaps) ** 0.5
    high = np.exp(gaps.mean() + data["quantiles"][len(gaps) - 2] * error)
    assert high == pytest.approx(ratio.estimate.high, rel=2e-3)


def test_ids_in_a_figure_on_disk_are_unique(bench_report: Path) -> None:
    for path in (bench_report / "figures").glob("*.svg"):
        ids = re.findall(r'\bid="([^"]+)"', path.read_text(encoding="utf-8"))
        assert len(ids) == len(set(ids)), path.name


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.63× [0.55, 0.72]", 0.63),
        ("−0.38 [−0.5, −0.2]", -0.38),
        ("1.2e−5", 1.2e-5),
        ("1,024", 1024.0),
        ("12.5 ms", 12.5),
        ("expressions-3", None),
        ("3-gram", None),
        ("–", None),
        ("< 3 %", None),
    ],
)
def test_text_is_sorted_by_the_number_that_it_is(text: str, value: float | None) -> None:
    assert number_in(text) == value


def test_a_column_with_one_word_in_it_is_sorted_as_text() -> None:
    table = table_of(pd.DataFrame({"a": ["1", "two", "–"], "b": [0.5, float("nan"), 2.0]}))
    assert [[cell.value for cell in row.cells] for row in table.rows] == [
        [None, 0.5],
        [None, None],
        [None, 2.0],
    ]


def test_a_long_table_is_cut_and_says_so() -> None:
    frame = pd.DataFrame({"estimator": ["rloo"] * 7, "n": range(7)})
    table = table_of(frame, 5)
    assert len(table.rows) == 5
    assert table.cut_text == "the first 5 of 7 rows; all are in the CSV"
    assert table.rows[0].estimator == "rloo"
    assert table_of(frame, 7).cut_text == ""


def test_hashes_are_those_of_the_files(page: str, bench_report: Path) -> None:
    environment = section(page, "environment")
    for path in (bench_report / "tables").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() in environment
    lines = "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(bench_report)}\n"
        for path in sorted((bench_report / "timing").iterdir())
    )
    assert hashlib.sha256(lines.encode()).hexdigest() in environment


def test_a_changed_record_changes_its_hash_and_no_other(small_set: Path) -> None:
    before = {digest.what: digest.sha256 for digest in digests(small_set, ())}
    path = next((small_set / "runs").rglob("*.json"))
    text = path.read_text()
    try:
        path.write_text(text.replace("12.5", "12.6"))
        after = {digest.what: digest.sha256 for digest in digests(small_set, ())}
    finally:
        path.write_text(text)
    assert {name for name in before if before[name] != after[name]} == {"runs/"}


def test_the_settings_key_does_not_depend_on_what_may_grow(small_set: Path) -> None:
    experiment = json.loads((small_set / "manifest.json").read_text())["experiment"]
    grown = experiment | {"seeds": [0, 1, 2, 3], "estimators": ["rloo"], "name": "other"}
    assert settings_key(grown) == settings_key(experiment)
    other = experiment | {"training": experiment["training"] | {"batches": 4}}
    assert settings_key(other) != settings_key(experiment)


def test_it_says_how_to_cite_the_software_the_paper_and_the_estimators(page: str) -> None:
    cite = section(page, "cite")
    for part in ("@software{estbench,", "1805.02788", "tucker2017", "grathwohl2018", "kool2019"):
        assert part in cite
    assert "shao2024" not in cite  # nothing of theirs is shown


def test_sources_are_told_apart_by_the_names_in_them() -> None:
    def keys(source: str) -> list[str]:
        return [entry.key for entry in sources_of(source)]

    assert keys("Yin & Zhou 2019") == ["yin2019arm"]
    assert keys("Yin, Yue & Zhou 2019, theorem 2") == ["yin2019arsm"]
    assert keys("Yin et al. 2019") == ["yin2019arsm"]
    assert keys(f"arXiv {entries()[PAPER].eprint}; Tucker et al. 2017") == [PAPER, "tucker2017"]
    assert keys("truncated backpropagation through time") == []


def test_every_entry_is_whole() -> None:
    for entry in entries().values():
        assert re.fullmatch(
            r"@(article|inproceedings)\{[a-z0-9]+,\n(  \w+ = \{.+\},\n)+\}", entry.text
        )
        assert re.fullmatch(r"\d{4}", entry.year)
        assert entry.surnames[0].lower() in entry.key
        assert entry.text.count("{") == entry.text.count("}")


def test_an_estimator_without_an_entry_is_cited_in_words() -> None:
    cited = citations(["rebar", "biased-truncated", "nobody-knows-it"], {"estbench": "9.9"})
    assert cited.compared == {"rebar": ("tucker2017",)}
    assert cited.unknown == {"biased-truncated": estimators.info("biased-truncated").source}
    assert "9.9" in cited.software


@pytest.mark.parametrize("name", ["reinforce", "rloo", "seqgan-rollouts", "rebar", "mine"])
def test_a_sample_of_a_line_has_its_colour_and_its_marker(name: str) -> None:
    sample = swatch(look(name))
    assert sample.count("<path") == 2
    assert "var(--fig-" in sample
    assert len({*re.findall(r"\d+\.\d+", sample)}) > 3

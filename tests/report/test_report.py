"""The whole report: its files, that it is deterministic, safe, self-contained, and tells all."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import warnings
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from estbench import report
from estbench.core.errors import UserError
from estbench.report.data.labels import EstimatorFacts
from estbench.report.records import load

from .synthetic import envelope, snapshot_payload, write_result_set

IN_PAGE = {"teaser", "useful_share", "variance_cost", "quality", "bias", "sources", "published"}
FIGURES = IN_PAGE | {
    "across",
    "profile",
    "diversity",
    "improvement",
    "log_variance",
    "log_variance_paper_quantity",
    "quality_seconds",
    "snapshot_variance",
    "temperature",
    "wall_clock",
}


@pytest.fixture(scope="module")
def built(bench_report: Path) -> Path:
    return bench_report


@pytest.fixture(scope="module")
def page(built: Path) -> str:
    return (built / "report.html").read_text(encoding="utf-8")


def printed(directory: Path, width: int = 100) -> str:
    console = Console(width=width, file=StringIO(), color_system=None)
    report.print_summary(directory, console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


# Files -------------------------------------------------------------------------------------------


def test_every_figure_comes_as_svg_png_and_data(built: Path) -> None:
    for ending in ("svg", "png", "csv"):
        assert {path.stem for path in (built / "figures").glob(f"*.{ending}")} == FIGURES
    captions = json.loads((built / "figures" / "captions.json").read_text(encoding="utf-8"))
    assert set(captions) == FIGURES
    for entry in captions.values():
        assert "n = " in entry["caption"]
        assert "95 %" in entry["caption"]


def test_tables_have_the_columns_of_the_design_in_their_order(built: Path) -> None:
    wanted = {
        "runs": "task estimator seed status error steps wall_s cpu_s peak_mb",
        "curves": "task estimator seed step reward_evals seconds metric value",
        "variance": "task estimator seed snapshot draws sequences_per_draw total_variance "
        "variance_low variance_high kurtosis relative_bias bias_low bias_high snr cosine mse "
        "hard_evals_per_draw relaxed_evals_per_draw adapt_evals policy_steps_per_draw "
        "seconds_per_draw",
        "timing": "task estimator round seconds_per_step ratio low high",
        "starts": "task estimator seed metric value",
        "temperatures": "task estimator seed temperature metric value",
    }
    for name, columns in wanted.items():
        table = pd.read_csv(built / "tables" / f"{name}.csv")
        assert list(table.columns)[: len(columns.split())] == columns.split()
        assert len(table) == len(pd.read_parquet(built / "tables" / f"{name}.parquet"))
    summary = pd.read_csv(built / "tables" / "summary.csv")
    assert list(summary.columns)[:7] == [
        "task",
        "estimator",
        "metric",
        "estimate",
        "low",
        "high",
        "n",
    ]


def test_summary_is_what_the_table_holds(built: Path) -> None:
    frame = report.summary(built)
    written = pd.read_csv(built / "tables" / "summary.csv", keep_default_na=False)
    assert len(frame) == len(written)
    pairs = frame[frame["metric"] == "variance_per_sequence_ratio"]
    rebar = pairs[pairs["estimator"] == "rebar"].groupby("task")["against"].agg(set)
    # against its partner, and against the moving average beside it
    assert all(held == {"reinforce-constant", "reinforce-ema"} for held in rebar)


def test_failed_and_missing_runs_are_rows(built: Path) -> None:
    runs = pd.read_csv(built / "tables" / "runs.csv")
    assert runs["status"].value_counts().to_dict() == {"ok": 117, "missing": 2, "failed": 1}
    failed = runs[runs["status"] == "failed"].iloc[0]
    assert (failed["task"], failed["estimator"], failed["seed"]) == ("expressions-15", "relax", 3)
    assert failed["error"] == "FloatingPointError: loss is nan at batch 17"


@pytest.mark.slow
def test_a_failed_measurement_is_a_row_too(tmp_path: Path) -> None:
    write_result_set(tmp_path, tasks=("expressions-3",), seeds=2, batches=3, rounds=1)
    path = tmp_path / "snapshots" / "expressions-3" / "rebar" / "seed-001.json"
    path.write_text(json.dumps(envelope("snapshots", "expressions-3", "rebar", 1, "no memory")))
    report.build(tmp_path)
    variance = pd.read_csv(tmp_path / "tables" / "variance.csv")
    row = variance[variance["status"] == "failed"].iloc[0]
    assert pd.isna(row["snapshot"])
    assert "no memory" in row["error"]
    assert "no memory" in (tmp_path / "report.html").read_text(encoding="utf-8")


# Determinism -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_same_records_give_the_same_bytes(small_set: Path) -> None:
    def digests() -> dict[str, str]:
        files = [small_set / "report.html", *(small_set / "figures").iterdir()]
        files += list((small_set / "tables").iterdir())
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    report.build(small_set)
    first = digests()
    # another process, another hash seed, and the manifest in another order
    manifest = json.loads((small_set / "manifest.json").read_text())
    manifest["experiment"]["estimators"].reverse()
    (small_set / "manifest.json").write_text(json.dumps(manifest))
    again = f"from estbench import report; report.build({str(small_set)!r})"
    subprocess.run([sys.executable, "-c", again], check=True, timeout=120)
    second = digests()
    assert first == second


@pytest.mark.slow
def test_a_figure_that_can_no_longer_be_drawn_goes(tmp_path: Path) -> None:
    write_result_set(tmp_path, tasks=("expressions-3",), seeds=1, batches=3, rounds=1)
    report.build(tmp_path)
    assert (tmp_path / "figures" / "wall_clock.png").exists()
    for path in (tmp_path / "timing").iterdir():
        path.unlink()
    report.build(tmp_path)
    assert (tmp_path / "figures" / "wall_clock.png").exists(), "tables stand in for records"
    (tmp_path / "tables" / "timing.parquet").unlink()
    report.build(tmp_path)
    assert not list((tmp_path / "figures").glob("wall_clock.*"))


def test_figures_hold_no_date_and_no_version(built: Path) -> None:
    for path in (built / "figures").glob("*.svg"):
        text = path.read_text(encoding="utf-8")
        assert "dc:date" not in text
        assert "matplotlib.org" not in text
    for path in (built / "figures").glob("*.png"):
        assert b"Software" not in path.read_bytes()[:400]


# The page ----------------------------------------------------------------------------------------


def test_the_page_asks_nothing_of_the_network(page: str) -> None:
    body = page.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?\s*(?:https?:)?//", body)
    assert not re.search(r"@import|url\(\s*[\"']?https?:", body)
    assert len(page) < 3_000_000


def test_no_id_is_used_twice_and_none_is_missing(page: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page))
    assert used <= set(ids)


def test_no_style_of_a_figure_leaks_into_the_page(page: str) -> None:
    assert page.count("<style") == 1


def test_the_page_says_what_was_found_and_how_sure_it_is(page: str) -> None:
    summary = page[page.index('id="summary"') : page.index("<nav")]
    words = "relax is less noisy than REINFORCE with the same constant baseline on all 3 tasks"
    assert re.search(words + r": 0\.5\d times \(0\.\d+ to 0\.\d+\)", summary)
    assert "10 seeds" in summary
    # the table of each task has a column for every snapshot
    assert page.count('<th scope="col">batch ') == 3 * 5


def test_the_page_lists_failures_and_what_is_missing(page: str) -> None:
    assert "1 of 120 training runs failed" in page
    assert "2 of 120 training runs of the experiment are missing" in page
    assert "loss is nan at batch 17" in page
    assert "missing: seeds 8, 9" in page


def test_a_timing_round_keeps_its_rows_beside_one_that_failed(tmp_path: Path) -> None:
    directory = write_result_set(
        tmp_path, tasks=("expressions-3",), trained=("rloo",), seeds=2, rounds=2
    )
    path = directory / "timing" / "001.json"
    record = json.loads(path.read_text())
    failed = {"task": "expressions-3", "estimator": "mine", "status": "failed"}
    error = {"type": "SystemExit", "message": "0", "traceback": None}
    strange = failed | {"estimator": "yours", "error": "not as estbench writes it"}
    for row in (strange, failed | {"error": error}):
        path.write_text(json.dumps(record | {"rows": [*record["rows"], row]}))
        if row is strange:
            with pytest.raises(UserError, match=r"001\.json .*rows\[\d\]\.error: expected a table"):
                load(directory)
    results = load(directory)
    (failure,) = results.failures
    assert (failure.kind, failure.task, failure.estimator) == ("timing", "expressions-3", "mine")
    assert failure.message == "SystemExit: 0"
    timed = results.timing[results.timing["estimator"] == "rloo"]
    assert timed["round"].tolist() == [0, 1]


def test_the_page_warns_of_a_gamed_metric(page: str) -> None:
    (warning,) = re.findall(r"Beware on ([^<]*)", page)
    assert warning.startswith("oracle-small: during training the oracle NLL fell while")
    assert "for reinforce, rloo, rebar and relax" in warning
    assert "certain" not in warning


def test_samples_of_text_are_shown_and_are_never_markup(tmp_path: Path) -> None:
    write_result_set(
        tmp_path,
        tasks=("oracle-small",),
        trained=("rloo",),
        also_measured=(),
        seeds=1,
        batches=3,
        rounds=1,
    )
    for path in tmp_path.rglob("*.json"):
        text = path.read_text().replace('"oracle-small"', '"text"')
        path.write_text(text.replace("1 2 3", "<b>one line</b>"))
    for kind in ("runs", "snapshots"):
        (tmp_path / kind / "oracle-small").rename(tmp_path / kind / "text")
    report.build(tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'id="samples"' in text
    assert "<li>&lt;b&gt;one line&lt;/b&gt;</li>" in text


def test_every_figure_has_caption_alternative_text_and_data(page: str, built: Path) -> None:
    others = (built / "figures.html").read_text(encoding="utf-8")
    for text, names in ((page, IN_PAGE), (others, FIGURES - IN_PAGE)):
        assert all(f'href="figures/{name}.csv"' in text for name in names)
        assert text.count('role="img" aria-label="') == len(names)
        assert text.count("<figcaption>") == len(names)


def test_the_command_and_the_environment_are_there(page: str) -> None:
    assert "estbench run --preset bench" in page
    assert "a made-up processor" in page


@pytest.mark.slow
def test_names_and_errors_are_data_and_never_markup(tmp_path: Path) -> None:
    evil = '<img src=x onerror="alert(1)">$\\frac{1}$&amp;'
    write_result_set(
        tmp_path,
        tasks=("expressions-3",),
        trained=("reinforce", "reinforce-ema"),
        also_measured=(),
        seeds=2,
        batches=3,
        rounds=2,
        failed={("expressions-3", "reinforce", 1): "</pre><script>alert(2)</script>"},
    )
    _rename(tmp_path, "reinforce-ema", evil)
    report.build(tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<img" not in text
    assert text.count("<script") == 1  # the page's own
    assert "&lt;img src=x onerror=" in text
    assert "<img" not in (tmp_path / "figures" / "log_variance.svg").read_text(encoding="utf-8")
    assert "alert(2)" in printed(tmp_path)


def _rename(directory: Path, old: str, new: str) -> None:
    """Give an estimator another name, in every record and as a folder."""
    for path in directory.rglob("*.json"):
        record = json.loads(path.read_text())
        if record.get("estimator") == old:
            record["estimator"] = new
        for row in record.get("rows") or ():
            row["estimator"] = new if row["estimator"] == old else row["estimator"]
        path.write_text(json.dumps(record))
    for folder in directory.glob(f"*/*/{old}"):
        folder.rename(folder.with_name(new))


@pytest.mark.slow
def test_biased_estimators_are_marked_and_not_ranked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_result_set(tmp_path, tasks=("expressions-3",), seeds=3, batches=3, rounds=2)

    def facts(name: str) -> EstimatorFacts:
        if name == "rebar":
            return EstimatorFacts("none", False, "its control variate is joint", "as published")
        return EstimatorFacts()

    modules = ("view.verdicts", "view.answers", "view.notes", "view.words", "data.comparisons")
    figures = ("view.figures.base", "view.figures.captions")
    for module in (*modules, "out.page", "out.terminal", *figures, "data.labels"):
        monkeypatch.setattr(f"estbench.report.{module}.estimator_facts", facts)
    report.build(tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "rebar is biased by design: its control variate is joint (†)." in text
    assert "† biased by design, so not ranked: rebar" in text
    assert "† biased, not ranked" in text
    noise = re.findall(r"<p[^>]*>((?:At equal|Per reward evaluation)[^<]*)", text)
    assert noise
    assert all("rebar" not in sentence for sentence in noise)
    assert "rebar †" in printed(tmp_path)


# Less than everything ----------------------------------------------------------------------------


@pytest.mark.slow
def test_few_seeds_are_said_beside_the_numbers(small_set: Path) -> None:
    report.build(small_set)
    text = (small_set / "report.html").read_text(encoding="utf-8")
    assert "2 seeds: fewer than 8, too few to rank by." in text
    assert "These are results of 2 seeds, too few to rank by." in text
    assert "Fewer than 8 seeds" in printed(small_set)


@pytest.mark.slow
def test_one_seed_has_values_and_no_intervals(tmp_path: Path) -> None:
    write_result_set(tmp_path, tasks=("expressions-3",), seeds=1, batches=3, rounds=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report.build(tmp_path)
    summary = report.summary(tmp_path)
    assert summary["low"].isna().all()
    assert summary["estimate"].notna().all()
    assert "Nothing can be tested." in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "1×" in printed(tmp_path)


@pytest.mark.parametrize("kept", ["runs", "snapshots", "timing"])
def test_any_part_of_a_result_set_can_be_reported_alone(tmp_path: Path, kept: str) -> None:
    whole = write_result_set(
        tmp_path / "whole", tasks=("expressions-3",), seeds=2, batches=3, rounds=2
    )
    part = tmp_path / "part"
    part.mkdir()
    (whole / kept).rename(part / kept)
    paths = report.build(part)
    assert paths.page.exists()
    assert paths.figures
    assert printed(part)


def test_when_every_run_failed_the_report_says_so(tmp_path: Path) -> None:
    keys = [("expressions-3", name, 0) for name in ("reinforce", "rloo")]
    write_result_set(
        tmp_path,
        tasks=("expressions-3",),
        trained=("reinforce", "rloo"),
        also_measured=(),
        seeds=1,
        rounds=0,
        failed=dict.fromkeys(keys, "out of luck"),
    )
    for path in (tmp_path / "snapshots").rglob("*.json"):
        path.unlink()
    report.build(tmp_path)
    assert "2 of 2 training runs failed" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "out of luck" in printed(tmp_path)


@pytest.mark.slow
def test_an_estimator_that_nobody_knows_is_reported(tmp_path: Path) -> None:
    write_result_set(
        tmp_path,
        tasks=("my-task",),
        trained=("reinforce", "mine"),
        also_measured=("reinforce-ema",),
        seeds=2,
        batches=3,
        rounds=1,
    )
    report.build(tmp_path)
    assert "mine" in printed(tmp_path)


@pytest.mark.slow
def test_a_variance_of_zero_is_unknown_and_breaks_nothing(tmp_path: Path) -> None:
    write_result_set(tmp_path, tasks=("expressions-3",), seeds=2, batches=3, rounds=1)
    path = tmp_path / "snapshots" / "expressions-3" / "rebar" / "seed-000.json"
    payload = snapshot_payload("expressions-3", "rebar", 0, 3)
    for row in payload["snapshots"]:
        row["total_variance"] = 0.0
    path.write_text(json.dumps(envelope("snapshots", "expressions-3", "rebar", 0) | payload))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report.build(tmp_path)


@pytest.mark.parametrize("reason", ["absent", "empty"])
def test_nothing_to_report_is_one_line_with_the_remedy(tmp_path: Path, reason: str) -> None:
    directory = tmp_path / "results"
    if reason == "empty":
        directory.mkdir()
    with pytest.raises(UserError, match="estbench run --out") as caught:
        report.build(directory)
    assert "\n" not in str(caught.value)


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    write_result_set(tmp_path, tasks=("expressions-3",), seeds=1, batches=3, rounds=1)
    path = tmp_path / "runs" / "expressions-3" / "rloo" / "seed-000.json"
    path.write_text("{")
    with pytest.raises(UserError, match=r"rloo/seed-000\.json.*delete it"):
        report.build(tmp_path)


# The terminal ------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 100])
def test_the_summary_fits_the_terminal_and_cuts_nothing(built: Path, width: int) -> None:
    text = printed(built, width)
    assert all(len(line.rstrip()) <= width for line in text.splitlines())
    for name in ("reinforce-constant", "seqgan-rollouts", "relax"):
        assert text.count(name) >= 3
    assert re.search(r"0\.\d\d…0\.\d\d", text)
    assert "training: expressions-15, relax, seed 3" in text
    assert "2 training runs are missing" in text


def test_no_name_and_no_number_is_broken_at_any_width(tmp_path: Path) -> None:
    write_result_set(tmp_path, tasks=("expressions-3",), seeds=2, batches=3, rounds=2)
    _rename(tmp_path, "rebar", "without-replacement-8-none")
    tables = [printed(tmp_path, width).partition("Under each")[0] for width in (50, 80, 200)]
    assert all("without-replacement-8-none" in table for table in tables)
    assert len({frozenset(table.split()) for table in tables}) == 1


def test_importing_the_report_is_cheap() -> None:
    code = (
        "import sys, estbench.report; "
        "heavy = {'torch', 'pandas', 'scipy', 'matplotlib', 'seaborn'} & set(sys.modules); "
        "sys.exit(' '.join(sorted(heavy)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

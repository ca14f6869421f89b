"""LaTeX tables: they compile, say what the tests say, and break on no name."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from estbench import report
from estbench.cli import main
from estbench.report.building import load_comparisons
from estbench.report.data.comparisons import ALPHA, BASELINED, Comparisons
from estbench.report.data.labels import EstimatorFacts
from estbench.report.data.ratios import LOWER
from estbench.report.out.latex import NAMES, escape, write_latex

from .synthetic import write_result_set

COMPILER = shutil.which("tectonic") or shutil.which("pdflatex")


@pytest.fixture(scope="module")
def comparisons(bench_set: Path) -> Comparisons:
    return load_comparisons(bench_set)


@pytest.fixture(scope="module")
def tables(comparisons: Comparisons, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("latex")
    written = write_latex(comparisons, folder)
    return {path.name: path.read_text(encoding="utf-8") for path in written}


def rows_of(text: str, heading: str) -> dict[str, list[str]]:
    """Return name -> cells of the rows under a heading, up to the next one."""
    body = text[text.index(heading) + len(heading) :]
    body = re.split(r"\\addlinespace|\\bottomrule", body)[0]
    lines = [line.removesuffix(r" \\") for line in body.splitlines() if " & " in line]
    return {line.split(" & ")[0]: line.split(" & ")[1:] for line in lines}


def test_there_are_tables_of_variance_quality_and_time(tables: dict[str, str]) -> None:
    assert tuple(tables) == NAMES
    for text in tables.values():
        assert r"\toprule" in text
        assert r"\bottomrule" in text
        assert text.isascii()


def test_every_row_has_the_columns_of_its_table(tables: dict[str, str]) -> None:
    for text in tables.values():
        for block in re.findall(r"\\begin\{tabular\}.*?\\end\{tabular\}", text, flags=re.DOTALL):
            layout = block[len(r"\begin{tabular}{") : block.index("\n")]
            columns = len(re.findall(r"[lr]", layout.replace("@{ }", "").replace("@{}", "")))
            for line in block.splitlines():
                if line.endswith(r"\\"):
                    spans = sum(int(n) for n in re.findall(r"\\multicolumn\{(\d+)\}", line))
                    singles = line.count(r"\multicolumn")
                    cells = len(re.findall(r"(?<!\\)&", line)) + 1
                    assert cells - singles + spans == columns, line


def test_groups_close_and_nothing_is_left_to_read_as_a_command(tables: dict[str, str]) -> None:
    for text in tables.values():
        bare = re.sub(r"\\[{}\\]", "", text)
        assert bare.count("{") == bare.count("}")
        assert bare.count("$") % 2 == 0
        begun, ended = (re.findall(rf"\\{word}\{{(\w+)\}}", text) for word in ("begin", "end"))
        assert sorted(begun) == sorted(ended)


@pytest.mark.parametrize("task", ["expressions-3", "expressions-15", "oracle-small"])
def test_bold_is_less_noise_by_a_test_that_no_omitted_snapshot_turns(
    tables: dict[str, str], comparisons: Comparisons, task: str
) -> None:
    rows = rows_of(tables["variance_ratios.tex"], rf"\emph{{{task}}}")
    bold = {name for name, cells in rows.items() if r"\textbf" in cells[0]}
    ratios = [r for r in comparisons.ratios(task, "evaluation").values() if r.against == BASELINED]
    assert bold == {r.estimator for r in ratios if r.verdict == LOWER and r.survives}
    assert set(rows) == {r.estimator for r in ratios} | {BASELINED}
    assert 0 < len(bold) < len(rows)


@pytest.mark.parametrize("task", ["expressions-3", "expressions-15", "oracle-small"])
def test_bold_in_quality_is_the_best_and_all_without_a_difference_from_it(
    tables: dict[str, str], comparisons: Comparisons, task: str
) -> None:
    rows = rows_of(tables["final_quality.tex"], rf"\emph{{{task}: ")
    bold = {name for name, cells in rows.items() if r"\textbf" in cells[0]}
    metric = comparisons.primary(task)
    assert metric is not None
    finals = {n: comparisons.final(task, n, metric.name).value for n in comparisons.trained(task)}
    best = (max if metric.better == "higher" else min)(finals, key=lambda name: finals[name])
    tied = {
        n for n in finals if n != best and comparisons.p_holm(task, "quality", best, n) >= ALPHA
    }
    assert bold == {best} | tied


def test_numbers_are_those_of_the_comparisons(
    tables: dict[str, str], comparisons: Comparisons
) -> None:
    rows = rows_of(tables["final_quality.tex"], r"\emph{oracle-small: oracle NLL")
    final = comparisons.final("oracle-small", "rebar", "nll_oracle")
    value, ends, n = rows["rebar"]
    assert float(re.sub(r"\\textbf\{(.*)\}", r"\1", value)) == pytest.approx(final.value, abs=6e-4)
    assert ends == f"[{final.low:.3f}, {final.high:.3f}]"
    assert n == "8"
    assert "rebar on oracle-small: 2 missing" in tables["final_quality.tex"]
    assert "relax on expressions-15: 1 failed" in tables["final_quality.tex"]
    assert rows["rloo"][2] == "10"


def test_one_seed_has_no_interval_and_nothing_in_bold(tmp_path: Path) -> None:
    write_result_set(tmp_path, tasks=("expressions-3",), seeds=1, batches=3, rounds=1)
    for path in write_latex(load_comparisons(tmp_path), tmp_path):
        text = path.read_text(encoding="utf-8")
        assert r"\textbf" not in text
        assert "Bold:" not in text
        assert "[" not in text[text.index(r"\midrule") : text.index(r"\bottomrule")]


@pytest.mark.parametrize("counted", ["seeds", "rounds"])
def test_nothing_is_bold_where_a_test_could_not_find_a_difference(
    tmp_path: Path, counted: str
) -> None:
    sizes = {"seeds": 8, "rounds": 8} | {counted: 2}
    write_result_set(tmp_path, tasks=("expressions-3",), batches=3, **sizes)
    write_latex(load_comparisons(tmp_path), tmp_path)
    texts = {name: (tmp_path / name).read_text(encoding="utf-8") for name in NAMES}
    few = {"seeds": NAMES[:2], "rounds": NAMES[2:]}[counted]
    for name, text in texts.items():
        assert (r"\textbf" in text) == (name not in few)
        assert (f"Nothing is bold: a test of fewer than 8 {counted}" in text) == (name in few)
        assert ("Bold:" in text) == (name not in few)


def test_a_row_of_two_seeds_is_not_bold_beside_rows_of_ten(tmp_path: Path) -> None:
    write_result_set(tmp_path, tasks=("expressions-3",), seeds=10, batches=3, rounds=8)
    for path in tmp_path.glob("snapshots/expressions-3/reinforce-ema/*"):
        if path.stem not in ("seed-000", "seed-001"):
            path.unlink()
    write_latex(load_comparisons(tmp_path), tmp_path)
    rows = rows_of((tmp_path / NAMES[0]).read_text(encoding="utf-8"), r"\emph{expressions-3}")
    assert rows["reinforce-ema"][-1] == "2"
    assert r"\textbf" not in "".join(rows["reinforce-ema"])


def test_what_is_not_ranked_is_marked_explained_and_never_bold(
    bench_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def facts(name: str) -> EstimatorFacts:
        if name == "relax":
            return EstimatorFacts("none", False, "50% of it & more_so")
        if name == "rebar":
            return EstimatorFacts(unbiased=True, proof="undecided", detail="4.1 %")
        return EstimatorFacts()

    for module in ("out.latex", "data.labels", "data.comparisons"):
        monkeypatch.setattr(f"estbench.report.{module}.estimator_facts", facts)
    write_latex(load_comparisons(bench_set), tmp_path)
    text = (tmp_path / "variance_ratios.tex").read_text(encoding="utf-8")
    assert r"$^\dagger$ relax: biased by design, so not ranked" in text
    assert r"(50\% of it \& more\_so)" in text
    assert r"$^\ddagger$ rebar: not ranked" in text
    rows = rows_of(text, r"\emph{expressions-3}")
    assert r"\textbf" not in "".join(rows[r"relax$^\dagger$"])
    assert r"\textbf" not in "".join(rows[r"rebar$^\ddagger$"])
    assert r"\textbf" in "".join(cell for cells in rows.values() for cell in cells)


@given(st.text(max_size=40))
def test_any_text_becomes_ascii_that_latex_reads_as_text(text: str) -> None:
    written = escape(text)
    assert written.isascii()
    commands = r"\\(?:text\w+\{\}|dots\{\}|[{}$&%#_])|\$(?:-|\\times|\\pm|\^\\d?dagger)\$"
    assert not re.search(r"[\\{}$&%#_~^]", re.sub(commands, "", written))


@pytest.mark.slow
def test_many_rows_become_a_table_a_task(tmp_path: Path) -> None:
    names = (*(f"mine-{i}" for i in range(12)), "reinforce", "reinforce-ema")
    write_result_set(tmp_path, trained=names, also_measured=(), seeds=2, batches=3, rounds=2)
    write_latex(load_comparisons(tmp_path), tmp_path)
    for name in NAMES:
        text = (tmp_path / name).read_text(encoding="utf-8")
        labels = re.findall(r"\\label\{([^}]*)\}", text)
        assert len(labels) == len(set(labels)) == 3


@pytest.mark.slow
def test_the_command_says_what_it_wrote_and_later_reports_keep_it_current(
    small_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(small_set), "--latex"]) == 0
    said = capsys.readouterr().err
    for name in NAMES:
        path = small_set / "tables" / name
        assert f"wrote {path}" in said
        path.write_text("of yesterday", encoding="utf-8")
    paths = report.build(small_set)
    assert [path.name for path in paths.latex] == list(NAMES)
    for path in paths.latex:
        assert "toprule" in path.read_text(encoding="utf-8")
        path.unlink()


@pytest.mark.skipif(COMPILER is None, reason="neither tectonic nor pdflatex is installed")
def test_they_compile(tables: dict[str, str], tmp_path: Path) -> None:
    assert COMPILER is not None
    for name, text in tables.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    inputs = "\n".join(rf"\input{{{name}}}" for name in tables)
    head = r"\documentclass{article}\usepackage{booktabs}"
    document = rf"{head}\begin{{document}}{inputs}\end{{document}}"
    (tmp_path / "paper.tex").write_text(document, encoding="utf-8")
    options = (
        [] if COMPILER.endswith("tectonic") else ["-interaction=nonstopmode", "-halt-on-error"]
    )
    done = subprocess.run(
        [COMPILER, *options, "paper.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout

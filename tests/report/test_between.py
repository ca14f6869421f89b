"""Two result sets against each other: what is found, what is not judged, and what is refused."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy import stats

import estbench
from estbench import report
from estbench.cli import main
from estbench.core.errors import UserError
from estbench.report.between import between, compare
from estbench.report.between.contents import ranges
from estbench.report.between.rows import Row, _judged, _paired
from estbench.report.between.settings import VARIANCE
from estbench.report.data.statistics import add_independent, mean_interval
from estbench.report.out.compare_documents import as_document, as_markdown
from estbench.report.out.compare_terminal import show
from estbench.report.view.compare_texts import sentences
from estbench.store import SCHEMA

from .synthetic import write_result_set

TASK = "expressions-3"
Record = dict[str, Any]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Set A: two tasks, two trained estimators and one only measured, ten seeds."""
    return write_result_set(
        tmp_path_factory.mktemp("sets") / "a",
        tasks=(TASK, "oracle-small"),
        trained=("reinforce", "rebar"),
        also_measured=("reinforce-ema",),
        batches=4,
    )


@pytest.fixture
def second(first: Path, tmp_path: Path) -> Path:
    """Set B: a copy of A, to be changed."""
    return Path(shutil.copytree(first, tmp_path / "b"))


def change(directory: Path, pattern: str, edit: Callable[[Record], object]) -> None:
    """Edit every record of a result set whose path matches."""
    paths = list(directory.glob(pattern))
    assert paths, pattern
    for path in paths:
        record = json.loads(path.read_text())
        edit(record)
        path.write_text(json.dumps(record))


def scale_variance(factor: float) -> Callable[[Record], None]:
    """Multiply a measurement's variances, by a little more in every further seed."""

    def edit(record: Record) -> None:
        for row in record["snapshots"]:
            row["total_variance"] *= factor * (1 + 0.002 * record["seed"])

    return edit


def slow_down(factor: float, estimator: str = "rebar") -> Callable[[Record], None]:
    def edit(record: Record) -> None:
        for row in record["rows"]:
            row["seconds_per_step"] *= factor if row["estimator"] == estimator else 1.0

    return edit


def row(frame: pd.DataFrame, quantity: str, estimator: str, task: str = TASK) -> Any:
    """The row of a quantity."""
    chosen = frame[
        (frame["quantity"] == quantity)
        & (frame["estimator"] == estimator)
        & (frame["task"] == task)
    ]
    assert len(chosen) == 1
    return chosen.iloc[0]


def printed(first: Path, second: Path, width: int = 100) -> str:
    """What the terminal shows."""
    stream = StringIO()
    show(between(first, second), Console(file=stream, width=width))
    return stream.getvalue()


# What is found -----------------------------------------------------------------------------------


def test_identical_sets_are_equal_to_the_bit_and_it_is_said(first: Path, second: Path) -> None:
    found = between(first, second)
    assert found.identical
    assert (found.records, found.equal) == (100, 100)
    assert set(found.frame["verdict"]) == {"equal"}
    assert found.worse == 0
    assert (found.frame.loc[found.frame["kind"] == "ratio", "estimate"] == 1.0).all()
    assert (found.frame.loc[found.frame["kind"] == "difference", "estimate"] == 0.0).all()
    assert "all 100 records are equal to the bit (times too)" in printed(first, second)
    change(second, "timing/*.json", slow_down(1.01))
    assert "equal to the bit (times and memory aside)" in printed(first, second)


def test_the_smallest_change_of_a_number_is_no_identity(first: Path, second: Path) -> None:
    def nudge(record: Record) -> None:
        at = record["curves"]["metrics"]["reward_mean"]
        at[1] = math.nextafter(at[1], 1.0)

    change(second, f"runs/{TASK}/rebar/seed-003.json", nudge)
    found = between(first, second)
    assert not found.identical
    assert (found.records, found.equal) == (100, 99)
    assert "99 of 100 are equal to the bit" in " ".join(printed(first, second).split())


def test_a_higher_variance_is_worse_by_its_ratio_paired_by_seed(first: Path, second: Path) -> None:
    change(second, f"snapshots/{TASK}/rebar/*.json", scale_variance(1.5))
    found = between(first, second)
    changed = row(found.frame, "variance_per_sequence", "rebar")
    logs = np.log(1.5 * (1 + 0.002 * np.arange(10)))
    reference = stats.ttest_1samp(logs, 0.0)
    low, high = reference.confidence_interval(0.95)
    assert changed["estimate"] == pytest.approx(math.exp(logs.mean()))
    assert (changed["low"], changed["high"]) == pytest.approx((math.exp(low), math.exp(high)))
    assert changed["p_value"] == pytest.approx(reference.pvalue, rel=1e-6)
    assert (changed["pairs"], changed["n_a"], changed["verdict"]) == (10, 10, "worse")
    assert changed["b"] / changed["a"] == pytest.approx(changed["estimate"])
    assert row(found.frame, "variance_per_sequence", "reinforce")["verdict"] == "equal"
    assert found.worse == 1
    assert row(compare(second, first), "variance_per_sequence", "rebar")["verdict"] == "better"
    words = f"Per sequence, rebar is noisier in B than in A on {TASK}: 1.51 times (1.51 to 1.52)."
    assert sentences(found) == [words]
    assert words in " ".join(printed(first, second).split())


def test_which_way_a_metric_is_better_is_the_tasks_own_and_entropy_has_none(
    first: Path, second: Path
) -> None:
    def edit(record: Record) -> None:
        for name in ("goodness", "tv", "entropy"):
            record["final"][name] += 0.2 + 0.001 * record["seed"]

    change(second, f"runs/{TASK}/rebar/*.json", edit)
    frame = compare(first, second)
    verdicts = {n: row(frame, n, "rebar")["verdict"] for n in ("goodness", "tv", "entropy")}
    assert verdicts == {"goodness": "better", "tv": "worse", "entropy": "differs"}
    goodness = row(frame, "goodness", "rebar")
    assert goodness["estimate"] == pytest.approx(0.2045)
    assert goodness["unit"] == "windows"
    assert "total_variance" not in set(frame["quantity"]), "no metric of the task's samples"


def test_holm_counts_all_tests_of_a_family_but_not_what_is_equal_to_the_bit(
    first: Path, second: Path
) -> None:
    rng = np.random.default_rng(1)

    def noise(record: Record) -> None:
        for measured in record["snapshots"]:
            measured["total_variance"] *= math.exp(rng.normal(0, 0.1))

    change(second, "snapshots/*/re[bi]*/*.json", noise)
    frame = compare(first, second)
    own = frame[frame["family"] == "variance"]
    tested = own[own["verdict"] != "equal"]
    assert len(own) == 6
    assert len(tested) == 6
    ordered = tested.sort_values("p_value")
    expected = np.minimum(1, np.maximum.accumulate(ordered["p_value"] * np.arange(6, 0, -1)))
    assert ordered["p_holm"].to_numpy() == pytest.approx(expected.to_numpy())

    for path in (first / "snapshots" / "oracle-small").rglob("*.json"):
        shutil.copy(path, second / path.relative_to(first))
    fewer = compare(first, second)
    own = fewer[(fewer["family"] == "variance") & (fewer["task"] == TASK)].sort_values("p_value")
    assert own["p_holm"].iloc[0] == pytest.approx(3 * own["p_value"].iloc[0])


@pytest.mark.slow
def test_noise_alone_is_seldom_worse() -> None:
    """Under no difference at most 5 % of families may find one: 400 of 12 tests with 6 seeds."""
    rng, found = np.random.default_rng(7), 0
    for _ in range(400):
        rows = []
        for name in "abcdefghijkl":
            first, second = (pd.Series(rng.normal(0, 1, 6)) for _ in range(2))
            blank = Row(TASK, name, "variance_per_sequence", VARIANCE, "ratio", "", "lower")
            rows.append(_paired(blank, first, second, equal=False))
        verdicts = [row.verdict for row in _judged(rows, VARIANCE, 1.1, True)]
        found += bool({"better", "worse"} & set(verdicts))
    assert stats.binomtest(found, 400, 0.05, alternative="greater").pvalue > 0.001
    assert found > 4, "nor is the correction far too strict"


def test_equal_differences_in_few_seeds_are_no_certainty(first: Path, second: Path) -> None:
    for path in second.glob("runs/*/*/seed-00[3-9].json"):
        path.unlink()
    change(second, f"runs/{TASK}/rebar/*.json", lambda r: r["final"].update(distinct=0.25))
    left = Path(shutil.copytree(first, second.parent / "left"))
    change(left, f"runs/{TASK}/rebar/*.json", lambda r: r["final"].update(distinct=0.5))
    changed = row(compare(left, second), "distinct", "rebar")
    assert changed["estimate"] == -0.25
    assert changed["pairs"] == 3
    assert changed["p_value"] == 2.0 ** (1 - 3), "the signs of three differences"
    assert changed["verdict"] == "cannot tell"


# Time and memory ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "margin", "verdict"),
    [
        (1.3, None, "worse"),
        (0.7, None, "better"),
        (1.03, None, "within tolerance"),
        (1.3, 1.5, "within tolerance"),
        (1.1, None, "cannot tell"),
    ],
)
def test_time_is_worse_only_beyond_the_tolerance(
    first: Path, second: Path, factor: float, margin: float | None, verdict: str
) -> None:
    change(second, "timing/*.json", slow_down(factor))
    found = row(compare(first, second, margin=margin), "seconds_per_step", "rebar")
    assert found["estimate"] == pytest.approx(factor)
    assert found["verdict"] == verdict
    assert (found["pairs"], found["n_a"], found["n_b"]) == (0, 8, 8)


def test_the_test_of_times_is_welchs_and_shifted_by_the_tolerance() -> None:
    rng = np.random.default_rng(3)
    left, right = pd.Series(rng.normal(0.3, 0.1, 9)), pd.Series(rng.normal(0.0, 0.3, 5))
    plain = stats.ttest_ind(left, right, equal_var=False)
    found = add_independent(mean_interval(left), mean_interval(-right))
    assert found.p_value == pytest.approx(plain.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(plain.confidence_interval(0.95)))
    shifted = stats.ttest_ind(left - 0.1, right, equal_var=False).pvalue
    found = add_independent(mean_interval(left), mean_interval(-right), 0.1)
    assert found.p_value == pytest.approx(shifted)


@pytest.mark.slow
def test_on_another_machine_time_is_shown_and_judged_only_if_asked(
    first: Path, second: Path
) -> None:
    change(second, "timing/*.json", slow_down(2.0))
    change(second, "manifest.json", lambda m: m["environment"]["cpu"].update(model="another"))
    found = between(first, second)
    assert not found.same_machine
    own = row(found.frame, "seconds_per_step", "rebar")
    assert (own["verdict"], own["estimate"]) == ("not judged", pytest.approx(2.0))
    assert found.worse == 0
    assert "cpu.model" in printed(first, second)
    assert "not judged" in printed(first, second)
    assert row(compare(first, second, margin=1.1), "seconds_per_step", "rebar")["verdict"] == (
        "worse"
    )


def test_memory_is_compared_by_the_workers_peak(first: Path, second: Path) -> None:
    rng = np.random.default_rng(5)
    for directory in (second, left := Path(shutil.copytree(first, second.parent / "left"))):
        factor = 2.0 if directory == second else 1.0

        def edit(record: Record, factor: float = factor) -> None:
            record["timing"]["peak_mb"] = 400.0 * factor * math.exp(rng.normal(0, 0.02))

        change(directory, f"runs/{TASK}/rebar/*.json", edit)
    found = row(compare(left, second), "peak_mb", "rebar")
    assert found["estimate"] == pytest.approx(2.0, rel=0.05)
    assert found["verdict"] == "worse"


# Settings and what is comparable -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "setting", "value", "apart"),
    [
        ("training", "batches", 99, {"variance", "quality", "description", "time", "memory"}),
        ("training", "evaluate_every", 1, set()),
        ("training", "temperatures", 5, set()),
        ("training", "evaluation_samples", 9, {"quality", "description", "memory"}),
        ("training", "minimum_count", 3, set()),
        ("snapshots", "sequences", 512, {"variance"}),
        ("snapshots", "reference_sequences", 512, set()),
        ("timing", "warmup", 1, {"time"}),
        ("timing", "rounds", 3, set()),
    ],
)
def test_settings_that_differ_are_named_and_those_that_matter_keep_apart(
    first: Path, second: Path, section: str, setting: str, value: int, apart: set[str]
) -> None:
    def edit(manifest: Record) -> None:
        manifest["experiment"].setdefault(section, {})[setting] = value

    change(second, "manifest.json", edit)
    found = between(first, second)
    assert [entry.name for entry in found.settings] == [f"{section}.{setting}"]
    assert found.settings[0].b == value
    assert set(found.settings[0].matters) == apart
    kept = found.frame[found.frame["verdict"] == "not comparable"]
    assert set(kept["family"]) == apart
    assert kept["reason"].str.startswith(f"{setting} is ").all()
    assert kept["estimate"].isna().all()
    if apart:
        assert f"{setting} is " in " ".join(printed(first, second).split())


def test_a_tasks_own_setting_keeps_only_that_task_apart(first: Path, second: Path) -> None:
    def edit(manifest: Record) -> None:
        manifest["experiment"]["per_task"] = {"oracle-small": {"batches": 7}}

    change(second, "manifest.json", edit)
    found = between(first, second)
    assert [(d.name, d.a, d.b) for d in found.settings] == [("per_task.oracle-small.batches", 4, 7)]
    apart = found.frame["verdict"] == "not comparable"
    assert set(found.frame.loc[apart, "task"]) == {"oracle-small"}
    assert set(found.frame.loc[~apart, "task"]) == {TASK}


def test_another_version_of_an_estimator_is_comparable(first: Path, second: Path) -> None:
    change(second, f"*/{TASK}/rebar/*.json", lambda r: r.update(key="1" * 64))
    change(second, "manifest.json", lambda m: m["environment"].update(estbench="9.9.9"))
    found = between(first, second)
    assert "not comparable" not in set(found.frame["verdict"])
    assert [d.name for d in found.environment] == ["estbench"]


def test_where_snapshots_are_other_parameters_it_is_said(first: Path, second: Path) -> None:
    left = Path(shutil.copytree(first, second.parent / "left"))
    for directory, state in ((left, "a"), (second, "b")):
        for seed in range(3):
            source = directory / "runs" / TASK / "reinforce" / f"seed-{seed:03d}.json"
            record = json.loads(source.read_text())
            record |= {"kind": "reference", "estimator": "rloo", "state_sha256": state * (seed + 1)}
            path = directory / "reference" / TASK / source.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(record))
    text = " ".join(printed(left, second).split())
    assert "the reference trajectories differ in 3 of 3 seeds" in text


def test_a_text_from_another_file_is_not_comparable(tmp_path: Path) -> None:
    sets = [
        write_result_set(
            tmp_path / name, tasks=("text",), trained=("rloo",), also_measured=(), batches=2
        )
        for name in ("a", "b")
    ]
    for path, data in zip(sets, ("x.txt", "y.txt"), strict=True):
        change(path, "manifest.json", lambda m, d=data: m["experiment"]["training"].update(data=d))  # type: ignore[misc]
    assert "not comparable" not in set(compare(*sets)["verdict"]), "keys agree: the same content"
    change(sets[1], "*/text/*/*.json", lambda r: r.update(key="1" * 64))
    assert set(compare(*sets)["verdict"]) == {"not comparable"}


# What only one of them holds ---------------------------------------------------------------------


def test_what_only_one_holds_is_listed(first: Path, tmp_path: Path) -> None:
    second = write_result_set(
        tmp_path / "b",
        tasks=(TASK,),
        trained=("reinforce", "relax"),
        also_measured=(),
        seeds=4,
        batches=4,
    )
    text = printed(first, second, 160)
    assert "A: training runs on expressions-3, seeds 0-9: rebar" in text
    assert "A: training runs on expressions-3, seeds 4-9: reinforce" in text
    assert "B: training runs on expressions-3, seeds 0-3: relax" in text
    assert "A: the task oracle-small" in text
    assert "Only 4 seeds in common" not in text, "all that is common is equal to the bit"
    assert ranges([7, 0, 1, 2]) == "0-2, 7"


def test_a_run_that_fails_now_and_a_lost_proof_are_worse(first: Path, second: Path) -> None:
    def fail(record: Record) -> None:
        record |= {"status": "failed", "error": {"type": "E", "message": "m", "traceback": None}}

    change(second, f"runs/{TASK}/rebar/seed-004.json", fail)
    assert between(first, second).worse == 1
    assert between(second, first).worse == 0
    for directory, verdict in ((first, "unbiased"), (second, "biased")):
        proof = {"configuration": {"estimator": "rebar"}, "verdict": verdict, "detail": "d"}
        (directory / "proofs.json").write_text(json.dumps([proof]))
    found = between(first, second)
    assert found.worse == 2
    assert "proof of rebar: unbiased in A, biased in B" in as_markdown(found).replace("\\", "")
    (first / "proofs.json").unlink()


@pytest.mark.slow
def test_a_committed_set_is_compared_by_its_table_of_runs(first: Path, second: Path) -> None:
    report.build(second)
    shutil.rmtree(second / "runs")
    found = between(first, second)
    assert row(found.frame, "goodness", "rebar")["verdict"] == "equal"
    assert "has no records in runs: its tables were read" in " ".join(
        printed(first, second).split()
    )


# What is refused ---------------------------------------------------------------------------------


def test_bad_input_is_one_line_and_exit_code_2(
    first: Path,
    second: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = write_result_set(
        tmp_path / "other", tasks=("expressions-15",), trained=("rloo",), also_measured=(), seeds=2
    )
    stranger = write_result_set(
        tmp_path / "s", tasks=(TASK,), trained=("mine",), also_measured=(), seeds=2
    )
    bare = Path(shutil.copytree(first, tmp_path / "bare"))
    (bare / "manifest.json").unlink()
    (tmp_path / "empty").mkdir()
    a, b = str(first), str(second)
    monkeypatch.chdir(tmp_path)
    for words, text in (
        ([a], "B requires an argument"),
        ([a, "none"], "no result set at none: not a folder"),
        ([a, a], "are the same folder"),
        ([a, f"{a}/../{first.name}"], "are the same folder"),
        ([a, str(other)], "no task in common"),
        ([a, str(stranger)], "no estimator in common"),
        ([a, str(bare)], "has no manifest.json"),
        ([a, "empty"], "no result set at empty: it holds neither manifest.json"),
        ([a, b, "--margin", ".5"], "margin 0.5: must be from 1 to 100"),
        ([a, b, "--out", f"{a}/manifest.json"], "(it is a file): give --out a folder"),
    ):
        assert main(["compare", *words]) == 2, words
        printed = capsys.readouterr()
        assert printed.out == ""
        assert len(printed.err.splitlines()) == 1
        assert text in printed.err
    with pytest.raises(UserError, match="the same folder"):
        estbench.compare(first, first)


def test_sets_of_other_schemas_are_refused_with_what_to_do(first: Path, second: Path) -> None:
    change(second, "manifest.json", lambda m: m.update(schema=SCHEMA + 1))
    with pytest.raises(UserError, match=r"made by a newer version .*update estbench"):
        compare(first, second)
    change(second, "manifest.json", lambda m: m.update(schema=0))
    for pair in ((first, second), (second, first)):
        with pytest.raises(UserError, match=r"made by an older version .*make it again"):
            compare(*pair)
    change(second, "manifest.json", lambda m: m.update(schema=SCHEMA))
    change(second, f"snapshots/{TASK}/rebar/seed-004.json", lambda r: r.update(schema=SCHEMA + 1))
    with pytest.raises(UserError, match="made by a newer version"):
        compare(first, second)


def test_settings_of_a_newer_version_are_refused(first: Path, second: Path) -> None:
    change(second, "manifest.json", lambda m: m["experiment"]["training"].update(magic=1))
    with pytest.raises(UserError, match=r"training\.magic.*another version"):
        compare(first, second)


def test_a_set_made_before_later_settings_and_fields_existed_is_read(
    first: Path, second: Path
) -> None:
    """A set of schema 1 as its first version wrote it: fewer settings, fewer fields."""

    def first_version(record: Record) -> None:
        for measured in record["snapshots"]:
            for name in ("relative_bias_squared", "untrained_variance", "gradient_norm"):
                measured.pop(name)

    def without(record: Record) -> None:
        for name in ("start", "temperatures", "samples"):
            record.pop(name, None)

    change(second, "snapshots/*/*/*.json", first_version)
    change(second, "runs/*/*/*.json", without)
    change(first, "manifest.json", lambda m: m["experiment"]["training"].update(gradient_clip=0.0))
    for pair in ((first, second), (second, first)):
        found = between(*pair)
        assert found.settings == ()
        assert found.identical, "what both have is equal"
    change(first, "manifest.json", lambda m: m["experiment"]["training"].pop("gradient_clip"))


# The verb ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_fail_on_worse_is_for_ci(
    first: Path, second: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", str(first), str(second)]
    assert main([*words, "--fail-on-worse"]) == 0
    change(second, f"snapshots/{TASK}/rebar/*.json", scale_variance(1.5))
    assert main(words) == 0
    assert main([*words, "--fail-on-worse"]) == 1
    out = tmp_path / "out"
    capsys.readouterr()
    assert main([*words, "--fail-on-worse", "--json", "--out", str(out)]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads((out / "compare.json").read_text())
    assert document["worse"] == 1
    assert document["verdicts"]["worse"] == 1
    table = pd.read_csv(out / "compare.csv")
    assert len(table) == len(document["differences"])
    assert list(table.columns) == list(document["differences"][0])
    text = (out / "compare.md").read_text()
    assert "▲ worse" in text
    assert "| expressions-3 | rebar |" in text
    assert sorted(path.name for path in out.iterdir()) == [
        "compare.csv",
        "compare.json",
        "compare.md",
    ]


def test_names_are_never_markup(first: Path, tmp_path: Path) -> None:
    evil = "<img src=x>|`[x](y)"
    sets = []
    for name in ("a", "b"):
        directory = write_result_set(
            tmp_path / name, tasks=(TASK,), trained=("rloo",), also_measured=(), seeds=3
        )
        change(directory, "*/*/*/*.json", lambda r: r.update(estimator=evil))
        for folder in list(directory.glob("*/*/rloo")):
            folder.rename(folder.with_name(evil))
        sets.append(directory)
    change(sets[1], "snapshots/*/*/*.json", scale_variance(2.0))
    text = as_markdown(between(*sets))
    assert "<img" not in text
    assert "&lt;img src=x&gt;\\|\\`\\[x\\](y)" in text
    assert evil[:20] in printed(*sets)


@pytest.mark.parametrize("width", [80, 120])
def test_the_tables_fit_the_terminal(first: Path, second: Path, width: int) -> None:
    change(second, "snapshots/*/*/*.json", scale_variance(1.5))
    change(second, "timing/*.json", slow_down(1.3))
    text = printed(first, second, width)
    assert all(len(line.rstrip()) <= width for line in text.splitlines())
    assert "▲ worse" in text
    assert "1.51…1.52" in text


def test_names_are_whole(tmp_path: Path) -> None:
    name = "without-replacement-8-none"
    sets = []
    for part in ("a", "b"):
        directory = write_result_set(
            tmp_path / part, tasks=(TASK,), trained=("rloo",), also_measured=(), seeds=3
        )
        change(directory, "*/*/*/*.json", lambda r: r.update(estimator=name))
        for folder in list(directory.glob("*/*/rloo")):
            folder.rename(folder.with_name(name))
        sets.append(directory)
    change(sets[1], "snapshots/*/*/*.json", scale_variance(2.0))
    assert name in printed(*sets, 80)


def test_json_has_no_number_that_is_not_finite(first: Path, second: Path) -> None:
    change(second, "manifest.json", lambda m: m["experiment"]["training"].update(batches=9))
    document = as_document(between(first, second))
    json.dumps(document, allow_nan=False)
    assert document["differences"][0]["estimate"] is None
    assert document["settings"][0]["name"] == "training.batches"


def test_estbench_compare_is_there_and_importing_estbench_stays_light() -> None:
    code = (
        "import estbench, sys; assert 'compare' in dir(estbench); sys.exit('pandas' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert estbench.compare is compare

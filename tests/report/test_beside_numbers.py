"""What stands beside a number: few seeds, failures, heavy tails, rank; and the figures of runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from estbench.report.building import load_comparisons
from estbench.report.data.comparisons import Comparisons
from estbench.report.data.labels import EstimatorFacts, report_on
from estbench.report.data.summaries import summary_frame
from estbench.report.data.tails import kurtosis_limit, tails
from estbench.report.view.answers import Said, answers
from estbench.report.view.figures import improvement, quality, teaser, variance_cost
from estbench.report.view.figures.base import drawing
from estbench.report.view.notes import every_note
from estbench.report.view.verdicts import verdicts

from .synthetic import envelope, write_result_set

TASK = "expressions-3"


@pytest.fixture(scope="module")
def comparisons(bench_set: Path) -> Comparisons:
    return load_comparisons(bench_set)


@pytest.fixture(scope="module")
def poor(tmp_path_factory: pytest.TempPathFactory) -> Comparisons:
    """Three seeds; a measurement of `rebar` failed, and draws of `relax` have heavy tails."""
    directory = write_result_set(
        tmp_path_factory.mktemp("poor"), tasks=(TASK,), seeds=3, batches=4, rounds=2
    )
    failed = directory / "snapshots" / TASK / "rebar" / "seed-001.json"
    failed.write_text(json.dumps(envelope("snapshots", TASK, "rebar", 1, "no memory")))
    for path in (directory / "snapshots" / TASK / "relax").iterdir():
        record = json.loads(path.read_text())
        record["snapshots"][0]["kurtosis"] = 900.0
        path.write_text(json.dumps(record))
    return load_comparisons(directory)


# Beside numbers ----------------------------------------------------------------------------------


def test_a_verdict_says_how_few_seeds_it_has_and_what_failed(poor: Comparisons) -> None:
    (table,) = verdicts(poor)
    cells = {row.estimator: row.to_ema.text for row in table.rows}
    assert cells["rebar"].endswith("(n = 2, 1 failed)")
    assert cells["rloo"].endswith("(n = 3)")


def test_the_summary_counts_what_failed_and_says_who_may_be_ranked(
    comparisons: Comparisons, poor: Comparisons, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = summary_frame(comparisons)
    own = table[(table["task"] == "expressions-15") & (table["estimator"] == "relax")]
    of = own.set_index("metric")["failed"]
    assert of["goodness"] == 1
    assert of["variance_per_sequence"] == 0
    assert of["seconds_per_step"] == 0
    missing = table[
        (table["task"] == "oracle-small") & (table["metric"] == "nll_oracle_difference")
    ]
    assert missing.loc[missing["estimator"] == "rebar", "missing"].eq(2).all()
    frame = summary_frame(poor)
    ratios = frame[frame["metric"] == "variance_per_sequence_ratio"]
    assert ratios.loc[ratios["estimator"] == "rebar", "failed"].eq(1).all()
    assert table["ranked"].all()
    facts = EstimatorFacts("none", unbiased=False)
    monkeypatch.setattr("estbench.report.data.marks.estimator_facts", lambda name: facts)
    assert not summary_frame(poor)["ranked"].any()


def answered(comparisons: Comparisons, key: str) -> list[Said]:
    return [one for answer in answers(comparisons) if answer.key == key for one in answer.sentences]


def test_an_answer_from_few_seeds_says_how_many(poor: Comparisons) -> None:
    assert any("(n = 3)" in one.text for one in answered(poor, "noise"))
    assert any(note.startswith("3 seeds: fewer than 8") for note in every_note(poor))


def test_heavy_tails_are_a_caveat_and_stand_in_the_captions(
    poor: Comparisons, comparisons: Comparisons
) -> None:
    (found,) = tails(poor)
    assert (found.estimator, found.heavy, found.measurements) == ("relax", 3, 15)
    assert found.limit == pytest.approx(float(kurtosis_limit(4096)))
    text = next(text for text in every_note(poor) if text.startswith("Heavy tails"))
    assert "relax (3 of 15 measurements, kurtosis up to 900)" in text
    with drawing():
        drawn = variance_cost.draw(poor)
        light = variance_cost.draw(comparisons)
    assert drawn is not None
    assert light is not None
    assert f"relax on {TASK}" in drawn.caption[drawn.caption.index("Heavy tails") :]
    assert "rebar on expressions-3: 1 failed" in drawn.caption
    assert "Heavy tails" not in light.caption


def test_the_answers_compare_a_control_variate_at_equal_baseline(comparisons: Comparisons) -> None:
    first = answered(comparisons, "noise")[0].text
    words = "relax is less noisy than REINFORCE with the same constant baseline on all 3 tasks: 0.5"
    assert words in first


def test_an_estimator_that_is_not_ranked_ends_no_better(
    comparisons: Comparisons, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`rloo` ends best in the made-up set, and is left out where it is biased."""
    assert "rloo" in answered(comparisons, "learning")[0].text

    def facts(name: str) -> EstimatorFacts:
        return EstimatorFacts("none", unbiased=name != "rloo")

    monkeypatch.setattr("estbench.report.data.comparisons.estimator_facts", facts)
    fresh = replace(comparisons, memory={})
    assert "rloo" not in answered(fresh, "learning")[0].text


def test_the_first_figure_is_drawn_where_nothing_was_proven(
    comparisons: Comparisons,
) -> None:
    names = comparisons.measured(TASK)
    unproven = [
        {"configuration": {"estimator": name}, "verdict": "not proven", "detail": ""}
        for name in names
    ]
    try:
        report_on({}, unproven)
        with drawing():
            drawn = teaser.draw(replace(comparisons, memory={}))
    finally:
        report_on({})
    assert drawn is not None
    assert set(drawn.data["estimator"]) == set(names)
    assert "‡ not ranked" in drawn.caption


# Figures -----------------------------------------------------------------------------------------


def test_the_matrix_is_complementary_and_frames_what_the_sign_test_finds(
    comparisons: Comparisons,
) -> None:
    with drawing():
        drawn = improvement.draw(comparisons)
    assert drawn is not None
    own = drawn.data[drawn.data["task"] == "expressions-3"].set_index(["estimator", "against"])
    for first, second in own.index:
        there, back = own.loc[(first, second)], own.loc[(second, first)]
        assert there["estimate"] + back["estimate"] == pytest.approx(1.0)
        assert there["p_holm"] == back["p_holm"]
    assert own.loc[("rloo", "reinforce"), "p_holm"] < 0.05
    assert "rloo over reinforce on expressions-3 in 10 of 10" in drawn.alt


def test_a_matrix_of_many_estimators_keeps_the_best_and_says_so(
    comparisons: Comparisons, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(improvement, "CELLS", 3)
    monkeypatch.setattr(improvement, "MOST", 4)
    monkeypatch.setattr(improvement, "LEAST", 3)
    with drawing():
        drawn = improvement.draw(comparisons)
    assert drawn is not None
    shown = drawn.data.groupby("task")["estimator"].agg(set)
    assert all(len(names) == 3 and "reinforce" in names for names in shown)
    assert "left out are 1 on expressions-3" in drawn.caption


def test_where_no_pair_can_be_significant_the_caption_says_so(poor: Comparisons) -> None:
    with drawing():
        drawn = improvement.draw(poor)
    assert drawn is not None
    assert f"they cannot on {TASK} (6 pairs, 3 seeds" in drawn.caption


def test_wall_clock_is_that_of_the_timing_pass_where_there_is_one(
    comparisons: Comparisons, tmp_path: Path
) -> None:
    with drawing():
        drawn = quality.draw_seconds(comparisons)
    assert drawn is not None
    step = comparisons.seconds("expressions-3", "rebar").value
    own = drawn.data[(drawn.data["task"] == "expressions-3") & (drawn.data["estimator"] == "rebar")]
    assert own["seconds"].max() == pytest.approx(60 * step)
    assert "serial timing pass" in drawn.caption
    write_result_set(tmp_path, tasks=(TASK,), seeds=2, batches=4, rounds=0)
    with drawing():
        untimed = quality.draw_seconds(load_comparisons(tmp_path))
    assert untimed is not None
    assert untimed.data["seconds"].max() == pytest.approx(0.2)
    assert "no timing pass was made" in untimed.caption


def test_a_proof_is_shown_with_what_it_was_proven_for_and_the_size_of_the_task(
    comparisons: Comparisons,
) -> None:
    proof = {"configuration": {"estimator": "rloo"}, "verdict": "unbiased", "detail": "< 1 %"}
    reach = "V up to 5, T up to 3, without end token or prompts"
    try:
        report_on({}, [proof | {"reach": reach}])
        said = next(one for one in answered(comparisons, "bias") if "proven" in one.text)
        assert said.text.startswith("1 of 8 estimators were proven unbiased beforehand")
        assert said.notes[0] == f"The proofs covered {reach}."
        report_on({}, [proof])  # as an earlier version wrote it
        said = next(one for one in answered(comparisons, "bias") if "proven" in one.text)
        assert "The proofs" not in " ".join(said.notes)
    finally:
        report_on({})

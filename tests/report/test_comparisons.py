"""The comparisons find the truth that the synthetic result set was made with."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from estbench.report.building import load_comparisons
from estbench.report.data.comparisons import BASELINED, PLAIN, Comparisons
from estbench.report.data.formatting import clean, number, p_text, quantity, ratio, seconds

from .synthetic import EVALS, RATIO, write_result_set


@pytest.fixture(scope="module")
def comparisons(bench_set: Path) -> Comparisons:
    return load_comparisons(bench_set)


@pytest.mark.parametrize("estimator", sorted(set(RATIO) - {BASELINED}))
def test_a_ratio_to_the_baselined_reinforce_is_found(
    comparisons: Comparisons, estimator: str
) -> None:
    found = comparisons.compare("expressions-15", "variance_per_sequence", estimator, BASELINED)
    # made with 6 % noise a snapshot, five snapshots, ten seeds, on both sides
    assert math.log(found.value) == pytest.approx(math.log(RATIO[estimator]), abs=0.05)
    assert found.n == 10


def test_a_draw_of_a_group_counts_per_sequence(comparisons: Comparisons) -> None:
    found = comparisons.compare("expressions-3", "variance_per_sequence", "rloo", PLAIN)
    assert found.value == pytest.approx(RATIO["rloo"] / RATIO[PLAIN], rel=0.05)


def test_cost_per_evaluation_counts_hard_and_relaxed_ones(comparisons: Comparisons) -> None:
    both = [
        comparisons.compare("expressions-3", f"variance_per_{cost}", "rebar", BASELINED).value
        for cost in ("sequence", "evaluation")
    ]
    assert both[1] / both[0] == pytest.approx(sum(EVALS["rebar"]))


def test_cost_per_second_is_the_product_of_two_ratios(comparisons: Comparisons) -> None:
    pair = ("relax", BASELINED)
    sequence, step, second = (
        comparisons.compare("expressions-3", quantity, *pair)
        for quantity in ("variance_per_sequence", "seconds_per_step", "variance_per_second")
    )
    assert second.value == pytest.approx(sequence.value * step.value)
    widths = [math.log(e.high / e.low) for e in (sequence, step, second)]
    assert max(widths[:2]) < widths[2] < widths[0] + widths[1]


def test_a_seed_that_lacks_a_snapshot_is_left_out_and_n_says_so(tmp_path: Path) -> None:
    write_result_set(tmp_path, tasks=("expressions-3",), seeds=4, batches=4, rounds=2)
    path = tmp_path / "snapshots" / "expressions-3" / "rebar" / "seed-001.json"
    record = json.loads(path.read_text())
    record["snapshots"][2]["total_variance"] = None
    path.write_text(json.dumps(record))
    found = load_comparisons(tmp_path)
    assert found.noise("expressions-3", "rebar").n == 3
    assert found.compare("expressions-3", "variance_per_sequence", "rebar", BASELINED).n == 3
    assert found.noise("expressions-3", "relax").n == 4


def test_a_difference_is_found_between_distant_estimators_and_not_between_close_ones(
    comparisons: Comparisons,
) -> None:
    differ = comparisons.differ
    assert not differ("oracle-small", "variance_per_sequence", "rloo", BASELINED)
    assert differ("oracle-small", "variance_per_sequence", "rebar", BASELINED)
    assert differ("oracle-small", "variance_per_sequence", BASELINED, "rebar")


def test_the_appendix_corrects_over_all_pairs_of_a_task_and_quantity(
    comparisons: Comparisons,
) -> None:
    table = comparisons.pairs("expressions-3", "variance_per_sequence")
    assert len(table) == 8 * 7 // 2
    assert (table["p_holm"] >= table["p_value"]).all()
    assert table["p_holm"].min() == pytest.approx(28 * table["p_value"].min())


def test_scores_are_compared_by_paired_differences(comparisons: Comparisons) -> None:
    found = comparisons.compare("expressions-15", "quality", "reinforce", "rloo")
    assert found.value < 0.0
    assert found.n == 10
    assert comparisons.compare("expressions-15", "quality", "relax", "rloo").n == 9


def test_a_baseline_alone_explains_most_of_the_ratio_to_reinforce(
    comparisons: Comparisons,
) -> None:
    rows = comparisons.compare("expressions-3", "variance_per_sequence", BASELINED, PLAIN)
    assert rows.value == pytest.approx(1 / RATIO[PLAIN], rel=0.05)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.634, "0.63×"), (33.24, "33.2×"), (1533.0, "1,530×"), (0.0213, "0.021×"), (4.6e5, "4.6e5×")],
)
def test_ratios_are_written_with_two_to_three_digits(value: float, text: str) -> None:
    assert ratio(value) == text


def test_numbers_are_written_for_people() -> None:
    assert number(-0.001) == "0.00"
    assert number(-1.234) == "−1.23"
    assert quantity(math.nan) == "–"
    assert p_text(0.0321) == "p = 0.03"
    assert p_text(0.00001) == "p < 0.001"
    assert seconds(0.0241) == "24.1 ms"
    assert clean("a\x1bb\n c", 12) == "a\\x1bb c"

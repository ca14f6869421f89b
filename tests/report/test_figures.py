"""Figures: the look is fixed by name, labels do not overlap, axes show what matters."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from estbench.config.experiment import FRACTIONS
from estbench.report.building import load_comparisons
from estbench.report.data.gained import gained
from estbench.report.data.order import estimator_order, task_order
from estbench.report.data.paper import block_centres, published
from estbench.report.view.answers import answers
from estbench.report.view.figures import quality, step_gain
from estbench.report.view.figures.base import drawing
from estbench.report.view.figures.captions import n_text
from estbench.report.view.figures.curves import MAX_POINTS, curve_data
from estbench.report.view.figures.direct import spread
from estbench.report.view.figures.scales import log_view, tick_text, view
from estbench.report.view.figures.sources import halfway
from estbench.report.view.style import look

from .synthetic import write_result_set

KNOWN = [f"reinforce{baseline}" for baseline in ("", "-constant", "-ema", "-critic")]
KNOWN += ["rloo", "seqgan-rollouts", "rebar", "relax"]


@given(
    st.lists(st.floats(-50, 150, allow_nan=False), min_size=1, max_size=9),
    st.floats(1, 10),
)
def test_labels_keep_their_distance_and_their_order(wanted: list[float], gap: float) -> None:
    placed = spread(wanted, gap, 0.0, 100.0)
    ordered = [placed[i] for i in np.argsort(wanted, kind="stable")]
    assert all(b - a >= gap - 1e-9 for a, b in pairwise(ordered))
    assert min(placed) >= -1e-9
    assert max(placed) <= 100.0 + 1e-9 or (len(wanted) - 1) * gap > 100.0


def test_labels_that_are_far_apart_stay_where_they_are() -> None:
    assert spread([80.0, 10.0, 45.0], 10.0, 0.0, 100.0) == [80.0, 10.0, 45.0]


def test_every_known_estimator_has_a_colour_marker_and_dash_of_its_own() -> None:
    looks = [look(name) for name in KNOWN]
    assert len({entry.colour for entry in looks}) == len(KNOWN)
    assert len({entry.marker for entry in looks}) == len(KNOWN)
    assert len({(entry.marker, str(entry.dash)) for entry in looks}) == len(KNOWN)


def test_groups_of_any_size_look_like_their_family_and_are_in_order() -> None:
    blues = {look(name).colour for name in ("muprop", "exact", "all-actions")}
    assert {look(f"rloo-{K}").colour for K in (2, 4, 16, 64)} <= blues
    names = ["rloo-16", "rloo-4", "rloo", "rloo-128"]
    assert sorted(names, key=estimator_order) == ["rloo", "rloo-4", "rloo-16", "rloo-128"]


def test_a_look_depends_on_the_name_alone() -> None:
    assert look("my-own-estimator") == look("my-own-estimator")
    assert look("rebar-soft").colour != look("rebar").colour


@pytest.mark.parametrize("name", [*KNOWN, "rebar-soft", "relax-rebar", "mine"])
def test_colours_can_be_seen_on_white_and_on_black(name: str) -> None:
    assert _contrast(look(name).colour, "#ffffff") >= 3.0
    assert _contrast(look(name).dark, "#15191e") >= 3.0


def _contrast(first: str, second: str) -> float:
    """WCAG 2 contrast of two colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_tasks_and_estimators_are_in_the_order_a_reader_expects() -> None:
    tasks = ["oracle-small", "expressions-15", "expressions-3"]
    assert sorted(tasks, key=task_order) == ["expressions-3", "expressions-15", "oracle-small"]
    names = ["zeta", "rebar-soft", "relax", "reinforce", "rebar"]
    assert sorted(names, key=estimator_order) == [
        "reinforce",
        "rebar",
        "rebar-soft",
        "relax",
        "zeta",
    ]


def test_long_curves_are_averaged_in_blocks_within_a_seed(tmp_path: Path) -> None:
    write_result_set(
        tmp_path,
        tasks=("expressions-3",),
        trained=("rloo",),
        also_measured=(),
        seeds=2,
        batches=130,
    )
    results = load_comparisons(tmp_path).results
    data = curve_data(results.curves, "expressions-3", "goodness")
    assert data["block"].unique().tolist() == [3]
    means = data[data["seed"].isna()]
    assert len(means) <= MAX_POINTS
    first = results.curves[results.curves["step"] < 3]["goodness"].mean()
    assert means["estimate"].iloc[0] == pytest.approx(first)


def test_a_metric_that_is_not_recorded_at_every_batch_has_fewer_points(bench_set: Path) -> None:
    results = load_comparisons(bench_set).results
    data = curve_data(results.curves, "expressions-3", "tv")
    assert sorted(data["step"].unique()) == [0, 8, 16, 24, 32, 40, 48, 56, 59]


def test_an_axis_shows_all_means_but_not_all_of_an_endless_interval() -> None:
    assert view([1.0, 3.0], [0.5, 2.0], [1.5, 3.5]) == (0.5, 3.5)
    assert view([1.0, 3.0], [-900.0, 2.0], [1.5, 1e6]) == (-1.0, 5.0)
    low, high = log_view([0.5, 1.0], [1e-9, 0.9], [0.6, 1e9])
    assert 0.1 < low < 0.5
    assert 1.0 < high < 5.0


def test_ticks_are_short() -> None:
    assert [tick_text(v) for v in (0.5, 20.0, 5000.0, 1e7, 2e-6)] == [
        "0.5",
        "20",
        "5,000",
        "10⁷",
        "2·10⁻⁶",
    ]


def test_n_names_every_exception() -> None:
    counts = pd.DataFrame({"task": "a", "estimator": ["x", "y", "z"], "n": [10, 10, 9]})
    assert n_text(counts) == "n = 10 seeds (z on a: 9)"
    assert n_text(counts.iloc[:1].assign(n=1)) == "n = 1 seed"


def test_the_published_series_is_whole() -> None:
    assert len(published()) == 2 * 2 * 3
    assert all(len(values) == 9 for values in published().values())
    assert block_centres()[0] == 12.5
    assert published()["expressions-15", "goodness", "rebar"][-1] == 12.51


def test_a_figure_without_its_metric_is_left_out(tmp_path: Path) -> None:
    write_result_set(tmp_path, tasks=("oracle-small",), seeds=2, batches=3, rounds=1)
    for path in (tmp_path / "runs").rglob("*.json"):
        record = json.loads(path.read_text())
        for name in ("nll_oracle", "nll_gen", "distinct", "entropy"):
            record["curves"]["metrics"].pop(name)
            record["final"].pop(name, None)
        path.write_text(json.dumps(record))
    with drawing():
        assert quality.draw(load_comparisons(tmp_path)) is None


FIVE = (0.0, 0.125, 0.25, 0.5, 1.0)  # as older sets have them


@pytest.mark.parametrize("fractions", [FIVE, FRACTIONS], ids=["five", "nine"])
def test_sources_are_of_the_snapshot_after_half_of_the_batches(
    fractions: tuple[float, ...],
) -> None:
    rows = pd.DataFrame({"fraction": fractions, "snapshot": range(len(fractions)), "task": "t"})
    assert list(halfway(rows)["fraction"]) == [0.5]


def progress_rows(seed: int, gains: dict[float, float]) -> list[dict[str, object]]:
    """Return single steps at two snapshots; the exact gradient gains 2 and 0.2 at rate 1."""
    rows = []
    for snapshot, scale in ((1, 1.0), (3, 0.1)):
        for rate, exact in ((1.0, 2.0 * scale), (4.0, 1.0 * scale)):
            row = {"task": "expressions-3", "estimator": "rloo", "optimiser": "adam", "batch": 64}
            row |= {"seed": seed, "snapshot": snapshot, "rate_factor": rate, "steps": 1}
            gain = gains[rate] * scale + 0.01 * seed
            row |= {"gain": gain, "gain_exact": exact, "ratio": gain / exact, "added": 1.0}
            rows.append(row | {"gain_momentum": 0.5 * exact, "useful_share": 0.6})
    return rows


def test_gains_are_added_up_over_snapshots_before_they_are_divided() -> None:
    frame = pd.DataFrame([row for seed in (0, 1) for row in progress_rows(seed, {1: 1.1, 4: 0.3})])
    found = gained(frame).set_index("measure")
    seeds = [1.21 / 2.2, (1.21 + 0.02) / 2.2]
    assert found.loc["preset", "estimate"] == pytest.approx(sum(seeds) / 2)
    assert found.loc["preset", "n"] == 2
    assert found.loc["best", "estimate"] == pytest.approx(sum(seeds) / 2)
    beyond = [(1.21 - 1.1) / 1.1, (1.21 + 0.02 - 1.1) / 1.1]
    assert found.loc["added", "estimate"] == pytest.approx(sum(beyond) / 2)


def test_the_best_rate_is_each_side_s_own() -> None:
    frame = pd.DataFrame([row for seed in (0, 1) for row in progress_rows(seed, {1: 0.3, 4: 1.5})])
    found = gained(frame).set_index("measure")
    assert found.loc["best", "estimate"] == pytest.approx((1.65 + 1.67) / 2 / 2.2)


def test_what_steps_gain_is_drawn_tabled_and_said(tmp_path: Path) -> None:
    write_result_set(
        tmp_path, tasks=("expressions-3",), trained=("rloo",), also_measured=(), seeds=2, rounds=0
    )
    for seed, path in enumerate(sorted((tmp_path / "snapshots").rglob("*.json"))):
        record = json.loads(path.read_text())
        cells = progress_rows(seed, {1.0: 1.1, 4.0: 0.3})
        cells += [cell | {"steps": 8} for cell in cells if cell["rate_factor"] == 1.0]
        for cell in cells:
            record["snapshots"][int(cell["snapshot"])].setdefault("progress", []).append(cell)
        path.write_text(json.dumps(record))
    comparisons = load_comparisons(tmp_path)
    assert len(comparisons.results.progress) == 2 * 6
    limit = next(answer for answer in answers(comparisons) if answer.key == "limit")
    assert "8 steps of Adam with rloo gain 0.55" in " ".join(one.text for one in limit.sentences)
    with drawing():
        drawn = step_gain.draw(comparisons)
    assert drawn is not None
    assert drawn.table is not None
    assert drawn.table["Adam, 8 steps"].tolist() == [drawn.table["Adam, 1 step"].iloc[0]]

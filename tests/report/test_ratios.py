"""Ratios of the trajectory's noise: by hand, and so that no single snapshot carries them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from estbench import estimators
from estbench.report.building import load_comparisons
from estbench.report.data.comparisons import Comparisons
from estbench.report.data.formatting import bounded
from estbench.report.data.labels import EstimatorFacts, peer
from estbench.report.data.ratios import HIGHER, LOWER, OPEN, bound_of
from estbench.report.data.statistics import Estimate
from estbench.report.data.tails import heavy, too_narrow
from estbench.report.data.trajectory import informative_snapshots, trapezoids
from estbench.report.out.tables import RATIO_COLUMNS, ratio_table, variance_table
from estbench.report.out.terminal import show
from estbench.report.view.answers import abstract, answers
from estbench.report.view.notes import every_note
from estbench.report.view.verdicts import verdicts

from .synthetic import write_measurements

TASK = "expressions-3"
PAPER = Path(__file__).parents[2] / "results" / "reference" / "paper"


def measured(
    directory: Path, variances: dict[str, list[list[float]]], **columns: object
) -> Comparisons:
    steps = columns.pop("steps", [0, 10, 40])
    write_measurements(directory, variances, steps=steps, **columns)  # type: ignore[arg-type]
    return load_comparisons(directory)


def spread(values: list[float], seeds: int = 6) -> list[list[float]]:
    """The same trajectory in every seed, up to one per cent."""
    return [[value * (1.0 + 0.01 * ((7 * seed) % 5)) for value in values] for seed in range(seeds)]


def said(comparisons: Comparisons) -> str:
    sentences = [one for answer in answers(comparisons) for one in answer.sentences]
    return " ".join([*(one.text for one in sentences), *every_note(comparisons)])


# The quantity ------------------------------------------------------------------------------------


def test_noise_is_the_integral_over_batches_by_hand(tmp_path: Path) -> None:
    # trapezoids at 0, 10, 40: 10 (a + b) / 2 + 30 (b + c) / 2
    found = measured(
        tmp_path,
        {"reinforce": [[4.0, 2.0, 2.0], [8.0, 4.0, 2.0]], "reinforce-ema": [[1.0, 1.0, 1.0]] * 2},
    )
    noise = [(30.0 + 60.0) / 40.0, (60.0 + 90.0) / 40.0]
    assert found.at(TASK).noise("sequence")[0].tolist() == pytest.approx(noise)
    ratio = found.ratio(TASK, "sequence", "reinforce", "reinforce-ema")
    assert ratio is not None
    assert ratio.estimate.value == pytest.approx(math.sqrt(noise[0] * noise[1]))
    assert ratio.estimate.n == 2
    # without the first snapshot: 30 (b + c) / 2 over 30 batches
    assert ratio.omissions[0.0].estimate.value == pytest.approx(math.sqrt(2.0 * 3.0))
    assert [part.estimate.value for part in ratio.parts] == pytest.approx(
        [math.sqrt(32.0), math.sqrt(8.0), 2.0]
    )


def test_weights_of_trapezoids_are_a_mean() -> None:
    assert trapezoids([0.0, 10.0, 40.0]).tolist() == pytest.approx([0.125, 0.5, 0.375])
    assert trapezoids([3.0]).tolist() == [1.0]


def test_a_snapshot_with_a_ratio_of_ten_million_does_not_carry_the_headline(tmp_path: Path) -> None:
    found = measured(
        tmp_path,
        {
            "reinforce": spread([1.0, 0.8, 0.8]),
            "reinforce-ema": spread([1e-7, 1.0, 1.0]),
        },
        gradient_norm=[1e-4, 1.0, 1.0],
    )
    ratio = found.ratio(TASK, "sequence", "reinforce", "reinforce-ema")
    assert ratio is not None
    assert ratio.parts[0].estimate.value == pytest.approx(1e7)
    assert not ratio.parts[0].informative
    assert ratio.estimate.value == pytest.approx(0.8)
    assert ratio.span == pytest.approx((0.8, 0.8))
    assert list(ratio.omissions) == [10.0, 40.0]


def test_a_seed_without_a_snapshot_is_left_out_of_the_trajectory(tmp_path: Path) -> None:
    found = measured(
        tmp_path,
        {"reinforce": [[1.0, 1.0, 1.0], [1.0, 1.0]], "reinforce-ema": [[1.0, 1.0, 1.0]] * 2},
    )
    ratio = found.ratio(TASK, "sequence", "reinforce", "reinforce-ema")
    assert ratio is not None
    assert ratio.estimate.n == 1
    assert ratio.parts[0].estimate.n == 2


# Informative snapshots ---------------------------------------------------------------------------


def rows(**columns: list[float]) -> pd.DataFrame:
    count = len(next(iter(columns.values())))
    unknown = {name: [math.nan] * count for name in ("reward_std", "reward_scale", "gradient_norm")}
    head = {"seed": [0] * count, "snapshot": list(range(count))}
    return pd.DataFrame(head | unknown | columns)


def test_a_snapshot_is_informative_where_reward_and_gradient_are() -> None:
    reward = rows(reward_std=[0.0009, 0.0011, 0.1], reward_scale=[0.1, 0.1, 0.1])
    assert informative_snapshots(reward).tolist() == [False, True, True]
    gradient = rows(gradient_norm=[0.009, 0.011, 1.0])
    assert informative_snapshots(gradient).tolist() == [False, True, True]
    # a norm that could not be told from zero is not recorded
    assert informative_snapshots(rows(gradient_norm=[math.nan, 1.0])).tolist() == [False, True]


def test_what_was_never_recorded_decides_nothing() -> None:
    assert informative_snapshots(rows(gradient_norm=[math.nan, math.nan])).tolist() == [True, True]


def test_all_seeds_share_the_informative_snapshots_of_the_median_seed() -> None:
    seeds = [
        rows(gradient_norm=[first, 1.0]).assign(seed=seed)
        for seed, first in enumerate((0.5, 0.5, 0.0))
    ]
    assert informative_snapshots(pd.concat(seeds)).tolist() == [True, True]


def test_uninformative_snapshots_are_marked_and_said(tmp_path: Path) -> None:
    found = measured(
        tmp_path, {"reinforce-ema": spread([1.0, 1.0, 1.0])}, gradient_norm=[1e-4, 1.0, 1.0]
    )
    table = variance_table(found)
    assert table.groupby("snapshot")["informative"].first().tolist() == [False, True, True]
    assert any("at batch 0 of the reference trajectory" in text for text in every_note(found))
    (shown,) = verdicts(found)
    assert shown.informative == (False, True, True)


# Noise scale -------------------------------------------------------------------------------------


def test_the_useful_share_is_a_half_where_the_batch_is_the_noise_scale(tmp_path: Path) -> None:
    found = measured(
        tmp_path,
        {"reinforce-ema": [[32.0, 32.0, 8.0]] * 2},
        gradient_norm=0.5,
        batch_size=128,
        sequences_per_draw=1,
    )
    table = variance_table(found).drop_duplicates("snapshot")
    assert table["noise_scale"].tolist() == pytest.approx([128.0, 128.0, 32.0])
    assert table["useful_share"].tolist() == pytest.approx([0.5, 0.5, 0.8])
    assert found.useful_share(TASK, 2, "reinforce-ema").value == pytest.approx(0.8)
    assert "at most 50 % of a step of REINFORCE with a moving-average baseline" in said(found)


def test_the_first_sentence_is_whether_noise_limits_the_task(tmp_path: Path) -> None:
    quiet = measured(
        tmp_path / "quiet", {"reinforce-ema": spread([1.0, 1.0, 1.0])}, gradient_norm=1.0
    )
    assert abstract(quiet)[1].text.startswith("The choice of estimator hardly matters here")
    loud = measured(
        tmp_path / "loud", {"reinforce-ema": spread([900.0, 900.0, 1.0])}, gradient_norm=1.0
    )
    assert abstract(loud)[1].text.startswith("Noise limits learning: up to 88 % of a step of")


# Costs that a batch shares -----------------------------------------------------------------------


def with_costs(directory: Path) -> Path:
    """`muprop`, counted over 1,024 draws and trained in batches of 4; the other has none such."""
    levels, steps = spread([1.0, 1.0, 1.0]), [0, 10, 40]
    columns = {"at_one": 2.0, "at_batch": 1.25, "in_limit": 1.0}
    columns = {f"evaluations_{end}": value for end, value in columns.items()}
    write_measurements(
        directory,
        {"muprop": levels},
        steps=steps,
        relaxed_evals_per_draw=1 / 1024,
        **columns,
    )
    return write_measurements(directory, {"reinforce-ema": levels}, steps=steps, batch_size=4)


def test_the_verdict_uses_what_a_sequence_costs_at_the_batch_in_use(tmp_path: Path) -> None:
    found = load_comparisons(with_costs(tmp_path))
    ratios = {
        cost: found.ratio(TASK, cost, "muprop", "reinforce-ema")
        for cost in ("sequence", "evaluation")
    }
    assert ratios["sequence"].estimate.value == pytest.approx(1.0)  # type: ignore[union-attr]
    assert ratios["evaluation"].estimate.value == pytest.approx(1.25)  # type: ignore[union-attr]
    assert ratios["evaluation"].verdict == HIGHER  # type: ignore[union-attr]
    assert ratios["sequence"].verdict != HIGHER  # type: ignore[union-attr]


def test_a_group_costs_as_many_evaluations_as_its_sequences(tmp_path: Path) -> None:
    write_measurements(
        tmp_path,
        {"rloo": spread([1.0, 1.0, 1.0])},
        steps=[0, 10, 40],
        hard_evals_per_draw=8.0,
        sequences_per_draw=8,
        evaluations_at_batch=1.0,
    )
    at = load_comparisons(tmp_path).at(TASK)
    assert at.values["evaluation"].tolist() == at.values["sequence"].tolist()


def test_costs_that_are_shared_are_shown_for_three_batches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = load_comparisons(with_costs(tmp_path))
    (table,) = verdicts(found)
    assert {row.estimator: row.cost.text for row in table.rows} == {
        "muprop": "2 / 1.25 / 1",
        "reinforce-ema": "1",
    }
    assert {row.estimator: row.cost.value for row in table.rows} == {
        "muprop": 1.25,
        "reinforce-ema": 1.0,
    }
    show(found, Console(width=80))
    text = " ".join(capsys.readouterr().out.split())
    assert "at the batch in use (4), which ratios are made with" in text
    assert "without end: muprop 2 / 1.25 / 1." in text


# The guard ---------------------------------------------------------------------------------------


def test_a_verdict_that_one_omission_turns_over_is_not_printed_plainly(tmp_path: Path) -> None:
    found = measured(
        tmp_path,
        {"reinforce": spread([1.0, 1.0, 9.0]), "reinforce-ema": spread([1.3, 1.3, 1.0])[::-1]},
    )
    ratio = found.ratio(TASK, "evaluation", "reinforce", "reinforce-ema")
    assert ratio is not None
    assert ratio.verdict == HIGHER
    assert not ratio.survives
    assert list(ratio.turned_by) == [40.0]
    assert ratio.least < 1.0 < ratio.most
    text = said(found)
    assert "reinforce is noisier" not in text
    assert "rests on the snapshot at batch 40: without the one at batch 40 it is 0.77 times" in text
    (table,) = verdicts(found)
    assert table.rows[0].to_ema.mark == "higher, rests on batch 40"


def test_a_verdict_that_every_omission_leaves_is_printed(tmp_path: Path) -> None:
    found = measured(
        tmp_path,
        {"rloo": spread([1.0, 2.0, 1.0]), "reinforce-ema": spread([2.0, 3.0, 3.0])[::-1]},
    )
    ratio = found.ratio(TASK, "evaluation", "rloo", "reinforce-ema")
    assert ratio is not None
    assert (ratio.verdict, ratio.survives) == (LOWER, True)
    words = (
        "Per reward evaluation, rloo is less noisy than REINFORCE with a moving-average baseline"
    )
    assert f"{words}: 0.52 times (0.51 to 0.53)" in said(found)


def test_one_informative_snapshot_is_no_trajectory(tmp_path: Path) -> None:
    found = measured(
        tmp_path,
        {"rloo": spread([1.0, 1.0, 1.0]), "reinforce-ema": spread([3.0, 3.0, 3.0])[::-1]},
        gradient_norm=[1e-4, 1e-4, 1.0],
    )
    ratio = found.ratio(TASK, "evaluation", "rloo", "reinforce-ema")
    assert ratio is not None
    assert not ratio.survives
    assert "rests on the only informative snapshot" in said(found)


# Partners and tests ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("estimator", "partner"),
    [
        ("rebar", "reinforce-constant"),
        ("relax", "reinforce-constant"),
        ("muprop", "reinforce-constant"),
        ("rebar-per-tensor", "reinforce-constant"),
        ("rebar-ema", "reinforce-ema"),
        ("seqgan-rollouts-ema", "reinforce-ema"),
        ("relax-critic", "reinforce-critic"),
        ("rebar-none", "reinforce"),
        ("seqgan-rollouts", "reinforce"),
        ("sum-and-sample", "reinforce"),
        ("rodeo", "rloo"),
        ("double-cv", "rloo"),
        ("double-cv-4", "rloo-4"),
        ("unordered-set-8", "rloo"),
        ("unordered-set-2", "rloo-2"),
        ("unordered-set-4", "rloo-4"),
        ("without-replacement-8", "rloo"),
        ("unordered-set-4-none", "reinforce"),
        ("rloo", ""),
        ("rloo-2", ""),
        ("rloo-8", ""),
        ("grpo-4", ""),
        ("reinforce", ""),
        ("reinforce-ema", ""),
        ("all-actions", ""),
        ("exact", ""),
        ("nobody-knows-it", ""),
    ],
)
def test_the_partner_is_the_plain_estimator_with_the_same_baseline(
    estimator: str, partner: str
) -> None:
    assert peer(estimator) == partner


def test_every_control_variate_of_the_catalogue_has_a_partner() -> None:
    families = ("rebar", "relax", "muprop", "rodeo", "double-cv")
    names = [n for n in estimators.names() if n.startswith(families)]
    assert len(names) > 20
    assert all(peer(name) in estimators.names() for name in names)


def test_a_partner_that_was_not_measured_is_said(tmp_path: Path) -> None:
    found = measured(
        tmp_path, {name: spread([1.0, 1.0, 1.0]) for name in ("rebar", "reinforce-ema")}
    )
    lacking = "rebar. The partner reinforce-constant was not measured."
    assert f"Not compared at equal baseline on {TASK}: {lacking}" in said(found)
    (table,) = verdicts(found)
    row = next(row for row in table.rows if row.estimator == "rebar")
    assert (row.partner, row.missing) == ("reinforce-constant", True)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four estimators whose order of noise is reinforce-ema, rebar, reinforce-constant, grpo."""
    rng = np.random.default_rng(0)
    level = {"reinforce-ema": 1.0, "rebar": 1.2, "reinforce-constant": 1.3, "grpo": 0.5}
    variances = {
        name: np.exp(rng.normal(math.log(value), 0.1, (8, 3))).tolist()
        for name, value in level.items()
    }
    directory = tmp_path_factory.mktemp("four")
    return write_measurements(directory, variances, steps=[0, 10, 40])


def test_holm_is_over_partners_and_the_moving_average_without_what_is_never_ranked(
    four: Path,
) -> None:
    family = load_comparisons(four).ratios(TASK, "sequence")
    assert set(family) == {
        ("rebar", "reinforce-constant"),
        ("rebar", "reinforce-ema"),
        ("reinforce-constant", "reinforce-ema"),
        ("grpo", "reinforce-ema"),
    }
    tested = {pair: ratio for pair, ratio in family.items() if math.isfinite(ratio.p_holm)}
    assert set(family) - set(tested) == {("grpo", "reinforce-ema")}  # biased
    least = min(ratio.estimate.p_value for ratio in tested.values())
    assert min(ratio.p_holm for ratio in tested.values()) == pytest.approx(3 * least)


def test_all_pairs_are_an_appendix_without_what_is_never_ranked(
    four: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = load_comparisons(four).pairs(TASK, "variance_per_sequence")
    assert len(pairs) == 3
    assert "grpo" not in {*pairs["estimator"], *pairs["against"]}
    facts = EstimatorFacts("none", unbiased=True, proof="undecided")
    monkeypatch.setattr("estbench.report.data.comparisons.estimator_facts", lambda name: facts)
    assert load_comparisons(four).pairs(TASK, "variance_per_sequence").empty


def test_the_table_of_ratios_holds_the_trajectory_and_every_snapshot(four: Path) -> None:
    table = ratio_table(load_comparisons(four))
    assert list(table.columns) == RATIO_COLUMNS
    own = table[(table["estimator"] == "rebar") & (table["cost"] == "evaluation")]
    assert own.groupby("role")["scope"].agg(list).to_dict() == {
        "partner": ["trajectory", "0", "1", "2"],
        "ema": ["trajectory", "0", "1", "2"],
    }
    assert set(table["cost"]) == {"sequence", "evaluation"}  # nothing was timed


# Heavy tails -------------------------------------------------------------------------------------


def tailed(
    kurtosis: Sequence[float] = (5.0,) * 3,
    tail_index: Sequence[float] = (math.nan,) * 3,
    snapshot: int = 0,
) -> pd.DataFrame:
    """Three seeds' measurements of one snapshot."""
    table = pd.DataFrame({"kurtosis": kurtosis, "tail_index": tail_index})
    return table.assign(task=TASK, estimator="rloo", snapshot=snapshot, draws=1024)


def test_a_measurement_is_heavy_where_one_draw_may_hold_a_quarter() -> None:
    assert heavy(tailed(kurtosis=[60.0, 70.0, math.nan])).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("index", "found"),
    [
        (2.9, True),  # no fourth moment: the variance has no interval
        (4.4, False),  # lognormal lengths, sigma 0.5
        (0.6, False),  # a mixture of long and short draws, whose kurtosis says all
        (math.nan, False),  # older sets
    ],
)
def test_a_tail_that_is_a_power_is_heavy_whatever_the_kurtosis(index: float, found: bool) -> None:
    assert heavy(tailed(tail_index=[index] * 3)).tolist() == [found] * 3
    assert too_narrow(tailed(tail_index=[index] * 3)).tolist() == [found] * 3


def test_seeds_of_a_snapshot_share_one_tail_index() -> None:
    here = tailed(tail_index=[2.6, 3.6, math.nan])
    there = tailed(tail_index=[3.6, 3.6, 3.6], snapshot=1)
    assert heavy(pd.concat([here, there])).tolist() == [True] * 3 + [False] * 3


def test_a_power_tail_leaves_a_bound_where_it_holds_a_tenth_of_the_noise(tmp_path: Path) -> None:
    found = measured(
        tmp_path,
        {"rloo": spread([0.5] * 3), "reinforce-ema": spread([1.0] * 3)[::-1]},
        tail_index=[2.9, 4.4, 4.4],
    )
    ratio = found.ratio(TASK, "evaluation", "rloo", "reinforce-ema")
    assert ratio is not None
    assert [part.bound for part in ratio.parts] == ["none", "", ""]
    assert ratio.bound == "none"  # its snapshot holds an eighth
    (text, *_) = [text for text in every_note(found) if text.startswith("Heavy tails")]
    assert "or their tail index is 1.8 to 3.2 (in 12)" in text


def test_heavy_tails_leave_a_bound_and_verdicts_only_on_its_safe_side(tmp_path: Path) -> None:
    write_measurements(tmp_path, {"reinforce-ema": spread([1.0] * 3)[::-1]}, steps=[0, 10, 40])
    for name, level in (("rloo", 0.5), ("reinforce", 2.0)):
        write_measurements(tmp_path, {name: spread([level] * 3)}, steps=[0, 10, 40], kurtosis=900.0)
    found = load_comparisons(tmp_path)
    low = found.ratio(TASK, "evaluation", "rloo", "reinforce-ema")
    high = found.ratio(TASK, "evaluation", "reinforce", "reinforce-ema")
    assert low is not None
    assert high is not None
    assert (low.bound, low.verdict) == ("lower", OPEN)
    assert (high.bound, high.verdict) == ("lower", HIGHER)
    assert low.p_holm < 0.05
    text = said(found)
    assert "no estimator was found to be less noisy" in text
    assert (
        "reinforce is noisier than REINFORCE with a moving-average baseline: at least 2.0" in text
    )


def test_bounds_are_written_as_such() -> None:
    ratio = Estimate(0.5, 0.4, 0.6, 8)
    assert bounded(ratio, "") == "0.50× [0.40, 0.60]"
    assert bounded(ratio, "lower") == "at least 0.40×"
    assert bounded(ratio, "upper") == "at most 0.60×"
    assert bounded(ratio, "none") == "no statement"
    assert [bound_of(*parts) for parts in ((0.0, 0.0), (0.2, 0.0), (0.0, 0.2), (0.2, 0.2))] == [
        "",
        "lower",
        "upper",
        "none",
    ]


# Adam's metric -----------------------------------------------------------------------------------


def test_a_pair_that_adams_metric_ranks_the_other_way_is_said(tmp_path: Path) -> None:
    write_measurements(
        tmp_path, {"reinforce-ema": spread([1.0] * 3)[::-1]}, steps=[0, 10, 40], adam_variance=1.0
    )
    write_measurements(
        tmp_path, {"rloo": spread([0.5] * 3)}, steps=[0, 10, 40], adam_variance=[3.0, 3.1, 3.2]
    )
    found = load_comparisons(tmp_path)
    assert "the two metrics rank differently: rloo has 0.5" in said(found)


# Noise of the data -------------------------------------------------------------------------------


def test_a_step_has_the_noise_of_the_data_too(tmp_path: Path) -> None:
    """Within contexts a hundredth of the noise; in a step (.01 + .25) / (1 + .25)."""
    steps = [0, 10, 40]
    for name, variance in (("reinforce-ema", 1.0), ("muprop", 0.01)):
        write_measurements(
            tmp_path, {name: spread([variance] * 3)}, steps=steps, between_variance=0.25
        )
    found = load_comparisons(tmp_path)
    within, whole = (
        found.ratio(TASK, cost, "muprop", "reinforce-ema") for cost in ("sequence", "step")
    )
    assert within is not None
    assert whole is not None
    assert within.estimate.value == pytest.approx(0.01)
    assert whole.estimate.value == pytest.approx(0.26 / 1.25, rel=0.02)
    assert "With the noise of the data included, muprop has 0.2" in said(found)
    rows = variance_table(found)
    own = rows[rows["estimator"] == "muprop"].iloc[0]
    assert own["noise_scale"] == pytest.approx(
        (own["total_variance"] + 0.25) / own["gradient_norm"] ** 2
    )


def test_without_contexts_no_step_is_told_apart_from_a_sequence(tmp_path: Path) -> None:
    found = measured(
        tmp_path,
        {"reinforce-ema": spread([1.0] * 3), "rloo": spread([0.5] * 3)},
        between_variance=0.0,
    )
    assert found.ratios(TASK, "step") == {}
    assert "noise of the data" not in said(found)


# The committed sets ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def paper() -> Comparisons:
    return load_comparisons(PAPER)


@pytest.mark.parametrize(
    ("task", "estimator", "against", "value", "low", "high"),
    [
        ("expressions-3", "reinforce", "reinforce-ema", 1.831, 1.726, 1.942),
        ("expressions-15", "reinforce", "reinforce-ema", 27.95, 24.29, 32.16),
        ("expressions-15", "rebar", "reinforce-ema", 0.957, 0.397, 2.306),
        ("expressions-3", "rebar-ema", "reinforce-ema", 1.007, 0.977, 1.038),
        ("expressions-3", "relax", "reinforce-constant", 0.683, 0.653, 0.714),
        ("expressions-15", "rebar-ema", "reinforce-ema", 1.001, 0.956, 1.048),
    ],
)
def test_ratios_of_the_committed_paper_set(
    paper: Comparisons,
    task: str,
    estimator: str,
    against: str,
    value: float,
    low: float,
    high: float,
) -> None:
    found = paper.ratio(task, "sequence", estimator, against)
    assert found is not None
    numbers = (found.estimate.value, found.estimate.low, found.estimate.high)
    assert numbers == pytest.approx((value, low, high), rel=0.01)


def test_over_all_nine_snapshots_the_integral_is_what_was_computed_by_hand(
    paper: Comparisons,
) -> None:
    for task, value in (("expressions-3", 2.014), ("expressions-15", 25.93)):
        at = paper.at(task)
        noise = at.values["sequence"] @ trapezoids(at.steps)
        logs = np.log(noise[at.places["reinforce"]] / noise[at.places["reinforce-ema"]])
        assert math.exp(logs.mean()) == pytest.approx(value, rel=0.002)


@pytest.mark.parametrize("factor", [1 / 3, 3.0])
@pytest.mark.parametrize("name", ["paper", "catalogue", "seqgan-small", "seqgan-medium"])
def test_no_firm_verdict_of_the_reference_sets_hangs_on_the_thresholds(
    name: str, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = PAPER.parent / name
    table = pd.read_parquet(directory / "tables" / "variance.parquet")
    table = table[table["snapshot"].notna()]
    moved = (0.01 * factor, 0.01 * factor)
    differ = []
    for task, own in table.groupby("task"):
        if informative_snapshots(own, *moved).tolist() != informative_snapshots(own).tolist():
            differ.append(task)
    if not differ:  # the same snapshots enter the ratios, so that no number moves
        return
    usual = _verdicts(directory, differ)
    monkeypatch.setattr(informative_snapshots, "__defaults__", moved)
    # What one snapshot turns over is not printed as a verdict.
    firm = {pair: verdict for pair, (verdict, survives) in usual.items() if survives}
    now = _verdicts(directory, differ)
    assert {pair: now[pair][0] for pair in firm} == firm
    assert now != usual


def _verdicts(directory: Path, tasks: list[str]) -> dict[tuple[str, ...], tuple[str, bool]]:
    found = load_comparisons(directory)
    return {
        (task, cost, *pair): (ratio.verdict, ratio.survives)
        for task in tasks
        for cost in ("sequence", "evaluation", "second")
        for pair, ratio in found.ratios(task, cost).items()
    }


def test_the_abstract_of_the_paper_set_is_four_sentences_with_two_numbers_at_most(
    paper: Comparisons,
) -> None:
    found = abstract(paper)
    assert len(found) == 4
    for one in found:
        text = re.sub(r"\([\d. ,]+ to [\d. ,]+\)|expressions-\d+", "", one.text)
        assert len(re.findall(r"\d[\d.,]*", text)) <= 2, one.text
        assert one.text.count(".") - len(re.findall(r"\d\.\d", one.text)) == 1, one.text


def test_the_paper_set_finds_rebar_noisier_than_its_partner(paper: Comparisons) -> None:
    noise = next(answer for answer in answers(paper) if answer.key == "noise")
    assert [one.text for one in noise.sentences][1] == (
        "Per reward evaluation, rebar is noisier than REINFORCE with the same constant baseline: "
        "at least 1.8 times on expressions-3."
    )

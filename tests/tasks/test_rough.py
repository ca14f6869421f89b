"""The rough task: a table of independent rewards, its relaxed form, and a run that is exact."""

from __future__ import annotations

import pytest
import torch

from estbench import tasks
from estbench.config.experiment import Experiment, SnapshotSettings, TrainingSettings
from estbench.estimators import make
from estbench.meter.exact import exact
from estbench.meter.measuring import adapt_once, measure
from estbench.meter.snapshots import measure_at_snapshots
from estbench.meter.truth import true_gradient
from estbench.tasks.fit import refusals
from estbench.tasks.rough import RoughTask
from estbench.tasks.stage import make_stage
from estbench.training.reference import reference

TASK = "rough"
EXPERIMENT = Experiment(
    name="x",
    tasks=(TASK,),
    estimators=("rloo", "rebar"),
    seeds=(0,),
    training=TrainingSettings(batches=4, batch_size=64, generator_learning_rate=0.02),
    snapshots=SnapshotSettings(sequences=256, adaptation_batches=1, reference_sequences=256),
)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rough(seed: int = 0) -> RoughTask:
    made = tasks.make(TASK, seed)
    assert isinstance(made, RoughTask)
    return made


def test_each_seed_draws_a_table_of_its_own_once() -> None:
    assert torch.equal(rough(1).table, rough(1).table)
    assert not torch.equal(rough(1).table, rough(2).table)
    assert rough().table.shape == (5, 5, 5)
    values = torch.cat([rough(seed).table.flatten().double() for seed in range(20)])
    assert 0.0 <= float(values.min()) < 0.01
    assert 0.99 < float(values.max()) <= 1.0
    assert float(values.mean()) == pytest.approx(1 / 2, rel=0.05)
    assert float(values.var()) == pytest.approx(1 / 12, rel=0.1), "uniform on [0, 1]"


def test_a_token_changed_says_nothing_about_the_reward() -> None:
    """Rewards of neighbours, which differ in one token, are uncorrelated."""
    tables = torch.stack([rough(seed).table.double() - 0.5 for seed in range(20)])
    for axis in (1, 2, 3):
        products = tables * tables.roll(1, dims=axis)
        assert abs(float(products.mean()) * 12) < 0.06


def test_the_relaxed_reward_at_one_hot_tokens_is_the_table() -> None:
    made = rough()
    weights = torch.nn.functional.one_hot(made.sequences, 5).float()
    hard, relaxed = made.reward(made.sequences), made.reward(weights)
    assert torch.equal(hard, made.table.flatten())
    assert torch.equal(relaxed, hard)


def test_the_relaxed_reward_is_the_mean_over_independent_tokens() -> None:
    made = rough()
    weights = torch.rand(4, 3, 5, generator=rng()).double().softmax(dim=2).requires_grad_()
    p = torch.stack([w[range(3), made.sequences].prod(dim=1) for w in weights])
    expected = p @ made.table.flatten().double()
    torch.testing.assert_close(made.reward(weights), expected)
    assert torch.autograd.gradcheck(made.reward, weights)


def test_gradients_are_exact_and_metrics_are_those_of_the_table() -> None:
    made, stage = rough(), make_stage(EXPERIMENT, TASK, 0)
    found = exact(stage.policy, stage.reward)
    truth = true_gradient(stage.policy, stage.reward, 2, rng())
    assert truth.noise == 0
    for mine, theirs in zip(truth.gradient, found.gradient, strict=True):
        torch.testing.assert_close(mine, theirs)
    metrics = made.full_quality(stage.policy, rng())
    assert set(metrics) == set(tasks.info(TASK).metrics)
    assert metrics["expected_reward"] == pytest.approx(found.mean_reward, abs=1e-6)
    best = stage.policy.log_probs(made.best.unsqueeze(0))[0, range(3), made.best].sum().exp()
    assert metrics["p_best"] == pytest.approx(best.item(), rel=1e-4)
    assert metrics["entropy"] == pytest.approx(1.609, abs=0.01), "nearly uniform at first"


@pytest.mark.parametrize("name", ["rebar", "relax", "muprop", "double-cv-4"])
def test_what_needs_a_relaxed_reward_is_measured_without_bias(name: str) -> None:
    stage, method = make_stage(EXPERIMENT, TASK, 0), make(name)
    learned, noise = method.initial_state(stage.policy, rng(1)), rng(2)
    for _ in range(3):
        adapt_once(method, stage.policy, stage.reward, 64, noise, learned)
    truth = true_gradient(stage.policy, stage.reward, 2, rng())
    row = measure(method, stage.policy, stage.reward, 1024, rng(3), learned, truth)
    assert row["bias_low"] == 0
    assert (row["relaxed_evals_per_draw"] > 0) == method.info.needs_relaxed_reward
    assert row["info"]["meter_fault"] == ""


def test_a_run_learns_and_its_snapshots_are_measured() -> None:
    assert refusals(EXPERIMENT) == {}
    payload, state = reference(EXPERIMENT, TASK, 0)
    assert payload["final"]["expected_reward"] > payload["start"]["expected_reward"]
    assert all(snapshot["noise"] == 0 for snapshot in state["snapshots"])
    rows = measure_at_snapshots(EXPERIMENT, TASK, "rebar", 0, state)["snapshots"]
    assert len(rows) == len(state["snapshots"])
    assert all(row["total_variance"] > 0 for row in rows)
    assert rows[0]["reward_std"] == pytest.approx(float(rough().table.std()), rel=0.1)


def test_the_policy_keeps_a_truncation() -> None:
    made = rough().start(TrainingSettings(truncation=2))
    assert made.truncation == 2  # type: ignore[attr-defined]

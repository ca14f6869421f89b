"""A run: what it starts from, what it records, and what does not change it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from estbench.config.experiment import (
    Experiment,
    SnapshotSettings,
    TimingSettings,
    TrainingSettings,
)
from estbench.estimators import make
from estbench.meter.exact import exact
from estbench.meter.gradients import Tape
from estbench.meter.snapshots import halfway, measure_at_snapshots
from estbench.meter.timing import shuffled, time_step
from estbench.meter.truth import true_gradient
from estbench.tasks.stage import make_stage
from estbench.training.curves import step_metrics
from estbench.training.loop import Run, train
from estbench.training.reference import reference, snapshot_steps
from estbench.training.resume import Phases
from estbench.training.session import Session, prepare

TASK = "expressions-3"


@pytest.fixture
def experiment() -> Experiment:
    return Experiment(
        name="tiny",
        tasks=(TASK,),
        estimators=("rloo", "rebar"),
        seeds=(0,),
        training=TrainingSettings(
            batches=8,
            batch_size=32,
            data_size=512,
            pretrain_epochs=2,
            pretrain_learning_rate=1e-2,
            generator_learning_rate=5e-3,
            discriminator_learning_rate=5e-3,
            discriminator_pretrain_updates=16,
            discriminator_updates=4,
            discriminator_batch_size=32,
            evaluate_every=4,
            evaluation_samples=64,
        ),
        snapshots=SnapshotSettings(sequences=4096, adaptation_batches=2, reference_sequences=256),
        timing=TimingSettings(rounds=1, warmup=1),
    )


def parameters(session: Session) -> torch.Tensor:
    both = [*session.policy.parameters(), *session.discriminator.parameters()]
    return torch.cat([p.detach().flatten() for p in both])


def test_estimators_of_one_seed_start_from_the_same_models(experiment: Experiment) -> None:
    starts = {}
    for name in ("reinforce", "rebar"):

        def keep(done: int, session: Session, name: str = name) -> None:
            if done == 0:
                starts[name] = parameters(session)

        train(experiment, TASK, name, 0, at_batch=keep)
    assert torch.equal(starts["reinforce"], starts["rebar"])
    assert not torch.equal(starts["rebar"], parameters(prepare(experiment, TASK, 1)))


def test_an_estimator_begins_with_the_pre_trained_policy(experiment: Experiment) -> None:
    """It may copy the policy, as one that lags behind does."""
    copies: list[torch.Tensor] = []
    starts: list[torch.Tensor] = []
    run = Run(experiment, TASK, "rloo", 0)
    run.method.initial_state = lambda policy, rng: copies.append(bias(policy)) or {}  # type: ignore[method-assign, assignment, func-returns-value]

    def bias(policy: Any) -> torch.Tensor:
        return policy.output.bias.detach().clone()  # type: ignore[no-any-return]

    class Prepared(Phases):
        def restored(self, make: Any) -> Any:
            return run

    def keep(done: int, session: Session) -> None:
        starts.append(bias(session.policy))

    train(experiment, TASK, "rloo", 0, at_batch=keep, phases=Prepared())
    assert torch.equal(copies[-1], starts[0])
    assert not torch.equal(starts[0], torch.zeros_like(starts[0]))


def test_the_same_run_gives_the_same_numbers(experiment: Experiment) -> None:
    first, second = (train(experiment, TASK, "relax", 3) for _ in range(2))
    assert first["curves"]["metrics"] == second["curves"]["metrics"]
    assert first["final"] == second["final"]


def test_curves_hold_every_batch_and_count_every_evaluation(experiment: Experiment) -> None:
    payload = train(experiment, TASK, "rebar", 0)
    curves = payload["curves"]
    assert curves["step"] == list(range(8))
    # One hard and one relaxed evaluation a sequence; every eighth batch tries two temperatures.
    assert curves["reward_evals"][:7] == [64 * (i + 1) for i in range(7)]
    assert curves["reward_evals"][7] == 64 * 8 + 2 * 32
    goodness, tv = curves["metrics"]["goodness"], curves["metrics"]["tv"]
    assert all(0 <= value <= 1 for value in goodness)
    assert [value is not None for value in tv] == [False, False, False, True] * 2
    assert payload["info"]["meter_fault"] == ""


def test_the_papers_quantity_is_the_variance_of_the_output_bias_of_token_x(
    experiment: Experiment,
) -> None:
    session = prepare(experiment, TASK, 0)
    method, rng = make("reinforce"), torch.Generator().manual_seed(0)
    with Tape(session.policy) as tape:
        surrogate = method.surrogate(
            session.policy, session.reward, 16, rng, method.initial_state(session.policy, rng)
        )
    found = tape.differentiate(surrogate, retain_graph=True)
    bias = session.policy.output.bias
    elements = torch.stack(
        [torch.autograd.grad(v, bias, retain_graph=True)[0][0] for v in surrogate.values]
    )
    metrics = step_metrics(found, surrogate, 1, session.task)
    assert metrics["bias_element_variance"] == pytest.approx(float(elements.var()), rel=1e-4)
    assert metrics["log_variance"] == pytest.approx(math.log(metrics["total_variance"]))


def test_a_group_is_quoted_per_sequence(experiment: Experiment) -> None:
    session = prepare(experiment, TASK, 0)
    method, rng = make("rloo"), torch.Generator().manual_seed(0)
    with Tape(session.policy) as tape:
        surrogate = method.surrogate(session.policy, session.reward, 8, rng, {})
    found = tape.differentiate(surrogate)
    one = step_metrics(found, surrogate, 1, session.task)
    eight = step_metrics(found, surrogate, 8, session.task)
    for name in ("total_variance", "bias_element_variance"):
        assert eight[name] == pytest.approx(8 * one[name])


def test_the_reference_is_rloos_own_run(experiment: Experiment) -> None:
    payload, state = reference(experiment, TASK, 0)
    own = train(experiment, TASK, "rloo", 0)
    assert payload["final"] == own["final"]
    assert payload["snapshot_steps"] == [0, 1, 2, 3, 4, 5, 6, 8] == snapshot_steps(8)
    assert [s["step"] for s in state["snapshots"]] == [0, 1, 2, 3, 4, 5, 6, 8]
    assert payload["info"]["hard_evals"] == own["info"]["hard_evals"] == 8 * 32


def test_snapshots_are_nine_where_there_are_batches_enough() -> None:
    assert snapshot_steps(64) == [0, 4, 8, 16, 24, 32, 40, 48, 64]
    assert snapshot_steps(1) == [0, 1]  # a batch is measured once
    assert [halfway([{"step": s} for s in snapshot_steps(n)])["step"] for n in (64, 8, 1)] == [
        *(32, 4, 0)
    ]


def test_a_snapshot_holds_the_optimisers_moments(experiment: Experiment) -> None:
    """Those of the adversarial batches: maximum likelihood has an optimiser of its own."""
    kept: dict[int, torch.optim.Optimizer] = {}

    def keep(done: int, session: Session) -> None:
        kept[done] = session.optimiser

    train(experiment, TASK, "rloo", 0, at_batch=keep)
    _, state = reference(experiment, TASK, 0)
    first, last = state["snapshots"][0]["optimiser"], state["snapshots"][-1]["optimiser"]
    assert first is None
    assert (last["step"], last["lr"], last["betas"], last["eps"]) == (8, 5e-3, (0.9, 0.999), 1e-8)
    own = kept[8].state_dict()["state"]
    for name in ("exp_avg", "exp_avg_sq"):
        for i, tensor in enumerate(last[name]):
            assert torch.equal(tensor, own[i][name])


def test_rows_in_adams_metric_begin_with_its_first_step(experiment: Experiment) -> None:
    _, state = reference(experiment, TASK, 0)
    rows = measure_at_snapshots(experiment, TASK, "rloo", 0, state)["snapshots"]
    assert math.isnan(rows[0]["adam_variance"])
    assert math.isnan(rows[0]["adam_gradient_norm"])
    moments, truth = state["snapshots"][-1]["optimiser"], state["snapshots"][-1]["gradient"]
    P = [1 / ((v.double() / (1 - 0.999**8)).sqrt() + 1e-8) for v in moments["exp_avg_sq"]]
    weighted = sum(float((p * g**2).sum()) for p, g in zip(P, truth, strict=True))
    assert rows[-1]["adam_gradient_norm"] == pytest.approx(math.sqrt(weighted))
    size = [float(p.min()) for p in P], [float(p.max()) for p in P]
    variance = rows[-1]["total_variance"]
    assert min(size[0]) * variance < rows[-1]["adam_variance"] < max(size[1]) * variance


def test_a_snapshot_says_how_much_rewards_differ(experiment: Experiment) -> None:
    """An untrained discriminator has about one value for all sequences."""
    without = replace(experiment.training, discriminator_pretrain_updates=0)
    _, state = reference(replace(experiment, training=without), TASK, 0)
    first, last = state["snapshots"][0], state["snapshots"][-1]
    assert first["reward_scale"] < 0.5 * last["reward_scale"] < 0.25
    stage = make_stage(experiment, TASK, 0)
    stage.load(last)
    spread = math.sqrt(exact(stage.policy, stage.reward).reward_variance)
    assert last["reward_std"] == pytest.approx(spread, rel=0.1)
    row = measure_at_snapshots(experiment, TASK, "rloo", 0, state)["snapshots"][-1]
    assert (row["reward_std"], row["reward_scale"]) == (last["reward_std"], last["reward_scale"])


def test_the_true_gradient_leaves_the_counters_alone(experiment: Experiment) -> None:
    session = prepare(experiment, "expressions-15", 0)
    found = true_gradient(session.policy, session.reward, 256, torch.Generator().manual_seed(0))
    assert found.noise > 0
    assert session.reward.hard_evals == session.reward.relaxed_evals == 0


def test_truncated_backpropagation_is_declared_and_measured_as_bias(
    experiment: Experiment,
) -> None:
    cut = replace(experiment, training=replace(experiment.training, truncation=1))
    found = {}
    for setting in (experiment, cut):
        _, state = reference(setting, TASK, 0)
        found[setting.training.truncation] = measure_at_snapshots(setting, TASK, "rloo", 0, state)
    assert found[0]["declared"]["unbiased"]
    assert not found[1]["declared"]["unbiased"]
    assert "cut every 1 step" in found[1]["declared"]["why_biased"]
    assert all(row["bias_low"] == 0 for row in found[0]["snapshots"])
    # Later gradients are small here, and lost in the noise of so few draws.
    assert all(row["bias_low"] > 0.05 for row in found[1]["snapshots"][:2])


def test_rollouts_are_a_setting_of_every_estimator(experiment: Experiment) -> None:
    rolled = replace(experiment, training=replace(experiment.training, batches=2, rollouts=2))
    for name in ("reinforce-ema", "rloo", "rebar", "relax"):
        payload = train(rolled, TASK, name, 0)
        # Two proper prefixes with two rollouts each, beside the sequence itself.
        assert payload["info"]["hard_evals"] == 2 * 32 * (1 + 2 * 2)


def test_a_snapshots_row_says_what_a_draw_costs(experiment: Experiment) -> None:
    _, state = reference(experiment, TASK, 0)
    row = measure_at_snapshots(experiment, TASK, "rebar", 0, state)["snapshots"][-1]
    assert row["hard_evals_per_draw"] == row["relaxed_evals_per_draw"] == 1
    # Sampling, the recorded pass, and the relaxed trajectory: three times T = 3 steps.
    assert row["policy_steps_per_draw"] == 9
    assert row["evaluations_at_one"] == row["evaluations_in_limit"] == 2.25
    assert row["variance_low"] < row["total_variance"] < row["variance_high"]
    assert sum(row["by_tensor"].values()) == pytest.approx(row["total_variance"], rel=1e-3)
    assert row["untrained_variance"] > 0


def test_evaluations_that_adapting_makes_are_counted(experiment: Experiment) -> None:
    """REBAR compares three temperatures every eight batches: two evaluations a draw more."""
    _, state = reference(experiment, TASK, 0)
    rows = measure_at_snapshots(experiment, TASK, "rebar", 0, state)["snapshots"]
    assert sum(row["adapt_evals"] for row in rows) == 2.25 * 16 * 32


def test_a_step_is_timed_whole_and_by_phase(experiment: Experiment) -> None:
    _, state = reference(experiment, TASK, 0)
    for name in ("rebar", "rloo"):
        row = time_step(experiment, TASK, name, halfway(state["snapshots"]))
        assert row["seconds_per_step"] > 0
        assert row["phases"]["backward"] > 0


def test_every_timing_round_has_an_order_of_its_own_and_times_every_pair_once() -> None:
    pairs = [(TASK, str(number)) for number in range(9)]
    orders = [shuffled(pairs, number) for number in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert all(sorted(order) == pairs for order in orders)

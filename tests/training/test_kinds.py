"""Training beyond SeqGAN: a fixed reward, and an autoencoder whose draws are given data."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

from estbench import tasks
from estbench.config import presets
from estbench.config.experiment import (
    Experiment,
    SnapshotSettings,
    TimingSettings,
    TrainingSettings,
)
from estbench.core.errors import UserError
from estbench.meter.snapshots import halfway, measure_at_snapshots
from estbench.meter.timing import time_step
from estbench.store.schema import check_payload, finite
from estbench.tasks.digits import MEASURED, TRAINING, DigitsStage, DigitsTask
from estbench.tasks.fit import check_names
from estbench.tasks.stage import make_stage
from estbench.training import loop
from estbench.training.loop import VARIANCE_EVERY, train
from estbench.training.reference import reference
from estbench.training.session import prepare

DIGITS = "digits-categorical"

needs_digits = pytest.mark.skipif(find_spec("sklearn") is None, reason="scikit-learn is missing")


def experiment(*names: str, **training: float) -> Experiment:
    settings = {"batches": 8, "batch_size": 16, "evaluate_every": 4, "evaluation_samples": 32}
    settings |= {"generator_learning_rate": 3e-3, "decoder_learning_rate": 1e-2} | training
    return Experiment(
        name="tiny",
        tasks=names,
        estimators=("rloo", "rebar"),
        seeds=(0,),
        training=TrainingSettings(**settings),  # type: ignore[arg-type]
        snapshots=SnapshotSettings(sequences=512, adaptation_batches=2, reference_sequences=1024),
        timing=TimingSettings(rounds=1, warmup=1),
    )


class TestLanguageModel:
    task = "arithmetic-tiny"

    def setting(self, **training: float) -> Experiment:
        return experiment(self.task, pretrain_learning_rate=3e-3, **training)

    def test_a_run_holds_the_metrics_that_the_task_declares(self) -> None:
        payload = train(self.setting(batches=4), self.task, "rloo-4", 0)
        final, curves = payload["final"], payload["curves"]
        assert set(tasks.info(self.task).metrics) <= set(final)
        assert payload["info"]["meter_fault"] == ""
        assert payload["start"]["success"] >= 0.3
        # 16 answers of one to three tokens; neither measuring nor evaluation counts.
        assert curves["reward_evals"] == [16, 32, 48, 64]
        assert all(16 <= tokens <= 48 for tokens in curves["metrics"]["tokens"])
        assert all("=" in answer for answer in payload["samples"])

    def test_older_policies_are_drawn_from_at_the_snapshots(self) -> None:
        setting = self.setting(batches=16)
        _, state = reference(setting, self.task, 0)
        names = ("rloo", "importance-sequence@4", "reinforce-standardised-16")
        found = {n: measure_at_snapshots(setting, self.task, n, 0, state) for n in names}
        assert all(
            not r["info"]["meter_fault"] for rows in found.values() for r in rows["snapshots"]
        )
        shares = [r["effective_sample_share"] for r in found[names[1]]["snapshots"]]
        assert shares[0] == pytest.approx(1)
        assert 0 < min(shares) < 0.999
        for row in found["rloo"]["snapshots"]:
            assert 8 <= row["tokens_per_draw"] <= 24
            assert 0 <= row["equal_groups"] <= 1
            assert row["between_variance"] >= 0
            assert "effective_sample_share" not in row
        assert time_step(setting, self.task, names[2], halfway(state["snapshots"]))


@needs_digits
class TestAutoencoder:
    def test_a_run_holds_the_bound_and_its_parts(self) -> None:
        payload = train(experiment(DIGITS, batches=40), DIGITS, "rebar", 0)
        final, start = payload["final"], payload["start"]
        assert set(tasks.info(DIGITS).metrics) <= set(final)
        assert final["elbo_train"] == pytest.approx(final["reconstruction"] - final["rate"])
        assert set(start) == set(tasks.info(DIGITS).metrics)
        assert final["elbo_train"] > start["elbo_train"] + 0.5
        assert payload["info"]["meter_fault"] == ""
        assert payload["temperatures"] == []
        picture = payload["samples"][0].split("/")
        assert [len(row) for row in picture] == [8] * 8

    def test_variance_is_measured_now_and_then_and_costs_no_evaluations(self) -> None:
        payload = train(experiment(DIGITS), DIGITS, "reinforce", 0)
        log_variance = payload["curves"]["metrics"]["log_variance"]
        measured = [batch for batch, value in enumerate(log_variance) if value is not None]
        assert measured == list(range(0, 8, VARIANCE_EVERY))
        assert payload["curves"]["reward_evals"] == [16 * (batch + 1) for batch in range(8)]

    def test_measuring_leaves_training_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        measured = train(experiment(DIGITS), DIGITS, "relax", 0)
        monkeypatch.setattr(loop, "VARIANCE_EVERY", 10**9)
        without = train(experiment(DIGITS), DIGITS, "relax", 0)
        for name in ("elbo_train", "elbo_test", "reward_mean"):
            assert measured["curves"]["metrics"][name] == without["curves"]["metrics"][name]

    def test_the_same_run_gives_the_same_numbers(self) -> None:
        first, second = (train(experiment(DIGITS), DIGITS, "relax-rebar", 3) for _ in range(2))
        assert first["curves"]["metrics"] == second["curves"]["metrics"]
        assert first["samples"] == second["samples"]

    def test_estimators_of_one_seed_start_alike_and_read_the_same_images(self) -> None:
        first, second, other = (prepare(experiment(DIGITS), DIGITS, seed) for seed in (0, 0, 1))
        assert torch.equal(first.policy.logits.weight, second.policy.logits.weight)  # type: ignore[union-attr]
        for session in (first, second, other):
            session.stage.next_batch(16, torch.Generator().manual_seed(5))
        images = [s.policy.contexts.values for s in (first, second, other)]  # type: ignore[union-attr]
        assert torch.equal(images[0], images[1])
        assert not torch.equal(images[0], images[2])

    def test_snapshots_hold_encoder_and_decoder_and_all_estimators_meet_the_same_images(
        self,
    ) -> None:
        setting = experiment(DIGITS)
        payload, state = reference(setting, DIGITS, 0)
        assert payload["snapshot_steps"] == [0, 1, 2, 3, 4, 5, 6, 8]
        assert set(state["snapshots"][0]) >= {"policy", "decoder", "gradient", "noise"}
        stage = make_stage(setting, DIGITS, 0)
        assert isinstance(stage, DigitsStage)
        with stage.measured():
            assert torch.equal(stage.policy.contexts.values, stage.task.images[:MEASURED])
        found = {n: measure_at_snapshots(setting, DIGITS, n, 0, state) for n in ("rloo", "rebar")}
        for rows in found.values():
            assert all(row["info"]["meter_fault"] == "" for row in rows["snapshots"])
            assert all(row["bias_low"] == 0 for row in rows["snapshots"])
            assert all(row["total_variance"] > 0 for row in rows["snapshots"])
        # 512 sequences: 16 of each image, or two groups of eight.
        assert [r["draws"] for r in found["rebar"]["snapshots"]] == [512] * 8
        assert [r["draws"] for r in found["rloo"]["snapshots"]] == [64] * 8
        timed = time_step(setting, DIGITS, "rebar", halfway(state["snapshots"]))
        assert timed["seconds_per_step"] > 0

    def test_images_are_split_by_the_seed(self) -> None:
        one, again, other = (DigitsTask(tasks.info("digits"), seed, 10_000) for seed in (0, 0, 1))
        assert one.images.shape == (TRAINING, 64)
        assert one.unseen.shape == (1797 - TRAINING, 64)
        assert set(one.images.unique().tolist()) == {0.0, 1.0}
        assert torch.equal(one.images, again.images)
        assert not torch.equal(one.images, other.images)
        both = torch.cat([one.images, one.unseen]).sum()
        assert both == torch.cat([other.images, other.unseen]).sum()
        assert len(DigitsTask(tasks.info("digits"), 0, 100).images) == 100

    def test_a_batch_holds_no_image_twice(self) -> None:
        stage = make_stage(experiment(DIGITS, data_size=40), DIGITS, 0)
        assert isinstance(stage, DigitsStage)
        rng = torch.Generator().manual_seed(0)
        for draws in (16, 40, 50):
            stage.next_batch(draws, rng)
            contexts = stage.policy.contexts
            assert contexts.count == draws
        stage.next_batch(40, rng)  # all there are, in another order
        assert torch.equal(contexts.values.sum(dim=0), stage.task.images.sum(dim=0))
        assert not torch.equal(contexts.values, stage.task.images)


def test_a_missing_package_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"digits needs scikit-learn: pip install 'estbench\[dig"):
        check_names(presets.preset("digits"))


class TestBernoulli:
    def test_a_run_is_exact_and_its_snapshots_are_enumerated(self) -> None:
        setting = experiment("bernoullis")
        payload, state = reference(setting, "bernoullis", 0)
        assert set(payload["final"]) >= set(tasks.info("bernoullis").metrics)
        assert all(len(sample) == 6 for sample in payload["samples"])
        assert all(snapshot["noise"] == 0 for snapshot in state["snapshots"])
        found = measure_at_snapshots(setting, "bernoullis", "rebar", 0, state)
        assert all(row["bias_low"] == 0 for row in found["snapshots"])
        (middle,) = (row for row in found["snapshots"] if "by_step" in row)
        assert middle["fraction"] == 0.5
        assert len(middle["by_step"]["parts"]) == 6
        timed = time_step(setting, "bernoullis", "rebar", halfway(state["snapshots"]))
        assert timed["seconds_per_step"] > 0

    def test_steps_are_followed_where_that_is_asked_for(self) -> None:
        setting = experiment("bernoullis")
        few = replace(
            setting.snapshots, progress=2, progress_batches=(16, 32), progress_fractions=(0.0, 1.0)
        )
        setting = replace(setting, snapshots=few)
        _, state = reference(setting, "bernoullis", 0)
        assert state["snapshots"][0]["optimiser"] is None
        assert state["snapshots"][-1]["optimiser"]["step"] == setting.training.batches
        found = measure_at_snapshots(setting, "bernoullis", "rloo", 0, state)
        check_payload("snapshots", finite(found))
        assert [bool(row.get("progress")) for row in found["snapshots"]] == [
            True,
            *[False] * 6,
            True,
        ]
        rows = found["snapshots"][-1]["progress"]
        assert {(row["optimiser"], row["batch"]) for row in rows} == {
            (optimiser, batch) for optimiser in ("sgd", "adam") for batch in (16, 32)
        }

    def test_rebar_goes_where_reinforce_only_wanders(self) -> None:
        """Figure 1 of Grathwohl et al. 2018, in brief; a baseline does as well as a network."""
        setting = experiment("bernoulli", batches=100, generator_learning_rate=0.05)
        theta = {
            name: [train(setting, "bernoulli", name, s)["final"]["theta"] for s in range(3)]
            for name in ("reinforce", "rebar", "rloo")
        }
        spread = {name: max(values) - min(values) for name, values in theta.items()}
        assert max(theta["rebar"]) < 0.4
        assert max(theta["rloo"]) < 0.4
        assert spread["rebar"] < spread["reinforce"]

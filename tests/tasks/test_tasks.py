"""Tasks: the registry, their data, and metrics that match what they declare."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from estbench import tasks
from estbench.config.experiment import TrainingSettings
from estbench.core.errors import UserError
from estbench.models.lstm_generator import Generator
from estbench.tasks.base import Task
from estbench.tasks.declaring import TaskInfo
from estbench.tasks.estimates import copied, cross_entropy, log_probs_in_chunks
from estbench.tasks.expressions import goodness
from estbench.tasks.oracle import OracleTask

from .hand_made import all_strings, string_probabilities


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# What makes a large task small, and gives one without data of its own some.
SMALL: dict[str, dict[str, Any]] = {
    "oracle": {"vocabulary": 60, "length": 5, "quality_sequences": 300},
    "text": {"data": "pydoc"},
}

SEQUENCES = [name for name in tasks.names() if tasks.info(name).kind == "adversarial"]
"""Tasks whose data are sequences, and whose policy is a generator of them."""


def generator_for(task: Task) -> Generator:
    return Generator(task.vocabulary, task.length).initialise(*task.initialisation, rng())


@pytest.mark.parametrize("name", SEQUENCES)
def test_a_task_measures_exactly_the_metrics_it_declares(name: str) -> None:
    task = tasks.make(name, seed=0, data_size=100, **SMALL.get(name, {}))
    policy = generator_for(task)
    light = task.quality(policy, policy.sample(32, rng()), rng())
    full = task.full_quality(policy, rng())
    declared = tasks.info(name)
    assert set(light | full) == set(declared.metrics)
    assert declared.primary_metric in light | full
    assert all(isinstance(value, float) for value in (light | full).values())


@pytest.mark.parametrize("name", SEQUENCES)
def test_data_follow_from_the_seed(name: str) -> None:
    task, again, other = (tasks.make(name, seed, 200, **SMALL.get(name, {})) for seed in (0, 0, 1))
    longer = tasks.make(name, 0, 300, **SMALL.get(name, {}))
    assert torch.equal(task.train, again.train)
    assert torch.equal(task.heldout, again.heldout)
    assert not torch.equal(task.train, other.train)
    assert torch.equal(task.train, longer.train[:200])
    assert not torch.equal(task.train, task.heldout[:200])
    assert task.train.shape == (200, task.length)
    assert task.train.dtype == torch.int64
    assert len(task.tokens) == task.vocabulary


def test_listing_the_tasks_does_not_load_torch() -> None:
    code = (
        "import sys; from estbench import tasks; tasks.info(tasks.names()[0]); print(*sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torch" not in out.stdout.split()


def test_an_unknown_task_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match="did you mean 'expressions-15'"):
        tasks.make("expressions-16", 0)


def test_goodness_counts_alternating_windows() -> None:
    strings = all_strings(6, 4)
    for row in strings.tolist():
        kinds = ["x" if v == 0 else "op" if v < 5 else "_" for v in row]
        windows = [kinds[t : t + 3] for t in range(2)]
        count = sum(w in (["x", "op", "x"], ["op", "x", "op"]) for w in windows)
        assert goodness(torch.tensor([row])) == count


def test_goodness_of_uniform_tokens_and_of_the_data() -> None:
    assert goodness(all_strings(5, 3)) == pytest.approx(0.16)
    tokens = torch.randint(5, (50_000, 15), generator=rng())
    assert goodness(tokens) == pytest.approx(2.08, abs=0.03)
    for length in (3, 15):
        data = tasks.make(f"expressions-{length}", 0, 50).train
        assert goodness(data) == length - 2


def test_expressions_read_as_written() -> None:
    task = tasks.make("expressions-3", 0, 10)
    assert task.format(torch.tensor([[0, 1, 0], [0, 4, 2]])) == ["x+x", "x/-"]
    padded = tasks.make("expressions-padded", 0, 10)
    assert padded.format(torch.tensor([[0] + [5] * 14])) == ["x" + "_" * 14]


def test_a_samples_share_of_valid_strings_estimates_the_exact_probability() -> None:
    task = tasks.make("expressions-3", 0, 10)
    policy = generator_for(task)
    exact = task.full_quality(policy, rng())["p_valid"]
    sampled = task.quality(policy, policy.sample(20_000, rng(1)), rng())["p_valid"]
    assert sampled == pytest.approx(exact, abs=4 * (exact / 20_000) ** 0.5)


class TestOracle:
    small = TaskInfo("oracle-tiny", "", 3, 3, "nll_oracle", {})

    def test_its_entropy_is_that_of_all_strings(self) -> None:
        task = OracleTask(self.small, seed=0, data_size=10)
        p = string_probabilities(task.oracle, all_strings(3, 3))
        exact = -(p * p.log()).sum().item() / 3
        assert abs(task.oracle_entropy - exact) < 4 * task.oracle_entropy_error

    def test_both_divergences_are_those_of_all_strings(self) -> None:
        task = OracleTask(self.small, seed=0, data_size=10)
        policy = generator_for(task)
        strings = all_strings(3, 3)
        p, q = (string_probabilities(x, strings) for x in (task.oracle, policy))
        full = task.full_quality(policy, rng())
        assert full["nll_oracle"] == pytest.approx(-(q * p.log()).sum().item() / 3, rel=0.05)
        assert full["nll_gen"] == pytest.approx(-(p * q.log()).sum().item() / 3, rel=0.05)
        assert full["kl_reverse"] == pytest.approx((q * (q / p).log()).sum().item() / 3, rel=0.05)
        assert full["kl_forward"] == pytest.approx((p * (p / q).log()).sum().item() / 3, rel=0.05)

    def test_the_oracle_itself_scores_its_entropy_and_no_divergence(self) -> None:
        task = tasks.make("oracle-small", 0, 10)
        assert isinstance(task, OracleTask)
        full = task.full_quality(task.oracle, rng())
        assert full["kl_reverse"] == pytest.approx(0, abs=1e-6)
        assert full["kl_forward"] == pytest.approx(0, abs=1e-6)
        assert full["nll_gen"] == pytest.approx(task.oracle_entropy)
        assert full["nll_oracle"] == pytest.approx(task.oracle_entropy, abs=0.03)

    def test_an_untrained_generator_has_the_entropy_of_uniform_tokens(self) -> None:
        task = tasks.make("oracle-small", 0, 10)
        light = task.quality(generator_for(task), task.heldout[:64], rng())
        assert light["entropy"] == pytest.approx(torch.tensor(50.0).log().item(), abs=0.05)

    def test_seeds_share_the_oracle_and_the_option_draws_another(self) -> None:
        one, two = (tasks.make("oracle-small", seed, 10) for seed in (0, 1))
        other = tasks.make("oracle-small", 0, 10, oracle_seed=1)
        assert isinstance(one, OracleTask)
        assert isinstance(two, OracleTask)
        assert isinstance(other, OracleTask)
        pairs = zip(one.oracle.parameters(), two.oracle.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        assert other.oracle_entropy != one.oracle_entropy

    def test_normal_oracles_have_the_published_entropy(self) -> None:
        # Reference: 2.14 nats per token over fresh oracles at V = 50, T = 20; one varies by .2.
        entropies = []
        for seed in range(8):
            oracle = Generator(50, 20).initialise("normal", 1.0, rng(seed))
            log_p = log_probs_in_chunks(oracle, oracle.sample(200, rng(seed)))
            entropies.append(cross_entropy(log_p, log_p).mean().item())
        assert sum(entropies) / 8 == pytest.approx(2.14, abs=0.2)

    def test_any_size_has_an_oracle_of_its_own(self) -> None:
        task = tasks.make("oracle", 0, 40, **SMALL["oracle"], oracle_width=16)
        assert (task.vocabulary, task.length, task.train.shape) == (60, 5, (40, 5))
        assert isinstance(task, OracleTask)
        assert task.oracle.hidden == task.oracle.input.in_features == 16
        full = task.full_quality(generator_for(task), rng())
        assert full["nll_sum"] == full["nll_oracle"] + full["nll_gen"]
        assert full["oracle_entropy"] == task.oracle_entropy

    def test_copies_of_the_training_data_are_counted(self) -> None:
        task = tasks.make("oracle", 0, 40, **SMALL["oracle"])
        assert copied(task.train[:10], task.train) == 1.0
        mixed = torch.cat([task.train[:10], (task.train[:10] + 1) % 60])
        assert copied(mixed, task.train) == 0.5

    def test_numbers_out_of_range_are_refused_before_anything_is_made(self) -> None:
        training = TrainingSettings(vocabulary=1)
        with pytest.raises(UserError, match="vocabulary = 1: an oracle's must be from 2"):
            tasks.check_options("oracle", training)
        with pytest.raises(UserError, match="cannot read none"):
            tasks.check_options("oracle", TrainingSettings(oracle_weights="none"))


class TestOptions:
    def test_a_task_takes_its_own_and_no_other(self) -> None:
        settings = TrainingSettings(vocabulary=70, length=9, data="x")
        assert tasks.options("expressions-3", settings) == {}
        assert tasks.size("expressions-3", settings) == tasks.Size(5, 3)
        assert tasks.size("expressions-padded", settings) == tasks.Size(6, 15, 5)
        assert tasks.size("oracle", settings) == tasks.Size(70, 9)
        assert tasks.size("oracle", TrainingSettings()) == tasks.Size(5000, 20)
        assert "data" not in tasks.options("oracle", settings)

    @pytest.mark.parametrize("name", SEQUENCES)
    def test_sizes_are_those_of_the_task_that_is_made(self, name: str) -> None:
        settings = TrainingSettings(**SMALL.get(name, {}))
        made = tasks.make(name, 0, 20, **tasks.options(name, settings))
        assert tasks.size(name, settings) == tasks.Size(made.vocabulary, made.length, made.end)

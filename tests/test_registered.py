"""Everything that is registered keeps the contract of its kind; a new member needs no new test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from estbench import estimators, tasks
from estbench.cli import main
from estbench.config import presets
from estbench.core import plugins
from estbench.core.errors import UserError
from estbench.core.registry import (
    ESTIMATORS,
    POLICIES,
    REGISTRIES,
    REWARDS,
    TASKS,
    Registry,
    catalogue,
)
from estbench.meter.gradients import Tape
from estbench.models.enumeration import enumerate_sequences
from estbench.models.policy import Policy
from estbench.models.reward import Discriminator, Reward
from estbench.store.keys import key
from estbench.tasks.fit import check_names
from estbench.training.loop import train

V, T = 4, 3
SMALL = {
    "batches": 2,
    "batch_size": 16,
    "data_size": 64,
    "pretrain_epochs": 1,
    "discriminator_updates": 2,
    "discriminator_batch_size": 8,
    "evaluate_every": 2,
}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def policy_named(name: str, end: int | None = None) -> Policy:
    policy: Policy = POLICIES[name](V, T, end=end).double()
    return policy.initialise("normal", 0.6, rng(1))


def discriminator_named(name: str) -> Discriminator:
    made: Discriminator = REWARDS[name].of(V, T)
    return made.initialise(rng(2))


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_the_catalogue_knows_all_of_estbenchs_own(registry: Registry) -> None:
    rows = catalogue()[registry.group.partition(".")[2]]
    assert [row["name"] for row in rows] == registry.own_names()
    assert all(row["summary"] for row in rows)


@pytest.mark.parametrize("name", TASKS.own_names())
def test_the_catalogue_says_of_a_task_what_its_class_declares(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = TASKS[name].info
    monkeypatch.setattr(Registry, "loaded", False)
    assert tasks.info(name) == declared


def test_a_partner_has_the_same_baseline_and_nothing_besides() -> None:
    for name in ESTIMATORS.own_names():
        partner = estimators.partner(name)
        assert not partner or estimators.info(partner).plain
    assert estimators.partner("rebar") == "reinforce-constant"
    assert estimators.partner("rebar-per-tensor") == "reinforce-constant"
    assert estimators.partner("relax-critic") == "reinforce-critic"
    assert estimators.partner("double-cv-16") == "rloo-16"
    assert estimators.partner("unordered-set-4") == "rloo-4"
    assert estimators.partner("rloo-16") == estimators.partner("all-actions") == ""


@pytest.mark.parametrize("end", [None, V - 1])
@pytest.mark.parametrize("name", POLICIES.own_names())
def test_a_policys_sequences_have_probabilities_that_add_up_to_one(
    name: str, end: int | None
) -> None:
    policy = policy_named(name, end)
    tokens = enumerate_sequences(V, T)
    log_probs = policy.log_probs(tokens)
    total = log_probs.gather(2, tokens.unsqueeze(2)).sum(dim=(1, 2)).exp().sum()
    torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("name", POLICIES.own_names())
def test_a_policys_steps_are_its_trace_and_take_relaxed_tokens(name: str) -> None:
    policy, tokens = policy_named(name), torch.tensor([[0, 1, 2], [3, 3, 1]])
    state, previous, rows = policy.initial_state(2), None, []
    hot = torch.nn.functional.one_hot(tokens, V).double()
    for t in range(T):
        log_probs, state = policy.step(previous, state)
        previous = hot[:, t] if t % 2 else tokens[:, t]
        rows.append(log_probs)
    torch.testing.assert_close(torch.stack(rows, dim=1), policy.log_probs(tokens))


@pytest.mark.parametrize("name", POLICIES.own_names())
def test_a_policys_rollouts_continue_each_prefix(name: str) -> None:
    policy = policy_named(name)
    tokens = policy.sample(5, rng())
    u = torch.rand(5, 2, T - 1, T, dtype=torch.float64, generator=rng(4))
    completed = policy.continue_from(tokens, u)
    assert completed.shape == (5, T - 1, 2, T)
    for t in range(T - 1):
        assert (completed[:, t, :, : t + 1] == tokens[:, None, : t + 1]).all()


@pytest.mark.parametrize("estimator", ["rloo", "rebar", "seqgan-rollouts"])
@pytest.mark.parametrize("name", POLICIES.own_names())
def test_the_meter_takes_a_policys_draws_apart(name: str, estimator: str) -> None:
    policy, method = policy_named(name), estimators.make(estimator)
    reward = Reward(discriminator_named("lstm").double())
    state = method.initial_state(policy, rng(5))
    with Tape(policy) as tape:
        surrogate = method.surrogate(policy, reward, 4, rng(6), state)
    assert tape.differentiate(surrogate).fault is None


@pytest.mark.parametrize("name", REWARDS.own_names())
def test_a_discriminator_reads_one_hots_as_tokens_and_rows_apart(name: str) -> None:
    judge = discriminator_named(name)
    tokens = enumerate_sequences(V, T)[::7]
    logits = judge(tokens)
    assert logits.shape == (len(tokens),)
    torch.testing.assert_close(judge(torch.nn.functional.one_hot(tokens, V).float()), logits)
    torch.testing.assert_close(judge(tokens[:3]), logits[:3])


@pytest.mark.parametrize("name", REWARDS.own_names())
def test_a_discriminator_is_differentiable_twice_in_relaxed_tokens(name: str) -> None:
    weights = torch.rand(3, T, V, generator=rng(7)).softmax(dim=-1).requires_grad_()
    logits = discriminator_named(name)(weights)
    (slope,) = torch.autograd.grad(logits.sigmoid().sum(), weights, create_graph=True)
    (second,) = torch.autograd.grad(slope.square().sum(), weights)
    assert slope.abs().max() > 0
    assert second.isfinite().all()


@pytest.mark.parametrize("name", POLICIES.own_names())
@pytest.mark.parametrize("estimator", ["relax", "rloo-8"])
def test_a_generator_is_chosen_by_name_and_trains(name: str, estimator: str) -> None:
    training = {**SMALL, "generator": name}
    experiment = presets.preset("smoke", {"tasks": ["expressions-3"], "training": training})
    found = train(experiment, "expressions-3", estimator, 0)
    assert found["info"]["meter_fault"] == ""
    assert found["final"]["total_variance"] > 0


@pytest.mark.parametrize("key", ["generator", "discriminator"])
def test_a_part_that_does_not_exist_is_named(key: str) -> None:
    experiment = presets.preset("smoke", {"training": {key: "gruu"}})
    with pytest.raises(UserError, match=f"unknown {key} 'gruu'"):
        check_names(experiment)


OWN = """
import dataclasses
import torch
import estbench


@estbench.register
class Bag(estbench.Discriminator):
    info = estbench.Declared("bag", "counts of tokens")

    def __init__(self, vocabulary, length):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(vocabulary))

    def initialise(self, rng):
        self.weight.data.normal_(generator=rng)
        return self

    def forward(self, sequences):
        if not sequences.is_floating_point():
            sequences = torch.nn.functional.one_hot(sequences, len(self.weight)).float()
        return (sequences @ self.weight).sum(dim=1)


@dataclasses.dataclass(frozen=True)
class Settings(estbench.TrainingSettings):
    share: float = 0.5


@estbench.register
class Coins(estbench.Task):
    settings = Settings
    info = estbench.TaskInfo(
        "coins", "coins", 2, 3, "zeros", {"zeros": estbench.MetricInfo("zeros", "", "higher")},
        options=("share",),
    )

    def __init__(self, info, seed, data_size, share):
        self.info, self.share = info, share
"""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Path]:
    for registry in REGISTRIES:
        registry.load()
    before = [(registry, dict(registry.entries)) for registry in REGISTRIES]
    path = tmp_path / "own.py"
    path.write_text(OWN)
    plugins.load(path)
    yield path
    plugins._LOADED.pop(str(path.resolve()))
    for registry, entries in before:
        registry.entries.clear()
        registry.entries.update(entries)


def test_a_plugin_without_estimators_leaves_nothing_to_check(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "--plugin", str(own)]) == 2
    assert "own.py registers no estimator: name the estimators" in capsys.readouterr().err


def test_a_plugins_discriminator_trains_and_is_part_of_the_key(own: Path) -> None:
    def chosen(name: str) -> Any:
        training = {**SMALL, "discriminator": name}
        return presets.preset("smoke", {"tasks": ["expressions-3"], "training": training})

    found = train(chosen("bag"), "expressions-3", "rebar", 0)
    assert found["final"]["discriminator_loss"] > 0
    before = key("run", chosen("bag"), "expressions-3", "rloo", 0)
    assert before == key("run", chosen("bag"), "expressions-3", "rloo", 0)
    own.write_text(OWN + "# changed\n")
    plugins.load(own)
    assert before != key("run", chosen("bag"), "expressions-3", "rloo", 0)
    assert plugins.source_of("discriminator", "cnn") == ""


def test_a_task_declares_settings_of_its_own(own: Path) -> None:
    def given(**settings: Any) -> Any:
        return presets.preset("smoke", {"tasks": ["coins"], "per_task": {"coins": settings}})

    made = given(share=0.25, batches=3)
    settings = made.training_for("coins")
    assert (settings.share, settings.batches) == (0.25, 3)
    assert tasks.make("coins", 0, 10, **tasks.options("coins", settings)).share == 0.25
    keys = {key("run", given(share=share), "coins", "rloo", 0) for share in (0.25, 0.25, 0.5)}
    assert len(keys) == 2
    assert key("run", given(), "coins", "rloo", 0) in keys
    with pytest.raises(UserError, match=r"per_task.coins.sharre.*did you mean .*share"):
        given(sharre=1)
    with pytest.raises(UserError, match=r"\[per_task.coins\] share = 'x': must be a number"):
        given(share="x")

"""A run that is interrupted anywhere and taken up again has the numbers of one that was not."""

from __future__ import annotations

import io
import math
import os
import re
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from training.interrupting import HEAD, Killed, bits, dying, experiment, in_pieces, open_checkpoint

import estbench
from estbench import estimators
from estbench.core import plugins
from estbench.core.registry import ESTIMATORS
from estbench.core.seeding import stream
from estbench.meter.step import measured_step
from estbench.runner.worker import state_file
from estbench.store import StorageError
from estbench.store.checkpoints import read_checkpoint, write_checkpoint
from estbench.tasks.stage import Stage, make_stage
from estbench.training import resume
from estbench.training.loop import train
from estbench.training.reference import reference
from estbench.training.resume import Phases
from estbench.training.state_dict import MismatchError, load_state_dict, state_dict

TASK = "expressions-3"
CNN = {"discriminator": "cnn", "rollouts": 2}
BOUNDARIES = 16  # 2 epochs, 2 pools, the start, 3 batches of 2 pools, 2 temperatures


def interruptible(
    task: str, estimator: str, changes: dict[str, Any], path: Path, monkeypatch: Any, stride: int
) -> int:
    """Check one run against itself in pieces; return how often it died."""
    compute = partial(train, experiment(task, **changes), task, estimator, 0)
    whole = compute()
    assert whole["info"]["meter_fault"] == ""
    found, deaths = in_pieces(compute, path, monkeypatch, stride)
    assert bits(found) == bits(whole)
    return deaths


@pytest.mark.parametrize(
    "estimator",
    [
        "relax-rebar",
        "reinforce-critic",
        "relax-several",
        "rebar-per-tensor",
        "seqgan-rollouts-lagged",
        "muprop",
        "evolution-strategies",
        "relax-published",
        "rodeo",
    ],
)
def test_seqgan_dies_at_every_boundary_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, estimator: str
) -> None:
    group = estimators.info(estimator).group
    changes = {"batch_size": group} if group > 8 else {}
    assert interruptible(TASK, estimator, changes, tmp_path / "c.pt", monkeypatch, 1) == BOUNDARIES


@pytest.mark.parametrize(
    ("task", "estimator", "changes", "stride"),
    [
        (TASK, "relax-critic", CNN, 3),
        ("expressions-padded", "relax", {"truncation": 4}, 2),
        ("oracle-small", "rebar", {"quality_sequences": 32, "evaluation_samples": 8}, 3),
        ("bernoulli", "arm", {}, 1),
        ("bernoullis", "relax-critic", {}, 1),
        ("arithmetic-tiny", "ppo-clip@2", {"batches": 6, "batch_size": 16, "beta": 0.1}, 1),
        pytest.param(
            "digits-categorical",
            "relax-rebar",
            {"batches": 6},
            1,
            marks=pytest.mark.skipif(find_spec("sklearn") is None, reason="needs scikit-learn"),
        ),
    ],
)
def test_so_does_every_kind_of_task(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    task: str,
    estimator: str,
    changes: dict[str, Any],
    stride: int,
) -> None:
    assert interruptible(task, estimator, changes, tmp_path / "c.pt", monkeypatch, stride) >= 5


@pytest.mark.parametrize(
    ("task", "estimator", "changes"),
    [
        (TASK, "relax", CNN),
        (TASK, "seqgan-rollouts-lagged", {}),
        ("oracle-small", "rebar", {"quality_sequences": 32, "evaluation_samples": 8}),
        ("arithmetic-tiny", "ppo-clip@2", {"batches": 6, "batch_size": 16, "beta": 0.1}),
    ],
)
def test_a_run_that_begins_with_anothers_pretraining_is_the_same_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    task: str,
    estimator: str,
    changes: dict[str, Any],
) -> None:
    def begun(name: str) -> resume.Checkpoint:
        start = {"start": tmp_path / "start.pt", "start_head": HEAD}
        return resume.Checkpoint(tmp_path / name, HEAD, every=math.inf, **start)

    tiny = experiment(task, **changes)
    whole = train(tiny, task, estimator, 0)
    monkeypatch.setattr(resume, "WORTH_S", 0.0)
    train(tiny, task, "rloo", 0, phases=begun("no checkpoints, nothing is left"))
    assert list(tmp_path.iterdir()) == []
    first = begun("rloo.pt")
    first.every = 1000.0
    train(tiny, task, "rloo", 0, phases=first)
    assert [path.name for path in tmp_path.iterdir()] == ["start.pt"]
    second = begun("other.pt")
    found = train(tiny, task, estimator, 0, phases=second)
    assert second.notes == []
    assert bits(found) == bits(whole)
    # What the second begins with is what was left, not what it has trained again.
    (tmp_path / "start.pt").write_bytes(b"damaged")
    third = begun("third.pt")
    assert bits(train(tiny, task, estimator, 0, phases=third)) == bits(whole)
    assert third.notes == ["a checkpoint was of no use, the run began anew: it is damaged"]


def test_text_of_the_users_own_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["a cat sat", "a dog ran", "the cat ran off", "the dog sat", "a cat ran"] * 12
    (tmp_path / "lines.txt").write_text("\n".join(lines))
    changes = {"data": str(tmp_path / "lines.txt"), "length": 6, "data_size": 40}
    changes |= {"quality_sequences": 16}
    deaths = interruptible("text", "rebar", changes, tmp_path / "c.pt", monkeypatch, 2)
    assert deaths == BOUNDARIES // 2


def test_an_estimator_of_the_users_own_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ESTIMATORS.load()
    monkeypatch.setattr(ESTIMATORS, "entries", dict(ESTIMATORS.entries))
    monkeypatch.setattr(plugins, "_LOADED", {})
    plugins.ensure([str(Path(__file__).parents[2] / "examples" / "own_estimator.py")])
    deaths = interruptible(TASK, "first-token", {}, tmp_path / "c.pt", monkeypatch, 2)
    assert deaths == BOUNDARIES // 2


@settings(
    max_examples=4,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(cuts=st.lists(st.integers(1, 12), min_size=1, max_size=3))
def test_wherever_it_dies(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, cuts: list[int]
) -> None:
    path = tmp_path_factory.mktemp("any") / "c.pt"
    compute = partial(train, experiment(TASK), TASK, "relax-rebar", 1)
    for cut in cuts:
        try:
            with dying(monkeypatch, cut):
                compute(phases=open_checkpoint(path))
        except Killed:
            pass
    assert bits(compute(phases=open_checkpoint(path))) == bits(compute())


def test_the_reference_and_its_snapshots_are_the_same_to_the_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = partial(reference, experiment(TASK, batches=4), TASK, 0)
    (whole, states), ((found, resumed), deaths) = (
        compute(),
        in_pieces(compute, tmp_path / "c.pt", monkeypatch),
    )
    assert deaths == BOUNDARIES + 3
    assert bits(found) == bits(whole)
    assert state_file(resumed) == state_file(states)  # their hash stands in the record


def test_a_death_while_a_checkpoint_is_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = partial(train, experiment(TASK), TASK, "relax", 0)
    path = tmp_path / "c.pt"
    calls = 0

    def gone(*args: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 9:
            raise Killed
        real(*args)  # type: ignore[arg-type]

    real = os.replace
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", gone)
        with pytest.raises(Killed):
            compute(phases=open_checkpoint(path))
    checkpoint = open_checkpoint(path)
    assert bits(compute(phases=checkpoint)) == bits(compute())
    assert checkpoint.written == BOUNDARIES - 8


def test_without_a_place_or_before_it_is_time_nothing_is_written(tmp_path: Path) -> None:
    compute = partial(train, experiment(TASK), TASK, "rloo", 0)
    checkpoint = resume.Checkpoint(tmp_path / "c.pt", HEAD)
    assert bits(compute(phases=checkpoint)) == bits(compute())
    assert checkpoint.written == 0
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_costs_the_checkpoint_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> int:
        raise StorageError("cannot write c.pt: No space left on device")

    monkeypatch.setattr(resume, "write_checkpoint", full)
    compute = partial(train, experiment(TASK), TASK, "rloo", 0)
    checkpoint = open_checkpoint(tmp_path / "c.pt")
    assert bits(compute(phases=checkpoint)) == bits(compute())
    assert checkpoint.notes == [
        "a checkpoint was not written: cannot write c.pt: No space left on device"
    ]


def test_a_checkpoint_that_does_not_fit_is_dropped_with_a_line_and_the_run_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.pt"
    with pytest.raises(Killed), dying(monkeypatch, 9):
        train(experiment(TASK), TASK, "relax", 0, phases=open_checkpoint(path))
    checkpoint = open_checkpoint(path)
    compute = partial(train, experiment(TASK), TASK, "reinforce", 0)
    assert bits(compute(phases=checkpoint)) == bits(compute())
    assert len(checkpoint.notes) == 1  # it has a network, for which there is nobody here
    assert checkpoint.notes[0].startswith("a checkpoint was of no use, the run began anew: ")
    assert "state.learned.network" in checkpoint.notes[0]


def test_steps_within_a_step_are_counted_from_0_in_each() -> None:
    phases, seen = Phases(), []
    phases.done = {"outer": 1, "inner": 1}
    for i in phases.steps("outer", 3):
        seen.append((i, "within" if phases.within("outer") else "from the start"))
        seen += [(i, j) for j in phases.steps("inner", 2)]
    assert seen == [(1, "within"), (1, 1), (2, "from the start"), (2, 0), (2, 1)]
    assert phases.done == {"outer": 3}


def test_seconds_of_a_resumed_run_never_go_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = partial(train, experiment(TASK), TASK, "rloo", 0)
    path = tmp_path / "c.pt"
    with pytest.raises(Killed), dying(monkeypatch, 12):  # within the second batch
        compute(phases=open_checkpoint(path))
    checkpoint = open_checkpoint(path)
    seconds = compute(phases=checkpoint)["curves"]["seconds"]
    assert 0 < checkpoint.wall_s < 60
    assert seconds == sorted(seconds)


# Estimators' states, one by one.


def fits(name: str) -> str:
    return "bernoulli" if name == "arm" else TASK


def learn(name: str, stage: Stage, state: dict[str, Any], rng: torch.Generator, times: int) -> None:
    method = estimators.make(name)
    optimiser = torch.optim.Adam(stage.policy.parameters(), lr=1e-2)
    draws = max(1, 16 // method.info.group)
    for _ in range(times):
        measured_step(method, stage.policy, stage.reward, draws, rng, state, optimiser)


def set_up(name: str) -> tuple[Stage, dict[str, Any], torch.Generator]:
    task = fits(name)
    stage = make_stage(experiment(task), task, 0)
    if task == TASK:
        stage.policy.initialise("normal", 0.5, stream("generator", name))  # type: ignore[operator]
        stage.discriminator.initialise(stream("discriminator", name))  # type: ignore[attr-defined]
    state = estimators.make(name).initial_state(stage.policy, stream("learned", name))
    return stage, state, stream("noise", name)


@pytest.mark.parametrize("name", [*estimators.names(), "ppo-clip, 3 steps old"])
def test_what_an_estimator_has_learned_survives(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, *older = name.split(", ")
    if older:
        monkeypatch.setattr(estimators, "make", partial(estimators.make, staleness=3))
    stage, state, rng = set_up(name)
    learn(name, stage, state, rng, 2)
    path = tmp_path / "c.pt"
    write_checkpoint(path, HEAD, state_dict({"state": state, "rng": rng, "policy": stage.policy}))
    other, empty, fresh = set_up(name)
    live = {"state": empty, "rng": fresh, "policy": other.policy}
    try:
        load_state_dict(live, read_checkpoint(path, HEAD))
    except MismatchError:  # what the first step alone makes: see Run.complete
        learn(name, other, empty, stream("thrown away"), 1)
        load_state_dict(live, read_checkpoint(path, HEAD))
    assert described(state_dict({"state": empty})) == described(state_dict({"state": state}))
    for each, mine, noise in ((stage, state, rng), (other, empty, fresh)):
        learn(name, each, mine, noise, 2)
    assert described(state_dict({"state": empty})) == described(state_dict({"state": state}))
    for a, b in zip(stage.policy.parameters(), other.policy.parameters(), strict=True):
        assert torch.equal(a, b)


def described(tree: Any) -> Any:
    """A tree without tensors, to be compared."""
    if isinstance(tree, torch.Tensor):
        return str(tree.dtype), tuple(tree.shape), tree.numpy().tobytes()
    if isinstance(tree, dict):
        return {key: described(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [described(value) for value in tree]
    return repr(tree)


class Hoarder(estbench.Estimator):
    """Keeps what it learns to itself, against the rules."""

    info = estbench.EstimatorInfo(name="hoarder", summary="-", source="-")

    def __init__(self) -> None:
        self.inner = estimators.make("reinforce")
        self.batches = 0

    def surrogate(self, policy: Any, reward: Any, draws: int, rng: Any, state: Any) -> Any:
        return self.inner.surrogate(
            policy, reward, draws, rng, self.inner.initial_state(policy, rng)
        )

    def adapt(self, policy: Any, surrogate: Any, gradients: Any, state: dict[str, Any]) -> None:
        self.batches += 1


class Locked(Hoarder):
    """Has in its state what nobody can write down."""

    def initial_state(self, policy: Any, rng: Any) -> dict[str, Any]:
        return {"file": io.StringIO()}

    def adapt(self, policy: Any, surrogate: Any, gradients: Any, state: dict[str, Any]) -> None:
        pass


@pytest.mark.parametrize(
    ("made", "why"),
    [(Hoarder, r"Hoarder\.batches changes"), (Locked, r"state\.learned\.file is a _io\.StringIO")],
)
def test_what_cannot_be_written_down_is_said_once_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Any, why: str
) -> None:
    monkeypatch.setattr("estbench.training.loop.make", lambda *args, **kwargs: made())
    compute = partial(train, experiment(TASK), TASK, "hoarder", 0)
    checkpoint = open_checkpoint(tmp_path / "c.pt")
    assert bits(compute(phases=checkpoint)) == bits(compute())
    assert len(checkpoint.notes) == 1
    assert checkpoint.notes[0].startswith("no checkpoints, a kill would lose the run: ")
    assert re.search(why, checkpoint.notes[0])

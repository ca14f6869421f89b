"""Experiments, presets and TOML files: what is accepted, and how a mistake is named."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from estbench.config import presets
from estbench.config.experiment import Experiment, SnapshotSettings, TrainingSettings
from estbench.config.validation import parse_seeds
from estbench.core.errors import UserError
from estbench.tasks.fit import check_names

BASE = {"name": "x", "tasks": ["expressions-3"], "estimators": ["rloo"], "seeds": 2}


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_is_valid_and_names_what_exists(name: str) -> None:
    text = {"training": {"data": "pydoc"}} if name == "text" else {}  # it has none of its own
    experiment = presets.preset(name, text)
    check_names(experiment)
    assert experiment.name == name
    assert experiment.description


def test_the_paper_preset_is_the_published_schedule() -> None:
    paper = presets.preset("paper")
    settings = paper.training_for("expressions-15")
    assert (settings.batches, settings.batch_size, settings.data_size) == (234, 128, 10_000)
    assert (settings.discriminator_updates, settings.discriminator_batch_size) == (79, 128)
    assert (settings.reward, settings.rollouts, settings.truncation) == ("p", 0, 0)
    assert settings.discriminator_pretrain_updates == 0
    assert settings.generator_learning_rate == settings.discriminator_learning_rate == 1e-3
    assert settings.pretrain_epochs == 3
    assert paper.training_for("expressions-3").pretrain_epochs == 1
    assert paper.seeds == tuple(range(10))
    assert {"reinforce", "rebar", "relax", "rloo"} == set(paper.estimators)
    assert paper.tasks == ("expressions-3", "expressions-15")


def test_every_preset_measures_a_baseline_beside_reinforce() -> None:
    for name in presets.names():
        measured = presets.preset(name).measured
        assert ("reinforce" in measured) == ("reinforce-ema" in measured)


def test_the_published_preset_is_the_paper_schedule_with_the_reward_of_its_runs() -> None:
    paper, published = presets.preset("paper"), presets.preset("paper-published")
    assert published.tasks == paper.tasks
    assert published.training == dataclasses.replace(paper.training, reward="exp_p")
    assert published.training_for("expressions-3").pretrain_epochs == 1
    # One epoch less than published: the same start, from a generator that learns faster.
    assert published.training_for("expressions-15").pretrain_epochs == 2
    assert published.also_measured == ()
    assert len(published.seeds) == 3


@pytest.mark.parametrize(
    ("given", "seeds"),
    [
        (3, (0, 1, 2)),
        ("3", (0, 1, 2)),
        ("0-2,7", (0, 1, 2, 7)),
        ("7, 0-2", (0, 1, 2, 7)),
        ("7-7", (7,)),
        ([4, 2, 4], (2, 4)),
    ],
)
def test_seeds_are_a_count_or_a_list(given: object, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(given, "--seeds") == seeds


@pytest.mark.parametrize(
    "given",
    [0, "0", -1, "-1", "", "a", "1-", "5-2", "0-99999999", 10**9, [], [-1], [1.5], True, 2.0, None],
)
def test_malformed_seeds_are_refused_with_the_remedy(given: object) -> None:
    with pytest.raises(UserError, match=r"--seeds.*0-4,7"):
        parse_seeds(given, "--seeds")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"training": {"batchs": 3}}, r"unknown setting 'training.batchs'.*'training.batches'"),
        ({"training": {"batches": 0}}, r"\[training\] batches = 0: .* at least 1"),
        ({"training": {"batches": "9"}}, r"\[training\] batches = '9': must be a whole number"),
        ({"training": {"batches": 9.0}}, r"\[training\] batches = 9.0: must be a whole number"),
        ({"training": {"batches": True}}, r"\[training\] batches = True"),
        ({"training": {"generator_learning_rate": 0}}, r"greater than 0"),
        ({"training": {"generator_learning_rate": float("nan")}}, r"greater than 0"),
        (
            {"training": {"reward": "q"}},
            r'\[training\] reward = \'q\': must be one of "p", "log_p"',
        ),
        ({"training": 3}, r"training = 3: must be a table, \[training\]"),
        ({"snapshots": {"sequence": 3}}, r"'snapshots.sequence'.*'snapshots.sequences'"),
        ({"snapshots": {"sequences": 100}}, r"\[snapshots\] sequences = 100: .* 256"),
        ({"timing": {"seconds": -1}}, r"\[timing\] seconds = -1"),
        ({"per_task": {"expressions-3": {"rollout": 1}}}, r"'per_task.expressions-3.rollouts'"),
        ({"per_task": {"expressions-3": {"rollouts": -1}}}, r"\[per_task.expressions-3\] rollouts"),
        ({"estimator": ["rloo"]}, r"unknown setting 'estimator': did you mean 'estimators'"),
        ({"estimators": "rloo"}, r"estimators = \'rloo\': must be a list"),
        ({"estimators": []}, r"estimators is empty"),
        ({"name": "../x"}, r"name = '../x': use letters"),
        ({"name": 3}, r"name = 3: must be text"),
        ({"device": "gpu"}, r"device 'gpu': must be cpu, cuda, cuda:N or several"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_section_and_remedy(
    change: dict[str, object], text: str
) -> None:
    with pytest.raises(UserError, match=text) as caught:
        Experiment.from_dict(BASE | change)
    assert "\n" not in str(caught.value)


def test_settings_are_checked_in_python_too() -> None:
    with pytest.raises(UserError, match=r"\[training\] batch_size"):
        TrainingSettings(batch_size=0)
    with pytest.raises(UserError, match=r"\[snapshots\] sequences"):
        SnapshotSettings(sequences=-1)


def test_more_discriminator_rounds_than_updates_are_refused() -> None:
    with pytest.raises(UserError, match=r"discriminator_rounds = 5: must be at most .*updates = 2"):
        TrainingSettings(discriminator_updates=2, discriminator_rounds=5)
    with pytest.raises(UserError, match=r"pretrain_rounds = 2: must be at most .*updates = 1"):
        TrainingSettings(discriminator_pretrain_updates=1, discriminator_pretrain_rounds=2)
    assert (
        TrainingSettings(discriminator_updates=0, discriminator_rounds=5).discriminator_rounds == 5
    )


def test_a_task_may_have_settings_of_its_own() -> None:
    experiment = Experiment.from_dict(BASE | {"per_task": {"oracle-small": {"batches": 7}}})
    assert experiment.training_for("oracle-small").batches == 7
    assert experiment.training_for("expressions-3").batches == experiment.training.batches


def test_a_task_may_be_measured_with_settings_of_its_own() -> None:
    own = {"expressions-15": {"sequences": 8192, "batches": 7}}
    experiment = Experiment.from_dict(BASE | {"per_task": own})
    assert experiment.snapshots_for("expressions-15").sequences == 8192
    assert experiment.training_for("expressions-15").batches == 7
    assert experiment.snapshots_for("expressions-3") == experiment.snapshots
    with pytest.raises(UserError, match=r"\[per_task.expressions-15\] sequences = 100: .* 256"):
        Experiment.from_dict(BASE | {"per_task": {"expressions-15": {"sequences": 100}}})


def test_names_that_do_not_exist_are_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown estimator 'rlo'.*'rloo'.*list estimators"):
        check_names(Experiment.from_dict(BASE | {"estimators": ["rlo"]}))
    with pytest.raises(UserError, match=r"unknown task 'expression-3'.*'expressions-3'"):
        check_names(Experiment.from_dict(BASE | {"per_task": {"expression-3": {}}}))


def test_estimators_may_have_switches() -> None:
    names = ["rebar-published@sign+shared-noise", "relax-published@none", "rebar-published"]
    check_names(Experiment.from_dict(BASE | {"estimators": names}))
    for name in ("rebar-published@sgn", "rebar-published@../../x", "rloo@none", "rloo/../x"):
        with pytest.raises(UserError, match="unknown"):
            check_names(Experiment.from_dict(BASE | {"estimators": [name]}))
        with pytest.raises(UserError, match="unknown"):
            check_names(Experiment.from_dict(BASE | {"also_measured": [name]}))


def test_a_file_starts_from_a_preset_and_changes_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('preset = "bench"\nseeds = "0-2"\n[training]\nbatches = 16\n')
    mine, bench = presets.read(path), presets.preset("bench")
    assert mine.name == "mine"
    assert mine.seeds == (0, 1, 2)
    assert mine.training.batches == 16
    assert mine.training.batch_size == bench.training.batch_size
    assert mine.tasks == bench.tasks
    assert presets.read(path, {"seeds": [5]}).seeds == (5,), "the command line wins"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks = [", r"mine.toml is not a TOML file"),
        ("\x00", r"mine.toml is not a TOML file"),
        ('preset = "bnch"', r"mine.toml: unknown preset 'bnch': did you mean 'bench'"),
        ("preset = 3", r"mine.toml: preset = 3"),
        ("seeds = 3", r'mine.toml: tasks is missing: .*preset = "bench"'),
        ('preset = "bench"\n[training]\nbatch = 3', r"mine.toml: .*'training.batch'"),
        ('preset = "bench"\nseeds = 0', r"mine.toml: seeds = 0"),
        ("preset = 'bench'\ntasks = 1979-05-27", r"mine.toml: tasks ="),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong_in_it(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        presets.read(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file.*--preset smoke"):
        presets.read(tmp_path / "none.toml")
    with pytest.raises(UserError, match="cannot read"):
        presets.read(tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not a TOML file"):
        presets.read(tmp_path / "binary.toml")


def test_lists_of_numbers_are_checked_one_by_one() -> None:
    def made(**settings: object) -> Experiment:
        return Experiment.from_dict(BASE | {"snapshots": settings})

    given = made(progress=2, progress_batches=[8, 64], progress_rates=[1, 4])
    assert given.snapshots.progress_batches == (8, 64)
    assert given.snapshots.progress_rates == (1.0, 4.0)
    assert Experiment.from_dict(given.as_dict()) == given
    assert given.as_dict()["snapshots"]["progress_batches"] == [8, 64]
    for settings, says in (
        ({"progress_batches": 8}, "must be a list of 1 to 20 numbers"),
        ({"progress_batches": []}, "must be a list of 1 to 20 numbers"),
        ({"progress_batches": [8, 0]}, "whole number, at least 1"),
        ({"progress_rates": ["fast"]}, "a number greater than 0"),
        ({"progress_fractions": [2]}, "at least 0, at most 1"),
        ({"progress_fractions": [0.3]}, "no snapshot is taken after 0.3 of"),
    ):
        with pytest.raises(UserError, match=says):
            made(**settings)

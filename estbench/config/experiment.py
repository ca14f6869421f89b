"""What an experiment is: frozen dataclasses, checked as they are made.

The fields below are the keys of a preset's or user's TOML file, and the line under each is their
documentation. ``estbench.config.presets`` reads the files.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Annotated, Any, ClassVar, Literal

from estbench.config.validation import (
    MAX_JOBS,
    AtLeast,
    MoreThan,
    checked,
    known,
    names,
    parse_seeds,
    shown,
    table,
)
from estbench.core.errors import UserError
from estbench.core.registry import TASKS

__all__ = [
    "FRACTIONS",
    "ExecutionSettings",
    "Experiment",
    "SnapshotSettings",
    "TimingSettings",
    "TrainingSettings",
    "check_keys",
]

FRACTIONS = (0.0, 1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 1.0)
"""Snapshots are taken after these fractions of all batches; most change comes early."""

Count = Annotated[int, AtLeast(1)]
Natural = Annotated[int, AtLeast(0)]
Rate = Annotated[float, MoreThan(0.0)]
Fraction = Annotated[float, AtLeast(0, 1)]


def _meanings(settings: type) -> dict[str, str]:
    """Return the text under each field of a dataclass."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(settings))).body
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    for entry, text in itertools.pairwise(tree.body):
        match entry, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=said)):
                found[name] = " ".join(str(said).split())
    return found


@dataclass(frozen=True)
class Settings:
    """A table of settings; says which field is wrong, where, and what it may be."""

    section: ClassVar[str] = ""

    @classmethod
    def flags(cls) -> tuple[str, ...]:
        """Return the settings that ``estbench run`` takes as flags."""
        return ()

    @staticmethod
    def flag(name: str) -> str:
        """Return the flag of a setting: its name without a unit."""
        return name.removesuffix("_mb").removesuffix("_s")

    @classmethod
    def kind(cls, name: str) -> Any:
        """Return a setting's type without its bound, such as int."""
        return typing.get_type_hints(cls)[name]

    @classmethod
    def meaning(cls, name: str) -> str:
        """Return what is written under a setting, in one line."""
        return _meanings(cls)[name]

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = checked(type(self), entry.name, getattr(self, entry.name), self.section)
            object.__setattr__(self, entry.name, value)


@dataclass(frozen=True)
class TrainingSettings(Settings):
    """How a run is trained."""

    section: ClassVar[str] = "training"

    @classmethod
    def flags(cls) -> tuple[str, ...]:
        return ("data", "level", "oracle_weights", "vocabulary", "length")

    batches: Count = 234
    """Adversarial batches; one generator update each."""
    batch_size: Annotated[int, AtLeast(2)] = 128
    """Sequences per generator update; a multiple of 8, and of those that an estimator draws
    together."""
    data_size: Annotated[int, AtLeast(2)] = 10_000
    """Training sequences, generated from the seed; of text or images at most that many."""
    pretrain_epochs: Natural = 3
    """Epochs of maximum likelihood before the adversarial batches."""
    pretrain_batch_size: Count = 128
    """Sequences per update of maximum likelihood."""
    pretrain_learning_rate: Rate = 1e-3
    """Of Adam, in maximum likelihood."""
    gradient_clip: Annotated[float, AtLeast(0)] = 0.0
    """Norm to which the generator's gradients are cut, in both kinds of training; 0 is never."""
    generator_learning_rate: Rate = 1e-3
    """Of Adam, in the adversarial batches; of any other task's policy too."""
    decoder_learning_rate: Rate = 1e-3
    """Of Adam, for the decoder of an autoencoder."""
    discriminator_learning_rate: Rate = 1e-3
    """Of Adam."""
    discriminator_pretrain_updates: Natural = 0
    """Discriminator updates before the first adversarial batch."""
    discriminator_updates: Natural = 79
    """Discriminator updates per adversarial batch; 79 is one epoch of 10,000 sequences."""
    discriminator_batch_size: Count = 128
    """Real sequences per discriminator update, and as many generated."""
    discriminator_rounds: Count = 1
    """Pools of generated sequences per batch, each drawn anew; the updates are shared out."""
    discriminator_epochs: Count = 1
    """Times a pool is gone through before the next one is drawn."""
    discriminator_pretrain_rounds: Count = 1
    """Pools of generated sequences before the first adversarial batch."""
    success_rate: Fraction = 0.3
    """Of a language model: the share of prompts that it solves when its pre-training ends; 0 for
    pre-training of pretrain_epochs."""
    beta: Annotated[float, AtLeast(0)] = 0.0
    """Of a language model: what multiplies the KL to the pre-trained policy, as a penalty."""
    format_reward: Annotated[float, AtLeast(0)] = 0.0
    """Of a language model: what an answer earns for its form, right or not."""
    generator_width: Natural = 0
    """Width of a language model's transformer, a multiple of 16; 0 is the task's own."""
    generator_blocks: Natural = 0
    """Its blocks of attention; 0 is the task's own."""
    generator: str = "lstm"
    """The policy of an adversarial task: lstm (the paper's, 32 units), gru, transformer, or the
    name of one that a plugin registers."""
    discriminator: str = "lstm"
    """lstm (the paper's, 32 units), cnn (SeqGAN's convolutions with a highway layer), or the name
    of one that a plugin registers."""
    reward: Literal["p", "log_p", "logit", "exp_p", "constant", "random"] = "p"
    """What of the discriminator's belief "real" is the reward; exp_p as in the published runs.
    Control arms that do not ask it: constant, and random (a number for each sequence)."""
    rollouts: Natural = 0
    """Monte-Carlo rollouts per position with the current policy; 0 is one reward at the end, or 4
    where an estimator is made of rollouts (seqgan-rollouts, vine)."""
    staleness: Natural = 1
    """Optimiser steps between the policy and the older one that off-policy estimators draw from."""
    truncation: Natural = 0
    """Backpropagation through time stops every that many steps (biased); 0 is never."""
    evaluate_every: Count = 26
    """Batches between full quality evaluations; light ones are made after every batch."""
    evaluation_samples: Count = 128
    """Sequences in a light quality evaluation."""
    temperatures: Natural = 0
    """Temperatures at which a generator is evaluated once more when its run ends; 0 is none."""
    quality_sequences: Natural = 0
    """Sequences in a full quality evaluation; 0 is the task's own number."""
    vocabulary: Natural = 0
    """Number of tokens V of an oracle, or at most of a text; 0 is the task's own."""
    length: Natural = 0
    """Sequence length T of an oracle or a text; 0 is the task's own. Of arithmetic the longest
    answer: two tokens more than the numbers have digits."""
    oracle_width: Count = 32
    """Width of an oracle's embedding and of its LSTM."""
    oracle_seed: Natural = 0
    """Which oracle; every seed of an experiment meets the same one."""
    oracle_weights: str = ""
    """File with the oracle's parameters (the published .pkl, or .npz); without it one is drawn."""
    data: str = ""
    """Text for the task text: a UTF-8 file with one sequence on each line, or a ready corpus
    (pydoc, kjv or words)."""
    level: Literal["words", "characters"] = "words"
    """What the tokens of a text are."""
    minimum_count: Count = 1
    """How often a token must occur in a text to be kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for kind in ("discriminator", "discriminator_pretrain"):
            rounds, updates = getattr(self, f"{kind}_rounds"), getattr(self, f"{kind}_updates")
            if updates and rounds > updates:
                raise UserError(
                    f"[training] {kind}_rounds = {rounds}: must be at most {kind}_updates = "
                    f"{updates}; every round takes at least one update"
                )


@dataclass(frozen=True)
class SnapshotSettings(Settings):
    """How estimators are measured at the shared snapshots of a reference trajectory."""

    section: ClassVar[str] = "snapshots"

    sequences: Annotated[int, AtLeast(2)] = 4096
    """Sequences measured per estimator and snapshot."""
    adaptation_batches: Natural = 10
    """Batches of batch_size sequences to adapt to a snapshot before measuring; same for all."""
    reference_sequences: Annotated[int, AtLeast(2)] = 16_384
    """Sequences of the reference gradient, where it cannot be enumerated."""
    progress: Natural = 0
    """Batches of each size whose steps are followed, to see what they gain; 0 is none."""
    progress_batches: tuple[Count, ...] = (8, 32, 128, 512)
    """Their sizes, in reward evaluations."""
    progress_rates: tuple[Rate, ...] = (0.25, 1.0, 4.0)
    """Factors of the learning rate."""
    progress_fractions: tuple[Fraction, ...] = (0.125, 0.5, 1.0)
    """Where: after these fractions of all batches, where snapshots are taken."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for fraction in self.progress_fractions:
            if fraction not in FRACTIONS:
                raise UserError(
                    f"[snapshots] progress_fractions: no snapshot is taken after {fraction:g} of "
                    f"the batches; choose from {', '.join(f'{f:g}' for f in FRACTIONS)}"
                )


@dataclass(frozen=True)
class TimingSettings(Settings):
    """The serial pass that measures wall-clock, estimators interleaved."""

    section: ClassVar[str] = "timing"

    rounds: Annotated[int, AtLeast(0, 1_000)] = 8
    """Rounds; each times every estimator on every task once. 0 leaves the pass out."""
    seconds: Rate = 30.0
    """Budget of the whole pass; fewer rounds are made where it is spent."""
    warmup: Natural = 2
    """Untimed generator steps before the timed ones."""


@dataclass(frozen=True)
class ExecutionSettings(Settings):
    """Where runs are made and what they may take; only ``threads`` can change a number."""

    section: ClassVar[str] = "execution"

    @classmethod
    def flags(cls) -> tuple[str, ...]:
        return tuple(entry.name for entry in fields(cls))

    backend: Literal["local", "dask", "slurm"] = "local"
    """What hands out the runs: processes of this machine, dask, or a Slurm cluster."""
    jobs: Annotated[int, AtLeast(0, MAX_JOBS)] = 0
    """Runs at the same time, at most 1000. By default (0) one for each physical core, one for each
    worker of a running dask cluster, or 16 on Slurm; never more than there are runs."""
    threads: Count = 1
    """Threads of a run. Small models are fastest on one; with more, sums may round differently."""
    memory_mb: Natural = 0
    """Memory that a run may take, in MiB. A run that needs more fails and the others continue; 0 is
    no limit."""
    deadline_s: Annotated[float, AtLeast(0)] = 0.0
    """Seconds that a run may take. A run that takes longer fails and the others continue; 0 is no
    limit."""
    scheduler: str = ""
    """Address of a running dask scheduler, tcp://HOST:PORT; without it dask starts workers here."""
    slurm: str = ""
    """What sbatch is asked for: "partition=cpu,account=lab,time=240" (time in minutes)."""


@dataclass(frozen=True)
class Experiment:
    """A grid of (task, estimator, seed) and the settings that all of it shares.

    Attributes:
      name: Also the name of the default folder, results/NAME.
      tasks: Names of tasks.
      estimators: Trained, and measured at the snapshots.
      seeds: The replicates.
      also_measured: Estimators that are measured at the snapshots only.
      description: One line.
      device: "cpu", "cuda" or "cuda:N"; or several cards, "cuda:0,cuda:1".
      training: Settings of every task.
      per_task: What a task has otherwise: {task: {field of TrainingSettings or of
        SnapshotSettings: value}}.
      snapshots: Settings of the measurements.
      timing: Settings of the wall-clock pass.
      execution: Where runs are made, and what they may take.

    Raises:
      UserError: A value is of the wrong type or out of range.
    """

    name: str
    tasks: tuple[str, ...]
    estimators: tuple[str, ...]
    seeds: tuple[int, ...]
    also_measured: tuple[str, ...] = ()
    description: str = ""
    device: str = "cpu"
    training: TrainingSettings = field(default_factory=TrainingSettings)
    per_task: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    snapshots: SnapshotSettings = field(default_factory=SnapshotSettings)
    timing: TimingSettings = field(default_factory=TimingSettings)
    execution: ExecutionSettings = field(default_factory=ExecutionSettings)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,199}", self.name):
            raise UserError(
                f"name = {shown(self.name)}: use letters, digits, '-', '_' and '.' (it names a "
                "folder)"
            )
        for key in ("tasks", "estimators", "also_measured"):
            object.__setattr__(self, key, names(key, getattr(self, key)))
        names("per_task", tuple(self.per_task))
        object.__setattr__(self, "seeds", parse_seeds(self.seeds, "seeds"))
        for key in ("tasks", "estimators"):
            if not getattr(self, key):
                raise UserError(f"{key} is empty: name at least one (see: estbench list {key})")
        if not re.fullmatch(r"cpu|cuda|cuda:\d{1,3}(,cuda:\d{1,3})*", self.device):
            raise UserError(
                f"device {shown(self.device)}: must be cpu, cuda, cuda:N or several: cuda:0,cuda:1"
            )
        for task in dict.fromkeys((*self.tasks, *self.per_task)):
            group = self.training_for(task).batch_size
            sequences = self.snapshots_for(task).sequences
            if sequences < 2 * group:
                section = f"per_task.{task}" if self._own(task, SnapshotSettings) else "snapshots"
                raise UserError(
                    f"[{section}] sequences = {sequences}: must be at least {2 * group}, twice "
                    "batch_size; some estimators make one draw of a batch"
                )

    @property
    def measured(self) -> tuple[str, ...]:
        """Every estimator measured at the snapshots: those trained, then the others."""
        return self.estimators + tuple(e for e in self.also_measured if e not in self.estimators)

    def progress_steps(self, task: str) -> frozenset[int]:
        """Return after how many batches of a task steps are followed; empty where none are."""
        snapshots = self.snapshots_for(task)
        if not snapshots.progress:
            return frozenset()
        batches = self.training_for(task).batches
        return frozenset(round(f * batches) for f in snapshots.progress_fractions)

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that runs are shared out to; one, mostly."""
        return tuple(dict.fromkeys(self.device.split(",")))

    def on(self, device: str) -> Experiment:
        """Return the same experiment for one device."""
        return self if device == self.device else replace(self, device=device)

    def training_for(self, task: str) -> TrainingSettings:
        """Return the training settings of a task: the common ones with its own laid over.

        A task that declares settings of its own has them beside the common ones.
        """
        kind = training_settings(task)
        return kind(**{**asdict(self.training), **self._own(task, kind)})

    def snapshots_for(self, task: str) -> SnapshotSettings:
        """Return the settings of a task's measurements, in the same way."""
        return replace(self.snapshots, **self._own(task, SnapshotSettings))

    def _own(self, task: str, settings: type[Settings]) -> dict[str, Any]:
        """Return what a task has otherwise, of one kind of settings."""
        own = self.per_task.get(task, {})
        kept = [entry.name for entry in fields(settings) if entry.name in own]
        return {key: checked(settings, key, own[key], f"per_task.{task}") for key in kept}

    def as_dict(self) -> dict[str, Any]:
        """Return the experiment as JSON would hold it."""
        return _with_lists(asdict(self))

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Experiment:
        """Return the experiment of a document such as a TOML file or ``as_dict()`` gives.

        Raises:
          UserError: A key is missing or unknown, or a value is wrong.
        """
        check_keys(document)
        for key in ("name", "tasks", "estimators", "seeds"):
            if key not in document:
                raise UserError(
                    f'{key} is missing: give it, or start from a preset: preset = "bench"'
                )
        arguments = dict(document)
        for key, settings in TABLES.items():
            if key in document:
                arguments[key] = settings(**document[key])
        return cls(**arguments)


def _with_lists(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table, and those in it, with lists for tuples."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        found[key] = list(value) if isinstance(value, tuple) else value
        if isinstance(value, Mapping):
            found[key] = _with_lists(value)
    return found


TABLES: Mapping[str, type[Settings]] = types.MappingProxyType(
    {
        "training": TrainingSettings,
        "snapshots": SnapshotSettings,
        "timing": TimingSettings,
        "execution": ExecutionSettings,
    }
)


def training_settings(task: str) -> type[TrainingSettings]:
    """Return the class of a task's training settings: its own, if a plugin's task declares one."""
    entry = TASKS.entries.get(task)
    found: type[TrainingSettings] | None = getattr(entry and entry.origin, "settings", None)
    return found or TrainingSettings


def check_keys(document: Mapping[str, Any]) -> None:
    """Check that a document holds only keys that an experiment has, each of the right shape.

    Raises:
      UserError: A key is unknown; names its section and the nearest key.
    """
    known(document, [entry.name for entry in fields(Experiment)], "")
    for key in ("name", "description", "device"):
        if not isinstance(document.get(key, ""), str):
            raise UserError(f"{key} = {shown(document[key])}: must be text")
    sections = {key: (document.get(key, {}), settings) for key, settings in TABLES.items()}
    per_task = table("per_task", document.get("per_task", {}))
    for section, (given, settings) in sections.items():
        known(table(section, given), [entry.name for entry in fields(settings)], section)
    for task, given in per_task.items():
        kinds = (training_settings(task), SnapshotSettings)
        own = [entry.name for settings in kinds for entry in fields(settings)]
        known(table(f"per_task.{task}", given), own, f"per_task.{task}")

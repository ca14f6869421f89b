"""Runs that end in the middle, and go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from estbench.config.experiment import (
    Experiment,
    SnapshotSettings,
    TimingSettings,
    TrainingSettings,
)
from estbench.core.processes import Stopped
from estbench.store import encode, finite, numbers
from estbench.training.resume import Checkpoint

HEAD = {"key": "this run's"}


class Killed(Stopped):
    """The process is gone."""


def experiment(task: str, **training: Any) -> Experiment:
    """As small as it goes with something in every phase."""
    settings = {
        "batches": 3,
        "batch_size": 8,
        "data_size": 64,
        "pretrain_epochs": 2,
        "discriminator_pretrain_updates": 4,
        "discriminator_pretrain_rounds": 2,
        "discriminator_updates": 2,
        "discriminator_rounds": 2,
        "discriminator_batch_size": 8,
        "evaluate_every": 2,
        "evaluation_samples": 16,
        "temperatures": 2,
        "generator_learning_rate": 5e-3,
        "discriminator_learning_rate": 5e-3,
    }
    return Experiment(
        name="tiny",
        tasks=(task,),
        estimators=("rloo",),
        seeds=(0,),
        training=TrainingSettings(**settings | training),  # type: ignore[arg-type]
        snapshots=SnapshotSettings(sequences=256, adaptation_batches=1, reference_sequences=64),
        timing=TimingSettings(rounds=0),
    )


def bits(payload: Any) -> bytes:
    """All of a payload that must be the same, as it is stored."""
    return encode(numbers(finite(payload)))


@contextmanager
def dying(monkeypatch: Any, after: int) -> Iterator[None]:
    """Have runs inside die at the boundary of that number, from 1, checkpoint and all."""
    passed = 0
    real = Checkpoint.after_step

    def after_step(self: Checkpoint) -> None:
        nonlocal passed
        real(self)
        passed += 1
        if passed == after:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "after_step", after_step)
        yield


def open_checkpoint(path: Path) -> Checkpoint:
    return Checkpoint(path, HEAD, every=0.0)


def in_pieces(
    compute: Callable[..., Any], path: Path, monkeypatch: Any, stride: int = 1
) -> tuple[Any, int]:
    """Run until it is done, dying at every ``stride``-th boundary; return payload and deaths."""
    deaths = 0
    while True:
        checkpoint = open_checkpoint(path)
        try:
            with dying(monkeypatch, stride):
                payload = compute(phases=checkpoint)
        except Killed:
            deaths += 1
            assert checkpoint.notes == []
            continue
        assert checkpoint.notes == []
        return payload, deaths

"""What there is to do: the functions that compute, and a job that names one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from estbench.config.experiment import Experiment

if TYPE_CHECKING:
    from estbench.training.resume import Phases

__all__ = ["TIMING", "Job", "measure", "placed", "reference", "time_step", "train", "warm_up"]

Payload = dict[str, Any]

TIMING = "estbench.meter.timing"
"""The module that times a step."""


@dataclass(frozen=True)
class Job:
    """One record to be made, in whatever process.

    Attributes:
      kind: "run", "reference" or "snapshots".
      task: Its task.
      estimator: Its estimator; a reference's is rloo.
      seed: Its seed.
      key: What its record will be found by.
      function: What computes it: ``train``, ``reference`` or ``measure`` below.
      experiment: What is passed to it.
      prepare: Called in the worker before the clock starts: ``warm_up`` below.
      events: Whether a training run also writes event files for TensorBoard.
      start: What the pre-training that it shares with other runs will be found by; "" if none.
    """

    kind: str
    task: str
    estimator: str
    seed: int
    key: str
    function: Callable[..., Any] = field(compare=False, repr=False)
    experiment: Experiment = field(compare=False, repr=False)
    prepare: Callable[[], None] = field(compare=False, repr=False)
    events: bool = field(default=False, compare=False, repr=False)
    start: str = field(default="", compare=False, repr=False)

    @property
    def place(self) -> tuple[str, str, str, int]:
        """Kind, task, estimator and seed, which say where its files are."""
        return self.kind, self.task, self.estimator, self.seed

    @property
    def label(self) -> str:
        """How it is called in lines for people."""
        what = "reference (rloo)" if self.kind == "reference" else self.estimator
        where = " at the snapshots" if self.kind == "snapshots" else ""
        return f"{self.task} {what} seed {self.seed}{where}"


def placed(jobs: Sequence[Job]) -> list[Job]:
    """Return jobs, each on one of the devices of its experiment: card after card, in turn.

    Which card it is makes no difference to a key.
    """
    found = []
    for index, job in enumerate(jobs):
        devices = job.experiment.devices
        here = job.experiment.on(devices[index % len(devices)])
        found.append(job if here is job.experiment else replace(job, experiment=here))
    return found


# The functions below import what computes only when they are called, in the process that does it:
# a driver that only hands out jobs needs no torch.


def warm_up(plugins: Sequence[str] = (), modules: Sequence[str] = ()) -> None:
    """Do one-off imports here, so that no run is charged for them.

    Args:
      plugins: Files that register the estimators of the user's own.
      modules: What else the job will import.
    """
    from importlib import import_module

    import torch

    from estbench.core.plugins import ensure
    from estbench.core.registry import offered

    # The first backward pass that is given a gradient imports sympy: 0.35 s.
    output = torch.zeros(1, requires_grad=True)
    torch.autograd.grad(output, output, torch.ones(1))
    ensure(plugins)
    for module in modules:
        import_module(module)
    if plugins or offered():
        # They may train with torch's own optimisers; the first imports torch's compiler: 0.9 s.
        torch.optim.Adam([torch.zeros(1)])


def train(
    experiment: Experiment, task: str, estimator: str, seed: int, phases: Phases | None = None
) -> Payload:
    """Train a policy; returns a run's payload."""
    from estbench.training import loop

    return loop.train(experiment, task, estimator, seed, phases=phases)


def reference(
    experiment: Experiment, task: str, seed: int, phases: Phases | None = None
) -> tuple[Payload, dict[str, Any]]:
    """Train rloo and keep its snapshots; returns a run's payload and the states to save."""
    from estbench.training import reference

    return reference.reference(experiment, task, seed, phases)


def measure(
    experiment: Experiment, task: str, estimator: str, seed: int, state: dict[str, Any]
) -> Payload:
    """Measure an estimator at the snapshots in ``state``; returns a measurement's payload."""
    from estbench.meter import snapshots

    return snapshots.measure_at_snapshots(experiment, task, estimator, seed, state)


def time_step(experiment: Experiment, task: str, estimator: str, state: dict[str, Any]) -> Payload:
    """Time steps at the snapshot halfway through ``state``; returns an estimator's row."""
    from estbench.meter import snapshots, timing

    halfway = snapshots.halfway(state["snapshots"])
    return timing.time_step(experiment, task, estimator, halfway)

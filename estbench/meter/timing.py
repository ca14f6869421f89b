"""Wall-clock of one generator step, measured on its own: serial, estimators interleaved."""

from __future__ import annotations

import statistics
import time
from contextlib import nullcontext
from typing import Any

import torch

from estbench.estimators import make
from estbench.estimators.base import Reward as AnyReward
from estbench.experiment import Experiment
from estbench.fit import refusals
from estbench.meter.moments import total_variance
from estbench.meter.phases import Clock, listening
from estbench.meter.snapshots import halfway
from estbench.meter.step import measured_step
from estbench.models.adam import Adam
from estbench.seeding import numpy_stream, stream
from estbench.tasks.stage import make_stage

__all__ = ["timing_round"]

STEPS = 3  # timed steps a round; their median counts


def timing_round(
    experiment: Experiment, number: int, states: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Time every estimator on every task once, in an order shuffled anew each round.

    A step is what training does with the generator: draws, reward, backward pass, total variance,
    training of what is learned, Adam. The discriminator's training and evaluations are left out;
    they are the same for all.

    Args:
      experiment: Settings.
      number: Which round.
      states: For each task the state of a reference trajectory.
    """
    unfit = refusals(experiment)
    pairs = [
        (task, name)
        for task in states
        for name in experiment.measured
        if name not in unfit.get(task, {})
    ]
    order = numpy_stream("timing", number).permutation(len(pairs))
    rows = []
    for index in order:
        task, name = pairs[int(index)]
        seconds = _time(experiment, task, name, states[task])
        rows.append({"task": task, "estimator": name, **seconds})
    return {"round": number, "rows": rows}


def _time(experiment: Experiment, task: str, name: str, state: dict[str, Any]) -> dict[str, Any]:
    """Return seconds a step, and of as many steps again the seconds by phase."""
    settings = experiment.training_for(task)
    device = experiment.device
    stage = make_stage(experiment, task, experiment.seeds[0])
    stage.load(halfway(state["snapshots"]))
    policy, reward = stage.policy, stage.reward
    method = make(name, rollouts=settings.rollouts, truncation=settings.truncation)
    learned = method.initial_state(policy, stream("timing state", task, name))
    rng = stream("timing", task, name, device=device)
    optimiser = Adam(policy.parameters(), lr=settings.generator_learning_rate)
    draws = settings.batch_size // method.info.group
    stage.next_batch(draws, stream("timing data", task))

    def step(reward: AnyReward, clock: Clock | None = None) -> None:
        found, _, _ = measured_step(
            method,
            policy,
            reward,
            draws,
            rng,
            learned,
            optimiser,
            check_rows=False,
            clip=settings.gradient_clip,
            clock=clock,
        )
        with clock.phase("backward") if clock else nullcontext():
            total_variance(found)

    times = []
    for i in range(experiment.timing.warmup + STEPS):
        if device != "cpu":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        step(reward)
        if device != "cpu":
            torch.cuda.synchronize(device)
        if i >= experiment.timing.warmup:
            times.append(time.perf_counter() - started)
    clock = Clock(device)
    with listening(clock, method, policy, reward, learned) as heard, clock.phase("update"):
        for _ in range(STEPS):
            step(heard, clock)
    phases = {phase: seconds / STEPS for phase, seconds in clock.seconds.items()}
    return {"seconds_per_step": statistics.median(times), "phases": phases}

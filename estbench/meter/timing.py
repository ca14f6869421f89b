"""Wall-clock of one generator step, measured on its own: serial, estimators interleaved."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch

from estbench.config.experiment import Experiment
from estbench.core.seeding import numpy_stream, stream
from estbench.estimators import make
from estbench.estimators.base import Reward as AnyReward
from estbench.meter.contexts import contexts_a_draw
from estbench.meter.moments import total_variance
from estbench.meter.phases import Clock, listening
from estbench.meter.step import measured_step
from estbench.models.adam import Adam
from estbench.tasks.stage import make_stage

__all__ = ["shuffled", "time_step"]

# Timed steps a round; their median counts. Where a step takes milliseconds, three of them can all
# fall into a moment in which somebody else has the machine.
LEAST_STEPS, LEAST_S = 3, 0.1


def shuffled(pairs: Sequence[tuple[str, str]], number: int) -> list[tuple[str, str]]:
    """Return pairs of task and estimator in the order of a round: another one each round."""
    return [pairs[int(i)] for i in numpy_stream("timing", number).permutation(len(pairs))]


def time_step(
    experiment: Experiment, task: str, name: str, snapshot: dict[str, Any]
) -> dict[str, Any]:
    """Return the seconds of a step, and of some steps more the seconds by phase.

    A step is what training does with the generator: draws, reward, backward pass, total variance,
    training of what is learned, Adam. The discriminator's training and evaluations are left out;
    they are the same for all.

    Args:
      experiment: Settings.
      task: The task.
      name: The estimator.
      snapshot: A snapshot of the task's reference trajectory, from which the steps begin.
    """
    settings = experiment.training_for(task)
    device = experiment.device
    stage = make_stage(experiment, task, experiment.seeds[0])
    stage.load(snapshot)
    policy, reward = stage.policy, stage.reward
    method = make(name, settings.rollouts, settings.truncation, settings.staleness)
    learned = method.initial_state(policy, stream("timing state", task, name))
    rng = stream("timing", task, name, device=device)
    optimiser = Adam(policy.parameters(), lr=settings.generator_learning_rate)
    draws = settings.batch_size // method.info.group
    contexts = draws * contexts_a_draw(method, policy)
    stage.next_batch(contexts, stream("timing data", task))

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

    for _ in range(experiment.timing.warmup):
        step(reward)
    times: list[float] = []
    while len(times) < LEAST_STEPS or sum(times) < LEAST_S:
        if device != "cpu":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        step(reward)
        if device != "cpu":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    clock = Clock(device)
    with listening(clock, method, policy, reward, learned) as heard, clock.phase("update"):
        for _ in range(LEAST_STEPS):
            step(heard, clock)
    phases = {phase: seconds / LEAST_STEPS for phase, seconds in clock.seconds.items()}
    return {"seconds_per_step": statistics.median(times), "phases": phases}

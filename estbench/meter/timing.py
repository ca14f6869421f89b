"""Wall-clock of one generator step, measured on its own: serial, estimators interleaved."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from estbench import tasks
from estbench.estimators import make
from estbench.experiment import Experiment
from estbench.meter.moments import total_variance
from estbench.meter.step import measured_step
from estbench.models.build import build
from estbench.models.reward import Reward
from estbench.seeding import numpy_stream, stream

__all__ = ["timing_round"]

MIDDLE = 3  # the snapshot after half of the batches
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
    pairs = [(task, name) for task in states for name in experiment.measured]
    order = numpy_stream("timing", number).permutation(len(pairs))
    rows = []
    for index in order:
        task, name = pairs[int(index)]
        seconds = _time(experiment, task, name, states[task])
        rows.append({"task": task, "estimator": name, "seconds_per_step": seconds})
    return {"round": number, "rows": rows}


def _time(experiment: Experiment, task: str, name: str, state: dict[str, Any]) -> float:
    settings = experiment.training_for(task)
    device = experiment.device
    size = tasks.size(task, settings)
    policy, discriminator = build(
        size.vocabulary,
        size.length,
        settings.truncation,
        device,
        size.end,
        settings.discriminator,
    )
    snapshot = state["snapshots"][MIDDLE]
    policy.load_state_dict(snapshot["policy"])
    discriminator.load_state_dict(snapshot["discriminator"])
    reward = Reward(discriminator, settings.reward)
    method = make(name, rollouts=settings.rollouts, truncation=settings.truncation)
    learned = method.initial_state(policy, stream("timing state", task, name))
    rng = stream("timing", task, name, device=device)
    optimiser = torch.optim.Adam(policy.parameters(), lr=settings.generator_learning_rate)
    draws = max(1, settings.batch_size // method.info.group)
    times = []
    for i in range(experiment.timing.warmup + STEPS):
        if device != "cpu":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
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
        )
        total_variance(found)
        if device != "cpu":
            torch.cuda.synchronize(device)
        if i >= experiment.timing.warmup:
            times.append(time.perf_counter() - started)
    return statistics.median(times)

"""Measuring an estimator at the shared snapshots of a reference trajectory.

Every estimator meets the same parameters. What it learns starts from where the previous snapshot
left it, adapts on a stated number of sequences, the same for all, and is then frozen; the draws
that are measured come after.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from estbench.config.experiment import Experiment
from estbench.core.seeding import stream
from estbench.estimators import make
from estbench.estimators.base import Learned
from estbench.meter.adam import metric
from estbench.meter.contexts import contexts_a_draw
from estbench.meter.cost import declared_evaluations
from estbench.meter.gains import Gains, parameters
from estbench.meter.measuring import adapt_once, measure
from estbench.meter.moments import Reference
from estbench.meter.progress import Adam, Ground, Source, progress
from estbench.meter.sources import variance_by_step
from estbench.tasks.stage import Stage, make_stage

__all__ = ["halfway", "measure_at_snapshots"]

JUDGES = 1024  # sequences that judge steps in full; the first order is judged by many more
SOURCES_FROM = 256  # sequences; each step costs a backward pass over them


def halfway(snapshots: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the snapshot nearest to half of the batches; the first of two that are as near."""
    half = snapshots[-1]["step"] / 2
    return min(snapshots, key=lambda snapshot: abs(snapshot["step"] - half))


def measure_at_snapshots(
    experiment: Experiment, task: str, estimator: str, seed: int, state: Learned
) -> dict[str, Any]:
    """Return an estimator's measurements at the snapshots of one (task, seed).

    Args:
      experiment: Settings.
      task: Name of the task.
      estimator: Name of the estimator.
      seed: The replicate.
      state: What ``estbench.training.reference.reference`` returned as state.
    """
    settings = experiment.training_for(task)
    device = experiment.device
    stage = make_stage(experiment, task, seed)
    policy, reward = stage.policy, stage.reward
    snapshots = experiment.snapshots_for(task)
    method = make(estimator, settings.rollouts, settings.truncation, settings.staleness)
    learned = method.initial_state(policy, stream("learned", task, seed, estimator))
    rng = stream("snapshot", task, seed, estimator, device=device)
    batch = settings.batch_size // method.info.group
    evaluations = partial(declared_evaluations, method.info, policy.vocabulary, policy.length)
    rows = []
    middle = halfway(state["snapshots"])
    for snapshot in state["snapshots"]:
        stage.load(snapshot)
        data = stream("adaptation data", task, seed, snapshot["snapshot"])
        reference = Reference(
            [g.to(device) for g in snapshot["gradient"]],
            snapshot["noise"],
            metric(snapshot["optimiser"], device),
            snapshot["metric_noise"],
        )
        before = reward.hard_evals + reward.relaxed_evals
        for _ in range(snapshots.adaptation_batches):
            stage.next_batch(batch * contexts_a_draw(method, policy), data)
            adapt_once(method, policy, reward, batch, rng, learned)
        adapted = reward.hard_evals + reward.relaxed_evals - before
        stale = getattr(method, "staleness", 0)
        if stale and (older := stage.older(stale)) is not None:
            learned["past"] = [older] * stale
        with stage.measured():
            measured = measure(method, policy, reward, snapshots.sequences, rng, learned, reference)
        # Only here is variance taken apart by time step. Between contexts it would be mixed in.
        if snapshot is middle and not stage.conditional:
            measured["by_step"] = variance_by_step(
                method,
                policy,
                reward,
                min(SOURCES_FROM, snapshots.sequences),
                stream("sources", task, seed, estimator, device=device),
                learned,
            )
        if snapshot.get("progress"):
            source = Source(method, policy, reward, learned, rng, clip=settings.gradient_clip)
            measured["progress"] = _progress(experiment, task, seed, stage, source, snapshot)
        rows.append(
            {
                "snapshot": snapshot["snapshot"],
                "step": snapshot["step"],
                "fraction": snapshot["step"] / settings.batches,
                "reward_std": snapshot["reward_std"],
                "reward_scale": snapshot["reward_scale"],
                **measured,
                "adapt_evals": adapted,
                # In training each draw has a context of its own: none share an evaluation.
                "evaluations_at_one": evaluations(1),
                "evaluations_at_batch": evaluations(1 if stage.conditional else batch),
                "evaluations_in_limit": evaluations(math.inf),
            }
        )
    return {
        "snapshots": rows,
        "declared": {"unbiased": method.info.unbiased, "why_biased": method.info.why_biased},
    }


def _progress(
    experiment: Experiment,
    task: str,
    seed: int,
    stage: Stage,
    source: Source,
    snapshot: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Return what an estimator's steps gain at a snapshot; data and judges are the same for all."""
    settings, snapshots = experiment.training_for(task), experiment.snapshots_for(task)
    policy = source.policy
    key = (task, seed, snapshot["step"])

    def data(batch: int, replicate: int, draws: int) -> Tensor:
        assert policy.contexts is not None
        before = policy.contexts.values
        contexts = draws * contexts_a_draw(source.method, policy)
        stage.next_batch(contexts, stream("batches of steps", *key, batch, replicate))
        given, policy.contexts.values = policy.contexts.values, before
        return given

    rate = settings.generator_learning_rate
    adam = Adam.resumed(snapshot["optimiser"], parameters(policy), rate)
    with stage.whole():
        judges = stream("judges of steps", *key, device=experiment.device)
        gains = Gains(policy, source.reward, JUDGES, judges)
        ground = Ground.made(gains, snapshot["progress"], adam)
    return progress(
        replace(source, data=data if stage.conditional else None),
        ground,
        snapshots.progress_batches,
        snapshots.progress,
        settings.batch_size,
    )

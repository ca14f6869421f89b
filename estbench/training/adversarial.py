"""The training loop: one step of the policy by a gradient estimator, then whatever else is trained.

The batch that trains the policy is the batch whose variance is measured: its sequences are the
draws, and one backward pass gives the step's gradient and every draw's norm. Only where each draw
is conditioned on data of its own do other draws measure (see ``estbench.meter.contexts``).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from estbench.config.experiment import Experiment
from estbench.core.seeding import stream
from estbench.estimators import make
from estbench.estimators.base import Draws
from estbench.meter.contexts import within_contexts
from estbench.meter.gradients import DrawGradients
from estbench.meter.measuring import adapt_once
from estbench.meter.moments import total_variance
from estbench.meter.step import measured_step
from estbench.tasks.base import Task
from estbench.training import watching
from estbench.training.interruptions import Live, Stopwatch, returning, steps
from estbench.training.live import Fields, Unchanged
from estbench.training.session import Session, prepare

__all__ = ["train"]

Payload = dict[str, Any]

# The order of rows is a matter of code, not of parameters: now and then is often enough. That the
# draws add up to the gradient is checked at every batch.
CHECK_ROWS_EVERY = 16
VARIANCE_EVERY = 4  # batches between measurements by other draws, which cost a step's forward pass
SAMPLES = 20  # sequences kept in the record, for people to look at


def train(
    experiment: Experiment,
    task: str,
    estimator: str,
    seed: int,
    at_batch: Callable[[int, Session], None] | None = None,
    also: Mapping[str, Any] | None = None,
) -> Payload:
    """Train a task's policy with one estimator; return the curves and final metrics of the run.

    Args:
      experiment: Settings.
      task: Name of the task.
      estimator: Name of the estimator.
      seed: The replicate.
      at_batch: Called with the number of batches done, before the first and after each.
      also: What ``at_batch`` changes, by name: see ``estbench.training.live``.
    """
    session = prepare(experiment, task, seed)
    settings, policy, reward = session.settings, session.policy, session.reward
    device = experiment.device
    method = make(estimator, settings.rollouts, settings.truncation, settings.staleness)
    state = method.initial_state(policy, stream("learned", task, seed, estimator))
    rng = stream("estimator", task, seed, estimator, device=device)
    evaluation = stream("evaluation", task, seed, device=device)
    group = method.info.group
    draws = settings.batch_size // group
    data = stream("batches", task, seed)
    aside = stream("variance", task, seed, estimator, device=device)
    curves, watch = Curves(), Stopwatch()
    start: dict[str, float] = {}
    metrics: dict[str, float] = {}
    info: dict[str, float] = {}
    faults: list[str] = []
    swept: list[dict[str, float]] = []

    def first_step() -> None:
        session.stage.next_batch(draws, stream("thrown away"))
        adapt_once(method, policy, reward, draws, stream("thrown away", device=device), state)

    live = Live(
        {
            **session.live(),
            "estimator": Unchanged(method),
            "learned": state,
            "streams": {"estimator": rng, "evaluation": evaluation, "data": data, "aside": aside},
            "watch": Fields(watch, ("seconds",)),
            "curves": vars(curves),
            "payload": [start, metrics, info, faults, swept],
            "also": dict(also or {}),
        },
        complete=first_step,
        restored=lambda: tell_again(curves, watch.seconds),
    )
    for _ in steps("start", 1, live):
        start |= session.full_quality(stream("start", task, seed, device=device))
        watch.seconds = 0.0
        if at_batch:
            at_batch(0, session)
    for batch in steps("batches", settings.batches, live):
        surrogate: Draws | None = None
        if not returning():
            session.stage.next_batch(draws, data)
            variance = math.nan
            if session.stage.conditional and batch % VARIANCE_EVERY == 0:
                variance = within_contexts(method, policy, reward, draws, aside, state)
            found, surrogate, fault = measured_step(
                method,
                policy,
                reward,
                draws,
                rng,
                state,
                session.optimiser,
                check_rows=batch % CHECK_ROWS_EVERY == 0,
                clip=settings.gradient_clip,
            )
            faults += [fault] if fault else []
            metrics.clear()
            metrics |= step_metrics(found, surrogate, group, session.task)
            if session.stage.conditional:
                metrics |= variance_metrics(variance * group)
            metrics |= session.quality(evaluation)
            last = batch == settings.batches - 1
            if last or (batch + 1) % settings.evaluate_every == 0:
                metrics |= session.full_quality(evaluation)
            info.clear()
            info |= surrogate.info
        metrics |= session.after_step(surrogate)
        metrics |= info
        evals, seconds = reward.hard_evals + reward.relaxed_evals, watch.seconds
        curves.add(batch, evals, seconds, metrics)
        watching.tell(batch, evals, seconds, dict(metrics))
        if at_batch:
            at_batch(batch + 1, session)
    temperatures = sweep(settings.temperatures)
    for index in steps("temperatures", len(temperatures), live):
        t = temperatures[index]
        judged = session.quality_at(t, stream("temperature", task, seed, index, device=device))
        if judged:
            swept.append({"temperature": t, **judged})
    return {
        "steps": settings.batches,
        "start": start,
        "curves": curves.payload(),
        "final": curves.final(),
        "temperatures": swept,
        "samples": session.samples(SAMPLES, evaluation),
        "info": {
            "pretraining_loss": session.pretraining,
            "hard_evals": reward.hard_evals,
            "relaxed_evals": reward.relaxed_evals,
            "draws_per_batch": draws,
            "sequences_per_draw": group,
            "meter_fault": faults[0] if faults else "",
        },
    }


def tell_again(curves: Curves, elapsed: float) -> None:
    """Tell whoever watches of the batches before an interruption, as if it had not been."""
    began = time.time() - elapsed
    for index, (batch, evals, seconds) in enumerate(
        zip(curves.steps, curves.evals, curves.seconds, strict=True)
    ):
        metrics = {name: values[index] for name, values in curves.metrics.items()}
        watching.tell(batch, evals, seconds, metrics, at=began + seconds)


def sweep(count: int) -> list[float]:
    """Return temperatures from 1/2 to 2, evenly spaced on a logarithmic scale; 1 if only one."""
    if count < 2:
        return [1.0] * count
    return [2.0 ** (2 * i / (count - 1) - 1) for i in range(count)]


def step_metrics(
    found: DrawGradients, surrogate: Draws, group: int, task: Task
) -> dict[str, float]:
    """Return what the training batch itself says about the gradient.

    ``total_variance`` is tr Cov of a draw times its number of sequences: per sequence, so that
    groups compare. ``bias_element_variance`` is the paper's quantity, the variance over the batch
    of one element, the output bias of the token x, likewise per sequence.
    """
    metrics = {
        **variance_metrics(total_variance(found) * group),
        "mean_norm2": float(sum((m.double() ** 2).sum() for m in found.mean())),
        "reward_mean": float(surrogate.rewards.double().mean()),
    }
    if task.paper_token is not None and found.draws > 1:
        element = output_bias_draws(found)[:, task.paper_token].double()
        metrics["bias_element_variance"] = float(element.var()) * group
        metrics["log_bias_element_variance"] = _log(metrics["bias_element_variance"])
    return metrics


def variance_metrics(variance: float) -> dict[str, float]:
    """Return the variance per sequence, and its logarithm."""
    return {"total_variance": variance, "log_variance": _log(variance)}


def output_bias_draws(found: DrawGradients) -> Tensor:
    """Return every draw's gradient of the generator's output bias, ``[n, V]``."""
    return found.tensor("output.bias")


def _log(value: float) -> float:
    return math.log(value) if value > 0 else math.nan


class Curves:
    """Metrics by batch; a metric that is not evaluated at a batch is None there."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.evals: list[int] = []
        self.seconds: list[float] = []
        self.metrics: dict[str, list[float | None]] = {}

    def add(self, step: int, evals: int, seconds: float, metrics: dict[str, float]) -> None:
        """Add a batch."""
        for name in metrics:
            if name not in self.metrics:
                self.metrics[name] = [None] * len(self.steps)
        self.steps.append(step)
        self.evals.append(evals)
        self.seconds.append(seconds)
        for name, values in self.metrics.items():
            value = metrics.get(name)
            values.append(value if value is not None and math.isfinite(value) else None)

    def payload(self) -> Payload:
        """Return the curves as JSON holds them."""
        return {
            "step": self.steps,
            "reward_evals": self.evals,
            "seconds": self.seconds,
            "metrics": self.metrics,
        }

    def final(self) -> dict[str, float | None]:
        """Return each metric's last value."""
        found = {}
        for name, values in self.metrics.items():
            known = [v for v in values if v is not None]
            found[name] = known[-1] if known else None
        return found

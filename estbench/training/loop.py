"""The training loop: one step of the policy by a gradient estimator, then whatever else is trained.

The batch that trains the policy is the batch whose variance is measured: its sequences are the
draws, and one backward pass gives the step's gradient and every draw's norm. Only where each draw
is conditioned on data of its own do other draws measure (see ``estbench.meter.contexts``).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from estbench.config.experiment import Experiment
from estbench.core.seeding import stream
from estbench.estimators import make
from estbench.meter.contexts import contexts_a_draw, within_contexts
from estbench.meter.gradients import CHECK_ROWS_EVERY
from estbench.meter.measuring import adapt_once
from estbench.meter.step import measured_step
from estbench.training import watching
from estbench.training.curves import Curves, step_metrics, variance_metrics
from estbench.training.resume import Phases
from estbench.training.session import Session, make_session
from estbench.training.state_dict import Stateful, UnknownObjectError, class_name

__all__ = ["train"]

VARIANCE_EVERY = 4  # batches between measurements by other draws, which cost a step's forward pass
SAMPLES = 20  # sequences kept in the record, for people to look at

AtBatch = Callable[[int, Session], None]


def train(
    experiment: Experiment,
    task: str,
    estimator: str,
    seed: int,
    at_batch: AtBatch | None = None,
    phases: Phases | None = None,
) -> dict[str, Any]:
    """Train a task's policy with one estimator; return the curves and final metrics of the run.

    Args:
      experiment: Settings.
      task: Name of the task.
      estimator: Name of the estimator.
      seed: The replicate.
      at_batch: Called with the number of batches done, before the first and after each.
      phases: A ``Checkpoint`` that saves the run now and then, and that it goes on from.
    """
    phases = phases or Phases()
    run = phases.restored(partial(Run, experiment, task, estimator, seed, at_batch))
    run.tell_again()
    run.session.pretrain(phases)
    for _ in phases.steps("start", 1):
        phases.leave(run.session)
        run.begin()
        if at_batch:
            at_batch(0, run.session)
    for batch in phases.steps("batches", run.settings.batches):
        if not phases.within("batches"):
            run.policy_step(batch)
        run.metrics |= run.session.after_step(run.used, phases) | run.info
        run.record(batch)
        if at_batch:
            at_batch(batch + 1, run.session)
    temperatures = sweep(run.settings.temperatures)
    for index in phases.steps("temperatures", len(temperatures)):
        run.judge_at(temperatures[index], index)
    return run.payload()


class Run(Stateful):
    """One policy in training, and what was recorded of it.

    The arguments are those of ``train``; ``at_batch`` has a state of its own if it is ``Stateful``.
    """

    changing = (
        *("session", "learned", "noise", "evaluation", "data", "aside", "at_batch"),
        *("seconds", "curves", "start", "metrics", "info", "faults", "temperatures"),
    )

    def __init__(
        self,
        experiment: Experiment,
        task: str,
        estimator: str,
        seed: int,
        at_batch: AtBatch | None = None,
    ) -> None:
        self.session = make_session(experiment, task, seed)
        self.settings = self.session.settings
        self.identity, self.device = (task, seed), experiment.device
        self.estimator, self.at_batch = estimator, at_batch
        self.method = make(
            estimator, self.settings.rollouts, self.settings.truncation, self.settings.staleness
        )
        self.method_attributes = dict(vars(self.method))
        self.group = self.method.info.group
        self.draws = self.settings.batch_size // self.group
        self.contexts = self.draws * contexts_a_draw(self.method, self.session.policy)
        self.learned = self.initial_state()
        self.noise = stream("estimator", task, seed, estimator, device=self.device)
        self.aside = stream("variance", task, seed, estimator, device=self.device)
        self.evaluation = stream("evaluation", task, seed, device=self.device)
        self.data = stream("batches", task, seed)
        self.curves = Curves()
        self.start: dict[str, float] = {}
        self.metrics: dict[str, float] = {}
        self.info: dict[str, float] = {}
        self.faults: list[str] = []
        self.temperatures: list[dict[str, float]] = []
        self.used: Any = None
        self.seconds = 0.0

    @property
    def seconds(self) -> float:
        """Seconds of training so far, those of earlier processes included."""
        return time.perf_counter() - self._since

    @seconds.setter
    def seconds(self, value: float) -> None:
        self._since = time.perf_counter() - value

    @property
    def evals(self) -> int:
        """Reward evaluations so far."""
        return self.session.reward.hard_evals + self.session.reward.relaxed_evals

    def state_dict(self) -> Any:
        """Return what changes during the run.

        Raises:
          UnknownObjectError: Something in it cannot be described, or is kept in the estimator
            itself instead of in its state.
        """
        now, before = vars(self.method), self.method_attributes
        for name in sorted(now.keys() | before.keys()):
            if now.get(name, self) is not before.get(name, self):
                what = f"{class_name(self.method)}.{name}"
                raise UnknownObjectError(f"{what} changes: what is learned belongs in the state")
        for part in self.session.parts.values():
            part.zero_grad()  # every step sets their gradients, so they are not saved
        return super().state_dict()

    def complete(self) -> None:
        """Have the estimator make what only its first step makes; changes the state."""
        thrown_away = stream("thrown away")
        self.session.stage.next_batch(self.contexts, thrown_away)
        noise = stream("thrown away", device=self.device)
        policy, reward = self.session.policy, self.session.reward
        adapt_once(self.method, policy, reward, self.draws, noise, self.learned)

    def tell_again(self) -> None:
        """Tell the watcher of the batches before an interruption again."""
        began, curves = time.time() - self.seconds, self.curves
        columns = zip(curves.steps, curves.evals, curves.seconds, strict=True)
        for index, (batch, evals, seconds) in enumerate(columns):
            metrics = {name: values[index] for name, values in curves.metrics.items()}
            watching.tell(batch, evals, seconds, metrics, at=began + seconds)

    def initial_state(self) -> dict[str, Any]:
        """Return what the estimator has learned before its first step."""
        rng = stream("learned", *self.identity, self.estimator)
        return self.method.initial_state(self.session.policy, rng)

    def begin(self) -> None:
        """Evaluate the pre-trained policy, and let the estimator and the clock begin."""
        noise = stream("start", *self.identity, device=self.device)
        self.start = self.session.full_quality(noise)
        self.learned = self.initial_state()  # which may hold a copy of the policy
        self.seconds = 0.0

    def policy_step(self, batch: int) -> None:
        """Train the policy and what the estimator learns, measure the step, evaluate."""
        session, settings = self.session, self.settings
        stage, policy, reward = session.stage, session.policy, session.reward
        stage.next_batch(self.contexts, self.data)
        variance = math.nan
        if stage.conditional and batch % VARIANCE_EVERY == 0:
            variance = within_contexts(
                self.method, policy, reward, self.draws, self.aside, self.learned
            )
        gradients, self.used, fault = measured_step(
            self.method,
            policy,
            reward,
            self.draws,
            self.noise,
            self.learned,
            session.optimiser,
            check_rows=batch % CHECK_ROWS_EVERY == 0,
            clip=settings.gradient_clip,
        )
        self.faults += [fault] if fault else []
        self.info = dict(self.used.info)
        self.metrics = step_metrics(gradients, self.used, self.group, session.task)
        if stage.conditional:
            self.metrics |= variance_metrics(variance * self.group)
        self.metrics |= session.quality(self.evaluation)
        last = batch == settings.batches - 1
        if last or (batch + 1) % settings.evaluate_every == 0:
            self.metrics |= session.full_quality(self.evaluation)

    def record(self, batch: int) -> None:
        """Add the metrics of a batch to the curves, and tell the watcher."""
        evals, seconds = self.evals, self.seconds
        self.curves.add(batch, evals, seconds, self.metrics)
        watching.tell(batch, evals, seconds, dict(self.metrics))

    def judge_at(self, temperature: float, index: int) -> None:
        """Record the quality at a temperature, where it says something."""
        noise = stream("temperature", *self.identity, index, device=self.device)
        quality = self.session.quality_at(temperature, noise)
        if quality:
            self.temperatures.append({"temperature": temperature, **quality})

    def payload(self) -> dict[str, Any]:
        """Return the record of the run."""
        reward = self.session.reward
        return {
            "steps": self.settings.batches,
            "start": self.start,
            "curves": self.curves.payload(),
            "final": self.curves.final(),
            "temperatures": self.temperatures,
            "samples": self.session.samples(SAMPLES, self.evaluation),
            "info": {
                "pretraining_loss": self.session.pretraining,
                "hard_evals": reward.hard_evals,
                "relaxed_evals": reward.relaxed_evals,
                "draws_per_batch": self.draws,
                "sequences_per_draw": self.group,
                "meter_fault": self.faults[0] if self.faults else "",
            },
        }


def sweep(count: int) -> list[float]:
    """Return temperatures from 1/2 to 2, evenly spaced on a logarithmic scale; 1 if only one."""
    if count < 2:
        return [1.0] * count
    return [2.0 ** (2 * i / (count - 1) - 1) for i in range(count)]

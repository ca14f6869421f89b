"""How long a job takes: a rough guess before any has ended, what was seen afterwards."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from statistics import fmean

from estbench import tasks
from estbench.config.experiment import FRACTIONS, TrainingSettings
from estbench.runner.jobs import Job

__all__ = ["Costs", "longest_first", "prior"]


def longest_first(jobs: Iterable[Job]) -> list[Job]:
    """Return jobs so that the long ones begin first and the last worker does not work alone."""
    return sorted(jobs, key=lambda job: (-prior(job), job.seed))


def prior(job: Job) -> float:
    """Return a guess of a job's cost, in a unit of its own: tokens that pass through a network."""
    settings = job.experiment.training_for(job.task)
    snapshots = job.experiment.snapshots_for(job.task)
    length, weight = tasks.size(job.task, settings).length, _weight(job.estimator)
    if job.kind == "snapshots":
        sequences = snapshots.sequences + snapshots.adaptation_batches * settings.batch_size
        return len(FRACTIONS) * length * weight * sequences
    truth = snapshots.reference_sequences if job.kind == "reference" else 0
    return length * (_training_sequences(settings, weight) + len(FRACTIONS) * truth)


def _training_sequences(settings: TrainingSettings, weight: float) -> float:
    discriminator = 2 * settings.discriminator_updates * settings.discriminator_batch_size
    generator = weight * settings.batch_size + settings.evaluation_samples
    return settings.batches * (discriminator + generator) + (
        settings.pretrain_epochs * settings.data_size
    )


@cache
def _weight(estimator: str) -> float:
    """Relaxed rewards and what is learned cost about as much again, each."""
    from estbench import estimators

    info = estimators.info(estimator)
    return 1.0 + 2.0 * info.needs_relaxed_reward + len(info.learned)


class Costs:
    """Seconds of jobs, learnt from those that ended."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str, str], list[float]] = defaultdict(list)
        self._ratios: dict[str, list[float]] = defaultdict(list)

    def observe(self, job: Job, seconds: float) -> None:
        """Learn from a job that took ``seconds``."""
        self._seen[job.kind, job.task, job.estimator].append(seconds)
        self._ratios[job.kind].append(seconds / prior(job))

    def expected(self, job: Job) -> float | None:
        """Return the seconds that a job will take; None while nothing is known.

        The mean of the same task and estimator; else the guess, scaled by how the same kind of
        job, or else any, did against its own.
        """
        seen = self._seen.get((job.kind, job.task, job.estimator))
        if seen:
            return fmean(seen)
        ratios = self._ratios.get(job.kind) or [r for rs in self._ratios.values() for r in rs]
        return fmean(ratios) * prior(job) if ratios else None

    def left(self, jobs: Iterable[Job], workers: int) -> float | None:
        """Return the seconds that ``workers`` need for ``jobs``; None while nothing is known."""
        seconds = [self.expected(job) for job in jobs]
        known = [s for s in seconds if s is not None]
        if len(known) < len(seconds):
            return None
        return max(sum(known) / workers, max(known, default=0.0))

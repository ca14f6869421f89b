"""Checking several estimators at once, over all cores."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from estbench.core.processes import WorkerKilled, surviving
from estbench.meter.notices import Slow, relayed, sending
from estbench.proof.checking import CheckResult, Finding, Unit, collect, in_order, started, units
from estbench.proof.judging import MARGIN
from estbench.proof.memory import Memory
from estbench.proof.problems import new_seed
from estbench.proof.rules import EXCUSED, RULES, ConductFinding
from estbench.proof.setting import Make, attempt

__all__ = ["check_many"]

SUMMARY_S = 10.0  # after which a line says how things stand: a whole check takes minutes

Tell = Callable[[int, int, str], None]


def check_many(
    makes: Mapping[str, Make],
    *,
    margin: float = MARGIN,
    seed: int | None = None,
    workers: int = 1,
    plugins: Sequence[str] = (),
    tell: Tell | None = None,
    slow: Callable[[str, Slow], None] = lambda estimator, notice: None,
    note: Callable[[str], None] = lambda text: None,
) -> Iterator[tuple[str, CheckResult]]:
    """Yield the name and the result of each estimator once all of it is tried.

    The results are the same for any number of workers. What an earlier check found out is not
    tried again; see ``estbench.proof.memory``.

    Args:
      makes: What makes each, by name.
      margin: Relative bias from which on one is found or excluded; a smaller one may pass.
      seed: Of the problem that is drawn at random; a new one if None.
      workers: Processes, one thread each; nothing is tried in this one.
      plugins: Files that a worker has to load before it can make them.
      tell: Told (done, of how many, what ended) as things end.
      slow: Told (estimator, why) before draws are differentiated one by one.
      note: Told in a line of each test that fails as soon as it has failed, once how things stand
        after 10 s, and when a worker process dies. What it was trying is tried again; what kills
        its worker twice is a failed finding.
    """
    seed = new_seed() if seed is None else seed
    memories = {name: Memory(name, margin) for name in makes}
    results: dict[str, CheckResult] = {}
    every: list[Unit] = []
    work = []
    for name, make in makes.items():
        results[name], tried = _begun(name, make, margin, seed)
        every += tried
    for unit in every:
        known = memories[unit.estimator].findings.get(unit.label)
        if known is None:
            work.append(unit)
        else:
            collect(results[unit.estimator], *known)
            results[unit.estimator].remembered += 1
    left = Counter(unit.estimator for unit in work)
    for name, result in results.items():
        if not left[name]:
            yield name, in_order(result)
    done, failed, summarised, begun = len(every) - len(work), 0, False, time.monotonic()
    with relayed(slow) as address:
        for unit, finding, cpu_s in _done(work, workers, plugins, address, note):
            done += 1
            memories[unit.estimator].add(unit.label, finding, cpu_s)
            collect(results[unit.estimator], finding, cpu_s)
            if complaint := _at_once(results[unit.estimator], finding):
                failed += 1
                note(f"{unit.estimator}: {complaint}")
            if not summarised and time.monotonic() - begun > SUMMARY_S:
                summarised = True
                said = f"{failed} failed, as said above" if failed else "none failed"
                note(f"after {SUMMARY_S:.0f} s, {done} of {len(every)} tests are done: {said}")
            if tell is not None:
                tell(done, len(every), f"{unit.estimator}: {unit.label}")
            left[unit.estimator] -= 1
            if not left[unit.estimator]:
                yield unit.estimator, in_order(results[unit.estimator])


def _at_once(result: CheckResult, finding: Finding) -> str:
    """Return what a finding says against an estimator, if nothing later can excuse it."""
    excusable = isinstance(finding, ConductFinding) and finding.rule in EXCUSED
    return "" if excusable else result.complaint(finding)


def _begun(name: str, make: Make, margin: float, seed: int) -> tuple[CheckResult, list[Unit]]:
    """Return an empty result and what to try; a failed one where the estimator cannot say that."""

    def failed(why: str) -> tuple[CheckResult, list[Unit]]:
        finding = ConductFinding(next(iter(RULES)), False, why)
        return CheckResult(make().info, margin, conduct=[finding]), []

    return attempt(
        lambda: (started(make, margin, seed), units(name, make, margin, seed=seed)), failed
    )


def _done(
    work: Sequence[Unit],
    workers: int,
    plugins: Sequence[str],
    address: str,
    note: Callable[[str], None],
) -> Iterator[tuple[Unit, Finding, float]]:
    endings = surviving(
        work,
        lambda unit: partial(_one, unit, tuple(plugins), address),
        workers,
        label=lambda unit: f"{unit.estimator}: {unit.label}",
        note=note,
    )
    for unit, found in endings:
        if isinstance(found, WorkerKilled):
            yield unit, unit.failed(str(found)), 0.0
        else:
            yield unit, *found


def _one(unit: Unit, plugins: tuple[str, ...], address: str) -> tuple[Finding, float]:
    import torch

    torch.set_num_threads(1)
    if plugins:
        from estbench.core.plugins import ensure

        ensure(plugins)
    with sending(address, unit.estimator):
        return unit()

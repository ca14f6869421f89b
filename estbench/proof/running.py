"""Checking several estimators at once, over all cores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from estbench.meter.notices import Slow, relayed, sending
from estbench.processes import in_workers
from estbench.proof.checking import CheckResult, Make, Unit, collect, in_order, started, units
from estbench.proof.judging import MARGIN
from estbench.proof.memory import Memory

__all__ = ["check_many"]

Tell = Callable[[int, int, str], None]


def check_many(
    makes: Mapping[str, Make],
    *,
    margin: float = MARGIN,
    workers: int = 1,
    plugins: Sequence[str] = (),
    tell: Tell | None = None,
    slow: Callable[[str, Slow], None] = lambda estimator, notice: None,
) -> Iterator[tuple[str, CheckResult]]:
    """Yield the name and the result of each estimator once all of it is tried.

    The results are the same for any number of workers. What an earlier check found out is not
    tried again; see ``estbench.proof.memory``.

    Args:
      makes: What makes each, by name.
      margin: Relative bias below which one passes.
      workers: Processes, one thread each; 1 works in this process.
      plugins: Files that a worker has to load before it can make them.
      tell: Told (done, of how many, what ended) as things end.
      slow: Told (estimator, why) before draws are differentiated one by one.
    """
    results = {name: started(make, margin) for name, make in makes.items()}
    memories = {name: Memory(name, margin) for name in makes}
    every = [unit for name, make in makes.items() for unit in units(name, make, margin)]
    work = []
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
    done = len(every) - len(work)
    with relayed(slow) as address:
        for unit, finding, cpu_s in _done(work, workers, plugins, address):
            done += 1
            memories[unit.estimator].add(unit.label, finding, cpu_s)
            collect(results[unit.estimator], finding, cpu_s)
            if tell is not None:
                tell(done, len(every), f"{unit.estimator}: {unit.label}")
            left[unit.estimator] -= 1
            if not left[unit.estimator]:
                yield unit.estimator, in_order(results[unit.estimator])


def _done(
    work: Sequence[Unit], workers: int, plugins: Sequence[str], address: str
) -> Iterator[tuple[Unit, Any, float]]:
    from joblib import delayed

    if workers == 1:
        for unit in work:
            with sending(address, unit.estimator):
                found = unit()
            yield unit, *found
        return
    calls = (delayed(_one)(index, unit, tuple(plugins), address) for index, unit in enumerate(work))
    for index, finding, cpu_s in in_workers(calls, workers):
        yield work[index], finding, cpu_s


def _one(index: int, unit: Unit, plugins: tuple[str, ...], address: str) -> tuple[int, Any, float]:
    import torch

    torch.set_num_threads(1)
    if plugins:
        from estbench.plugins import ensure

        ensure(plugins)
    with sending(address, unit.estimator):
        return index, *unit()

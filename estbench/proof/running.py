"""Checking several estimators at once, over all cores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from estbench.meter.notices import Slow, relayed, sending
from estbench.processes import workers as worker_processes
from estbench.proof.checking import CheckResult, Make, Unit, collect, in_order, started, units
from estbench.proof.judging import MARGIN

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
) -> list[CheckResult]:
    """Return a result for each estimator, in their order; the same for any number of workers.

    Args:
      makes: What makes each, by name.
      margin: Relative bias below which one passes.
      workers: Processes, one thread each; 1 works in this process.
      plugins: Files that a worker has to load before it can make them.
      tell: Told (done, of how many, what ended) as things end.
      slow: Told (estimator, why) before draws are differentiated one by one.
    """
    results = {name: started(make, margin) for name, make in makes.items()}
    work = [unit for name, make in makes.items() for unit in units(name, make, margin)]
    with relayed(slow) as address:
        units_done = _done(work, workers, plugins, address)
        for done, (unit, finding, seconds) in enumerate(units_done, start=1):
            collect(results[unit.estimator], finding, seconds)
            if tell is not None:
                tell(done, len(work), f"{unit.estimator}: {unit.label}")
    return [in_order(result) for result in results.values()]


def _done(work: Sequence[Unit], workers: int, plugins: Sequence[str], address: str) -> Any:
    from joblib import Parallel, delayed

    if workers == 1:
        for unit in work:
            with sending(address, unit.estimator):
                found = unit()
            yield unit, *found
        return
    with worker_processes():
        parallel = Parallel(n_jobs=workers, return_as="generator_unordered", batch_size=1)
        for index, finding, seconds in parallel(
            delayed(_one)(index, unit, tuple(plugins), address) for index, unit in enumerate(work)
        ):
            yield work[index], finding, seconds


def _one(index: int, unit: Unit, plugins: tuple[str, ...], address: str) -> tuple[int, Any, float]:
    import torch

    torch.set_num_threads(1)
    if plugins:
        from estbench.plugins import ensure

        ensure(plugins)
    with sending(address, unit.estimator):
        return index, *unit()

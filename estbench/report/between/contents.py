"""What only one of two sets holds, and what ended well in one and not in the other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from estbench.report.between.sides import Side
from estbench.report.data.order import estimator_order, task_order

__all__ = ["Changed", "Only", "changed_failures", "changed_proofs", "only", "ranges", "said"]

KINDS = ("training runs", "measurements", "timing")


@dataclass(frozen=True)
class Only:
    """What one set holds and the other does not.

    Attributes:
      side: "A" or "B".
      what: "task", "training runs", "measurements" or "timing".
      task: The task.
      estimator: The estimator; "" for a whole task.
      seeds: The seeds; empty for a whole task and for timing.
    """

    side: str
    what: str
    task: str
    estimator: str = ""
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Changed:
    """Something that was well in one set and is not in the other.

    Attributes:
      what: What it is, in words.
      a: How it stands in A.
      b: How it stands in B.
      worse: Whether it is B that is worse.
    """

    what: str
    a: str
    b: str
    worse: bool


def only(a: Side, b: Side) -> Iterator[Only]:
    """Yield what only one of the sets holds, A's first; a missing task is said once."""
    here, there = _held(a), _held(b)
    for side, own, other, tasks in (
        ("A", here, there, b.results.tasks),
        ("B", there, here, a.results.tasks),
    ):
        whole = set()
        for (kind, task, estimator), seeds in own.items():
            if task not in tasks:
                if task not in whole:
                    yield Only(side, "task", task)
                whole.add(task)
            elif (kind, task, estimator) not in other:
                yield Only(side, kind, task, estimator, tuple(sorted(seeds - {-1})))
            elif missing := seeds - other[kind, task, estimator]:
                yield Only(side, kind, task, estimator, tuple(sorted(missing)))


def changed_failures(a: Side, b: Side) -> Iterator[Changed]:
    """Yield the records that finished in one set and failed in the other."""
    words = {"run": "training run", "reference": "reference", "snapshots": "measurement"}
    for where in sorted(a.records.keys() & b.records.keys()):
        kind, task, estimator, seed = where
        here, there = a.records[where].failed, b.records[where].failed
        if here != there:
            what = f"{words.get(kind, kind)} of {estimator} on {task}, seed {seed}"
            yield Changed(what, "failed" if here else "ok", "failed" if there else "ok", there)


def changed_proofs(a: Side, b: Side) -> Iterator[Changed]:
    """Yield the estimators that were proven unbiased in one set and not in the other."""
    for name in sorted(a.proofs.keys() & b.proofs.keys(), key=estimator_order):
        here, there = a.proofs[name][0], b.proofs[name][0]
        if here != there:
            # Not to be proven is no loss where it was not proven before either.
            yield Changed(f"proof of {name}", here, there, here == "unbiased")


def said(entries: Iterable[Only]) -> Iterator[str]:
    """Yield what only one set holds as text; estimators that lack the same share a line."""
    groups: dict[tuple[str, str, str, tuple[int, ...]], list[str]] = defaultdict(list)
    for entry in entries:
        groups[entry.side, entry.what, entry.task, entry.seeds].append(entry.estimator)
    for (side, what, task, seeds), estimators in groups.items():
        if what == "task":
            yield f"{side}: the task {task}"
            continue
        where = f"{what} on {task}" + (f", seeds {ranges(seeds)}" if seeds else "")
        yield f"{side}: {where}: {', '.join(estimators)}"


def ranges(seeds: Iterable[int]) -> str:
    """Return seeds in few characters: "0-4, 7"."""
    numbered = enumerate(sorted(seeds))
    runs = [[seed for _, seed in group] for _, group in groupby(numbered, lambda p: p[1] - p[0])]
    return ", ".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else str(r[0]) for r in runs)


def _held(side: Side) -> dict[tuple[str, str, str], set[int]]:
    """Return the seeds of everything a set holds, failed or not; -1 stands for timing."""
    found: dict[tuple[str, str, str], set[int]] = defaultdict(set)
    # What is missing, or does not fit a task, is a row of the frames and no record.
    runs, variance = (
        frame[frame["status"].isin(["ok", "failed"])]
        for frame in (side.results.runs, side.results.variance)
    )
    for kind, frame in zip(KINDS, (runs, variance, side.results.timing), strict=True):
        seeds = frame["seed"] if "seed" in frame.columns else [-1] * len(frame)
        for task, estimator, seed in zip(frame["task"], frame["estimator"], seeds, strict=True):
            found[kind, str(task), str(estimator)].add(int(seed))
    order = sorted(
        found, key=lambda k: (task_order(k[1]), KINDS.index(k[0]), estimator_order(k[2]))
    )
    return {where: found[where] for where in order}

"""What result sets of 100, 1,000 and 10,000 training runs cost to report on, hash and look through.

``python benchmarks/many_runs.py`` makes the sets, in a temporary folder, and prints a table. Their
records are those of a small real set (made first, in a minute or two: the preset ``smoke`` with
curves as long as those of ``bench``), every number of which is moved a little, differently in every
run; their keys are real, so that ``estbench run`` takes them for its own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from estbench import estimators, runner
from estbench.config import presets
from estbench.config.experiment import Experiment
from estbench.runner.environment import worker_count
from estbench.runner.manifest import manifest
from estbench.store import REFERENCE_ESTIMATOR, ResultSet, encode, key, timing_key
from estbench.tasks.fit import refusals

__all__ = ["SIZES", "Cost", "cost", "donor", "grid", "main", "simulate"]

TASKS = ("expressions-3", "expressions-15", "expressions-padded", "oracle-small", "bernoullis")
DONORS = ("reinforce", "rloo", "rebar", "relax")
CHANGES: dict[str, Any] = {
    "name": "many-runs",
    "tasks": list(TASKS),
    "estimators": list(DONORS),
    "also_measured": [],
    "seeds": 2,
    "training": {"batches": 40, "evaluate_every": 10},  # those of bench
}
# Runs -> tasks, estimators and seeds; "wide" is the whole catalogue.
SIZES: dict[str, tuple[int, int, int]] = {
    "100": (5, 5, 4),
    "1000": (5, 20, 10),
    "10000": (5, 20, 100),
    "wide": (4, 71, 10),
}
SPREAD = 0.05  # of a run's numbers about those of its estimator, on the scale of logarithms
BETWEEN = 0.3  # of estimators about their donor


@dataclass(frozen=True)
class Cost:
    """What a command took: seconds of the clock and of processors, and its resident peak in MiB."""

    wall_s: float
    cpu_s: float
    peak_mib: float


def donor(folder: Path, tasks: Sequence[str] = TASKS) -> None:
    """Make the small real set, where it is not there yet."""
    runner.run_experiment(
        presets.preset("smoke", CHANGES | {"tasks": list(tasks)}),
        folder,
        workers=worker_count(),
        command="python benchmarks/many_runs.py",
        display=runner.display_for(),
    )


def grid(tasks: Sequence[str], names: int, seeds: int) -> Experiment:
    """Return an experiment of so many estimators, the donors first, and seeds."""
    others = [name for name in estimators.names() if name not in DONORS]
    named = [*DONORS, *others][:names]
    return presets.preset(
        "smoke", CHANGES | {"tasks": list(tasks), "estimators": named, "seeds": seeds}
    )


def simulate(experiment: Experiment, donated: Path, folder: Path) -> int:
    """Write a result set whose records are those of ``donated``, moved; return how many runs."""
    before, results = ResultSet(donated), ResultSet(folder)
    unfit, runs = refusals(experiment), 0
    for task in experiment.tasks:
        fitting = [name for name in experiment.estimators if name not in unfit.get(task, {})]
        for name in fitting:
            model = DONORS[experiment.estimators.index(name) % len(DONORS)]
            for seed in experiment.seeds:
                for kind in ("run", "snapshots"):
                    source = before.record_path(kind, task, model, seed % 2)
                    path = results.record_path(kind, task, name, seed)
                    _move(source, path, key(kind, experiment, task, name, seed), name, seed)
                runs += 1
        for seed in experiment.seeds:
            source, path = before.reference_path(task, seed % 2), results.reference_path(task, seed)
            identity = key("reference", experiment, task, REFERENCE_ESTIMATOR, seed)
            _move(source, path, identity, REFERENCE_ESTIMATOR, seed)
    for index in range(experiment.timing.rounds):
        _write(results.timing_path(index), _round(before, experiment, index))
    results.write_manifest(manifest(experiment, "python benchmarks/many_runs.py"))
    return runs


def cost(*words: str) -> Cost:
    """Run ``python -m estbench`` with these words to its end, and return what it took.

    Raises:
      RuntimeError: It failed; holds what it said.
    """
    with tempfile.TemporaryFile("w+") as said:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "estbench", *words],
            stdout=subprocess.DEVNULL,
            stderr=said,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        _, status, used = os.wait4(process.pid, 0)  # alone tells what one child used
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"{' '.join(words)}: {said.read()[-2000:]}")
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return Cost(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / unit)


def main(argv: Sequence[str] | None = None) -> None:
    """Make the sets that were asked for, and print what each verb takes on them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("sizes", nargs="*", default=["100", "1000", "10000"], metavar="SIZE")
    parser.add_argument("--out", type=Path, help="keep the sets in this folder")
    given = parser.parse_args(argv)
    for size in given.sizes:
        if size not in SIZES:
            parser.error(f"no size {size}; one of: {', '.join(SIZES)}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.out or Path(temporary)
        donor(folder / "donor")
        print(f"{'set':>8} {'runs':>7}  {'command':<12} {'wall s':>8} {'CPU s':>8} {'MiB':>7}")
        for size in given.sizes:
            tasks, names, seeds = SIZES[size]
            path, experiment = folder / size, grid(TASKS[:tasks], names, seeds)
            runs = simulate(experiment, folder / "donor", path)
            for command, words in _commands(path, experiment):
                took = cost(*words)
                print(
                    f"{size:>8} {runs:>7}  {command:<12} {took.wall_s:>8.1f} {took.cpu_s:>8.1f} "
                    f"{took.peak_mib:>7.0f}",
                    flush=True,
                )
            page = (path / "report.html").stat().st_size / 1e6
            print(f"{size:>8} {runs:>7}  report.html: {page:.2f} MB", flush=True)


def _commands(path: Path, experiment: Experiment) -> Iterator[tuple[str, list[str]]]:
    """Yield what is timed: the report, the hash, and a run that finds everything done."""
    yield "report", ["report", str(path)]
    yield "env --hash", ["env", "--hash", str(path)]
    # After the report, so that there is nothing to do but to find that out.
    file = path.with_suffix(".toml")
    file.write_text(
        f'preset = "smoke"\nname = "many-runs"\ntasks = {json.dumps(experiment.tasks)}\n'
        f"estimators = {json.dumps(experiment.estimators)}\nalso_measured = []\n"
        f"seeds = {len(experiment.seeds)}\n[training]\n"
        + "".join(f"{name} = {value}\n" for name, value in CHANGES["training"].items())
    )
    yield "run (done)", ["run", str(file), "--out", str(path)]


def _move(source: Path, path: Path, identity: str, estimator: str, seed: int) -> None:
    """Write a donor's record as that of another estimator and seed."""
    record = json.loads(source.read_bytes())
    record |= {"key": identity, "estimator": estimator, "seed": seed}
    kind, task = record["kind"], record["task"]
    # A reference and rloo's run are one training.
    which = "run" if kind == "reference" else kind
    shift = random.Random(f"{which} {task} {estimator}").gauss(0.0, BETWEEN)
    noise = random.Random(f"{which} {task} {estimator} {seed}")
    numbers = ("start", "curves", "final", "temperatures", "snapshots")
    moved = {k: _moved(v, shift, noise) for k, v in record.items() if k in numbers}
    _write(path, record | moved)


def _moved(value: Any, shift: float, noise: random.Random) -> Any:
    """Return a payload with its real numbers moved; counts and steps stay, shares stay shares."""
    if isinstance(value, float):
        by = 2.718281828 ** (0.1 * shift + noise.gauss(0.0, SPREAD))
        return value**by if 0.0 < value < 1.0 else value * by
    if isinstance(value, dict):
        return {k: v if k == "seconds" else _moved(v, shift, noise) for k, v in value.items()}
    if isinstance(value, list):
        return [_moved(entry, shift, noise) for entry in value]
    return value


def _round(before: ResultSet, experiment: Experiment, index: int) -> dict[str, Any]:
    """Return a timing round of the grid, from one of the donor's."""
    record = json.loads(before.timing_path(index % 2).read_bytes())
    rows = {(row["task"], row["estimator"]): row for row in record["rows"]}
    made = []
    for task in experiment.tasks:
        for place, name in enumerate(experiment.estimators):
            row = rows[task, DONORS[place % len(DONORS)]]
            noise = random.Random(f"{task} {name} {index}")
            made.append(_moved(row, 1.0, noise) | {"estimator": name})
    held = {"tasks": list(experiment.tasks), "estimators": list(experiment.measured)}
    return record | {"key": timing_key(experiment), "rows": made} | held


def _write(path: Path, record: dict[str, Any]) -> None:
    """Write a record; nothing is flushed to the disk, for it can be made again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(record))


if __name__ == "__main__":
    main()

"""How long idle threads should spin: what each setting costs, on a quiet machine and on a busy one.

``python benchmarks/idle_threads.py`` measures three pieces of work on all cores, in a fresh process
for every setting (libgomp reads it once, when torch is loaded), in interleaved rounds, alone and
beside one process that never sleeps, and prints the medians. Leave the machine alone meanwhile.
``--settings 0,1000 --rounds 1 --work product`` is quick.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
SETTINGS = ("default", "passive", "0", "1000", "10000", "100000", "1000000")
WORK = {"product": "256^3 product, ms", "sample": "10,000 sequences, s", "step": "full step, s"}
PRODUCTS_S = 2.0  # seconds of products; their mean counts, for it is a few that wait long


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every setting and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--settings", default=",".join(SETTINGS), help="spin counts, or words")
    parser.add_argument("--work", default=",".join(WORK), help="what to measure")
    parser.add_argument(
        "--only-busy", action="store_true", help="for a machine that is never quiet"
    )
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # what a fresh process is asked
    given = parser.parse_args(argv)
    if given.measure:
        print(json.dumps(measure(given.measure.split(","))))
        return
    work = given.work.split(",")
    machines = ["busy"] if given.only_busy else ["quiet", "busy"]
    settings = given.settings.split(",")
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for index in range(given.rounds):
        for machine in machines:
            with a_busy_process() if machine == "busy" else nullcontext():
                for setting in settings:
                    seconds = in_a_fresh_process(setting, work)
                    found.setdefault((machine, setting), []).append(seconds)
                    print(index, machine, setting, seconds, file=sys.stderr, flush=True)
    print(f"load of the machine at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(
        "setting".ljust(10) + "".join(f"{m}: {WORK[w]}".rjust(28) for w in work for m in machines)
    )
    for setting in settings:
        cells = [
            statistics.median(one[w] for one in found[m, setting]) for w in work for m in machines
        ]
        print(setting.ljust(10) + "".join(f"{cell:28.3f}" for cell in cells))


def in_a_fresh_process(setting: str, work: Sequence[str]) -> dict[str, float]:
    """Return the time of each piece of work under a setting."""
    hidden = (*VARIABLES, "OMP_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    if setting == "passive":
        environment["OMP_WAIT_POLICY"] = "passive"
    elif setting != "default":
        environment["GOMP_SPINCOUNT"] = setting
    words = [sys.executable, __file__, "--measure", ",".join(work)]
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    return json.loads(ended.stdout)  # type: ignore[no-any-return]


def measure(work: Sequence[str]) -> dict[str, float]:
    """Do each piece of work in this process; return its milliseconds or seconds."""
    import torch  # before estbench, which would choose a setting

    found = {}
    if "product" in work:
        a, b = torch.randn(2, 256, 256)
        found["product"] = 1e3 * mean_seconds(lambda: torch.mm(a, b))
    if not set(work) - {"product"}:
        return found
    from test_full_size import BATCH, ROLLOUTS, THREADS, T, V, generator, step

    torch.set_num_threads(THREADS)
    if "sample" in work:
        policy, noise = generator(), torch.Generator().manual_seed(0)
        policy.sample(1000, noise)
        found["sample"] = seconds_of(lambda: policy.sample(10_000, noise))
    if "step" in work:
        run = step("seqgan-rollouts", V, T, BATCH, ROLLOUTS)
        run()
        found["step"] = seconds_of(run)
    return found


def mean_seconds(work: Callable[[], object]) -> float:
    for _ in range(20):
        work()
    count, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < PRODUCTS_S:
        work()
        count += 1
    return passed / count


def seconds_of(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@contextmanager
def a_busy_process() -> Iterator[None]:
    """Have one process beside us that never sleeps; it ends when we do, however we end."""
    code = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"
    busy = subprocess.Popen([sys.executable, "-c", code])
    try:
        yield
    finally:
        busy.kill()
        busy.wait()


if __name__ == "__main__":
    main()

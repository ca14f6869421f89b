"""What it takes to start: ``estbench list``, a worker, the first optimiser, each with its old way.

``python benchmarks/startup.py`` runs every way in a fresh process, in interleaved rounds, and
prints medians. CPU seconds are little disturbed by other work on the machine; the clock's are.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

LIST = "from estbench.cli import main; main(['list', 'estimators'])"
WAYS = {
    "python": "",
    "estbench --help": "from estbench.cli import main; main(['--help'])",
    "list estimators, by the registry": f"import estbench.estimators; {LIST}",
    "list estimators": LIST,
    "torch": "import torch",
    "torch and torch.optim.Adam": "import torch; torch.optim.Adam([torch.zeros(1)])",
    "torch and estbench's Adam": (
        "import torch; from estbench.models.adam import Adam; Adam([torch.zeros(1)])"
    ),
    "a worker with torch.optim.Adam": (
        "import torch; from estbench.runner.jobs import warm_up; warm_up(); "
        "torch.optim.Adam([torch.zeros(1)])"
    ),
    "a worker": "from estbench.runner.jobs import warm_up; warm_up()",
}
AT_THE_END = """
import json, resource, sys
used = resource.getrusage(resource.RUSAGE_SELF)
peak = used.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
print(json.dumps([used.ru_utime + used.ru_stime, peak, len(sys.modules)]))
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every way and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args(argv)
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in WAYS}
    for _ in range(given.rounds):
        for name, code in WAYS.items():
            found[name].append(cost(code))
    width = max(map(len, WAYS))
    print("".ljust(width), "CPU s".rjust(8), "clock s".rjust(8), "MiB".rjust(6), "modules".rjust(8))
    for name, rounds in found.items():
        cpu, clock, peak, modules = map(statistics.median, zip(*rounds, strict=True))
        print(f"{name.ljust(width)} {cpu:8.2f} {clock:8.2f} {peak:6.0f} {modules:8.0f}")


def cost(code: str) -> tuple[float, ...]:
    """Return seconds of processors and of the clock, peak MiB and modules of a fresh process."""
    start = time.perf_counter()
    words = [sys.executable, "-c", code + AT_THE_END]
    ended = subprocess.run(words, capture_output=True, text=True, check=True)
    clock = time.perf_counter() - start
    cpu, peak, modules = json.loads(ended.stdout.splitlines()[-1])
    return cpu, clock, peak, modules


if __name__ == "__main__":
    main()

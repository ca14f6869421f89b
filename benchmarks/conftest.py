"""What the benchmarks share: one table, the paper's sizes, and models that have learned a little.

Absolute seconds depend on the machine; compare rows of one run.
"""

from __future__ import annotations

import gc
import itertools
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
import torch

from estbench import tasks
from estbench.core.allocator import keep_freed, return_freed
from estbench.core.seeding import stream
from estbench.estimators.base import Estimator
from estbench.meter.moments import total_variance
from estbench.meter.step import measured_step
from estbench.models.build import build
from estbench.models.lstm_discriminator import LSTMDiscriminator
from estbench.models.lstm_generator import Generator
from estbench.models.policy import Policy
from estbench.models.reward import FunctionReward, Reward
from estbench.training.discriminator import train_discriminator
from estbench.training.pretraining import pretrain

BATCH = 128


@dataclass(frozen=True)
class Rates:
    """What this machine reaches, on as many threads as the session started with.

    Attributes:
      threads: How many.
      mm: ``torch.mm`` of float32, flop/s.
      conv: oneDNN's convolution of width 1 of float32, flop/s.
      exp2: Elements a second.
    """

    threads: int
    mm: float
    conv: float
    exp2: float

    @property
    def flops(self) -> float:
        """The better of the two matrix products, flop/s."""
        return max(self.mm, self.conv)


def best_seconds(work: Callable[[], object], rounds: int = 15) -> float:
    """Return the shortest of some runs: other programs only ever add to it."""
    work()
    seconds = []
    for _ in range(rounds):
        start = perf_counter()
        work()
        seconds.append(perf_counter() - start)
    return min(seconds)


THREADS = torch.get_num_threads()
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
clock = perf_counter if DEVICE == "cuda" else time.process_time
PATIENCE = 10.0  # seconds; what takes longer is run once, and its memory is not measured

Work = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
      work: What was done.
      way: By whom or how.
      seconds: Median; of CPU time, unless there is a GPU.
      megabytes: Peak of one call above what the process held before it, or nan.
      bound: Seconds that the operations as defined would take at this machine's rates, or nan.
      times: ``seconds`` as a multiple of estbench's.
    """

    work: str
    way: str
    seconds: float
    megabytes: float
    bound: float = math.nan
    times: float = math.nan


@dataclass
class Table:
    """What ``make speed`` prints at the end.

    Attributes:
      rows: Its lines.
      growth: Seconds of a step by what was varied and to which value.
    """

    rows: list[Row] = field(default_factory=list)
    growth: dict[str, dict[int, float]] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """Yield the table in Markdown, and a line of exponents for each thing that was varied."""
        yield "| work | | seconds | to estbench | MB | bound, seconds | times the bound |"
        yield "|---|---|---|---|---|---|---|"
        for row in self.rows:
            cells = [row.work, row.way, _number(row.seconds), _number(row.times)]
            cells += [_number(row.megabytes), _number(row.bound), _number(row.seconds / row.bound)]
            yield "| " + " | ".join(cells) + " |"
        for name, seconds in self.growth.items():
            pairs = itertools.pairwise(sorted(seconds.items()))
            slopes = [
                f"{math.log(after / before) / math.log(high / low):.2f} from {low:,} to {high:,}"
                for (low, before), (high, after) in pairs
            ]
            yield f"growth with {name}, exponent: " + ", ".join(slopes)


def _number(value: float) -> str:
    """Return two digits, or more where there are more before the point; "" for nan."""
    if math.isnan(value):
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}" if value < 10 else f"{value:.0f}"


TABLE = pytest.StashKey[Table]()


def pytest_configure(config: pytest.Config) -> None:
    """Make the table, and let this process keep freed memory as a worker of ``run`` does."""
    keep_freed()
    config.stash[TABLE] = Table()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the table, if anything was timed."""
    table = config.stash[TABLE]
    if table.rows or table.growth:
        seconds = "seconds on the GPU's clock" if DEVICE == "cuda" else "CPU seconds"
        terminalreporter.write_line(f"Medians, {seconds}; threads: {THREADS}")
        for line in table.lines():
            terminalreporter.write_line(line)


def synchronised(work: Work) -> Callable[[], None]:
    """Return work that waits for the device before it says that it has ended."""

    def run() -> None:
        work()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    return run


def seconds_of(work: Work) -> float:
    """Return what one call takes."""
    start = clock()
    work()
    return clock() - start


def peak_megabytes(work: Work) -> float:
    """Return how far memory rises above what was held before a call; nan where nothing tells."""
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not sys.platform.startswith("linux"):
        return math.nan

    def kilobytes(field: str) -> int:
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field))

    gc.collect()
    return_freed()  # what is kept for later would hide what is needed
    try:
        clear.write_text("5", encoding="ascii")  # the peak begins anew
        before = kilobytes("VmRSS")
        work()
        return (kilobytes("VmHWM") - before) / 1e3
    except OSError:
        return math.nan
    finally:
        keep_freed()


def step_of(
    method: Estimator, policy: Policy, reward: Reward | FunctionReward, batch: int, clip: float = 0
) -> Callable[[], None]:
    """Return a generator step: draws, rewards, gradients, their variance, what is learned, Adam.

    It checks nothing but that the meter had no fault.
    """
    state = method.initial_state(policy, torch.Generator(policy.device).manual_seed(0))
    optimiser = torch.optim.Adam(policy.parameters(), lr=1e-3, fused=True)
    rng = torch.Generator(policy.device).manual_seed(1)
    draws = batch // method.info.group

    def run() -> None:
        found, _, fault = measured_step(
            method, policy, reward, draws, rng, state, optimiser, check_rows=False, clip=clip
        )
        assert not fault
        total_variance(found)

    return run


class Beside:
    """Times one piece of work in several ways, a round of each in turn, and adds rows to the table.

    Args:
      benchmark: pytest-benchmark's; keeps the times of our own way.
      rates: The machine's.
      table: Where the rows go.
    """

    def __init__(self, benchmark: Any, rates: Rates, table: Table) -> None:
        self.benchmark, self.rates, self.table = benchmark, rates, table

    def __call__(
        self,
        work: str,
        ours: Work,
        others: Mapping[str, Work] | None = None,
        *,
        flop: float = math.nan,
        exponentials: float = 0.0,
        rounds: int = 5,
    ) -> float:
        """Return our own median.

        Args:
          work: What is done.
          ours: estbench's way.
          others: Other ways of the same work, by name.
          flop: Operations of its matrix products and convolutions as they are defined.
          exponentials: Exponentials beside them.
          rounds: Of each way.
        """
        ours = synchronised(ours)
        ways = {name: synchronised(other) for name, other in (others or {}).items()}
        ours()
        first = {name: seconds_of(other) for name, other in ways.items()}  # and warms it up
        quick = [name for name in ways if first[name] < PATIENCE]
        seconds: dict[str, list[float]] = {name: [] for name in quick}

        def in_turn() -> None:
            for name in quick:
                seconds[name].append(seconds_of(ways[name]))

        self.benchmark.group = work
        mine: list[float] = []
        self.benchmark.pedantic(lambda: mine.append(seconds_of(ours)), setup=in_turn, rounds=rounds)
        median = statistics.median(mine)
        bound = flop / self.rates.flops + exponentials / self.rates.exp2
        peak = peak_megabytes(ours) if median < PATIENCE else math.nan
        self.table.rows.append(Row(work, "estbench", median, peak, bound))
        for name, other in ways.items():
            theirs = statistics.median(seconds[name]) if name in quick else first[name]
            peak = peak_megabytes(other) if name in quick else math.nan
            self.table.rows.append(Row(work, name, theirs, peak, times=theirs / median))
        return median


@pytest.fixture
def table(request: pytest.FixtureRequest) -> Table:
    """Return the session's table."""
    return request.config.stash[TABLE]


@pytest.fixture
def beside(benchmark: Any, rates: Rates, table: Table) -> Beside:
    """Return what times work and adds it to the table."""
    return Beside(benchmark, rates, table)


@pytest.fixture(scope="session")
def rates() -> Rates:
    """Measure the machine's limits, which bounds are computed from."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    size = 2048
    flop = 2 * size**3
    with torch.inference_mode():
        a, b = torch.randn(2, size, size)
        image, kernel = a.t()[None, :, None], b[:, :, None, None]
        line = torch.rand(1 << 16)  # stays in cache
        out = torch.empty_like(line)
        measured = Rates(
            THREADS,
            flop / best_seconds(lambda: torch.mm(a, b)),
            flop / best_seconds(lambda: torch.nn.functional.conv2d(image, kernel)),
            len(line) / best_seconds(lambda: torch.exp2(line, out=out), 200),
        )
    torch.set_num_threads(before)
    return measured


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small models are faster on one thread, and a run has one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def learned() -> dict[int, tuple[Generator, LSTMDiscriminator]]:
    """Return, for T = 3 and 15, a pre-trained generator and a discriminator that can tell."""
    found = {}
    for length in (3, 15):
        name = f"expressions-{length}"
        task = tasks.make(name, 0)
        policy, discriminator = build(task.vocabulary, task.length)
        policy.initialise(*task.initialisation, stream("generator", name, 0))
        discriminator.initialise(stream("discriminator", name, 0))
        pretrain(policy, task.train, 2, BATCH, 1e-3, stream("pretraining", name, 0))
        optimiser = torch.optim.Adam(discriminator.parameters(), lr=1e-3, fused=True)
        fake = policy.sample(80 * BATCH, stream("fakes", name, 0))
        train_discriminator(
            discriminator, optimiser, task.train, fake, 80, BATCH, stream("order", name, 0)
        )
        found[length] = (policy, discriminator)
    return found


@pytest.fixture
def setting(
    learned: dict[int, tuple[Generator, LSTMDiscriminator]], request: pytest.FixtureRequest
) -> tuple[Generator, Reward]:
    """Return the generator and the reward for the requested length, fresh copies."""
    policy, discriminator = learned[request.param]
    copy, other = build(policy.vocabulary, policy.length)
    copy.load_state_dict(policy.state_dict())
    other.load_state_dict(discriminator.state_dict())
    return copy, Reward(other, "p")

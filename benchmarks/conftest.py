"""What the benchmarks share: the paper's sizes, one thread, and models that have learned a little.

Absolute seconds depend on the machine; compare rows of one run. Figures of other implementations
are printed beside ours as context; they were measured on another machine of two cores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter

import pytest
import torch

from estbench import tasks
from estbench.core.seeding import stream
from estbench.models.build import build
from estbench.models.lstm_discriminator import LSTMDiscriminator
from estbench.models.lstm_generator import Generator
from estbench.models.reward import Reward
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
